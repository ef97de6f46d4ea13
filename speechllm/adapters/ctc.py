"""CTC compression: frames that a CTC head labels alike become one position (spec §6; Gaido et al. 2021)."""

from typing import Any, ClassVar, Literal

from torch import Tensor, nn

from speechllm.adapters.ctc_loss import ctc_losses
from speechllm.adapters.runs import STRATEGIES, pool_runs
from speechllm.adapters.two_stage import TwoStageAdapter
from speechllm.batch import AdapterOutput, lengths_to_mask
from speechllm.errors import UserError
from speechllm.registry import ADAPTERS

# Shape legend beyond batch.py: D adapter width, R runs of equal labels, at most F.


@ADAPTERS.register("ctc")
class CTCAdapter(TwoStageAdapter):
    """BERT layers around a CTC head that pools each run of equally labelled frames into one position.

    The head learns the source-language transcript in the LLM's own tokens, with the blank as an extra, last label. The
    pooling weights carry no gradient, the pooled frames do (spec §6.2).

    Args:
        in_dim: Encoder width E.
        out_dim: LLM width H.
        vocab_size: Vocabulary size V of the LLM's tokenizer.
        layers: BERT layers in all, half of them before the compression.
        dim: Width of the layers.
        heads: Attention heads; they divide ``dim``.
        dropout: Dropout of hidden states and attention weights, 0–1.
        strategy: Weights of the frames of a run: ``avg`` equal, ``weighted`` by their label's probability,
            ``softmax`` by the softmax of these probabilities.
        remove_blank: Drop runs of blanks. An utterance of nothing else becomes the mean of its frames, and is counted
            as ``ctc_fallbacks``.
    """

    tiny: ClassVar[dict[str, Any]] = {"layers": 2, "dim": 16, "heads": 2}
    loss_weights: ClassVar[dict[str, float]] = {"ctc": 0.1}

    def __init__(
        self,
        in_dim: int,
        out_dim: int,
        vocab_size: int,
        layers: int = 4,
        dim: int = 768,
        heads: int = 12,
        dropout: float = 0.1,
        strategy: Literal["avg", "weighted", "softmax"] = "avg",
        remove_blank: bool = False,
    ) -> None:
        super().__init__(in_dim, out_dim, layers, dim, heads, dropout)
        if strategy not in STRATEGIES:
            msg = f"`strategy` must be one of {', '.join(STRATEGIES)}, but is '{strategy}'."
            raise UserError(msg)
        self.strategy = strategy
        self.remove_blank = remove_blank
        self.blank = vocab_size
        self.head = nn.Linear(dim, vocab_size + 1)

    def output_lengths(self, lengths: Tensor) -> None:
        """Return None: the number of runs depends on the frames."""
        return

    def adapt_length(self, values: Tensor, lengths: Tensor, targets: list[Tensor] | None) -> AdapterOutput:
        """Pool runs of (B, F, D) into (B, R, D); with targets, return the loss ``ctc`` (B,) too."""
        log_probs = self.head(values).float().log_softmax(dim=-1)
        best, labels = log_probs.detach().max(dim=-1)
        keep = labels != self.blank if self.remove_blank else None
        pooled, out_lengths, fallbacks = pool_runs(values, lengths, labels, best.exp(), self.strategy, keep)
        valid = lengths_to_mask(lengths, labels.shape[1])
        stats = {
            "ctc_blank_rate": ((labels == self.blank) & valid).sum() / lengths.sum(),
            "ctc_fallbacks": fallbacks,
        }
        losses = {}
        if targets is not None:
            losses["ctc"], stats["ctc_too_long"] = ctc_losses(log_probs, lengths, targets, self.blank)
        return AdapterOutput(pooled, out_lengths, losses, stats)
