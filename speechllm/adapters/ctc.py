"""CTC compression: frames that a CTC head labels alike become one position (spec §6; Gaido et al. 2021)."""

from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from speechllm.adapters.two_stage import TwoStageAdapter
from speechllm.batch import AdapterOutput, lengths_to_mask
from speechllm.errors import UserError
from speechllm.registry import ADAPTERS

# Shape legend beyond batch.py: D adapter width, R runs of equal labels, at most F.
STRATEGIES = ("avg", "weighted", "softmax")


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


def pool_runs(
    values: Tensor,
    lengths: Tensor,
    labels: Tensor,
    probabilities: Tensor,
    strategy: str = "avg",
    keep: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Pool each run of equal labels into one vector, without a loop over time.

    Args:
        values: (B, F, D).
        lengths: (B,) int64.
        labels: (B, F) int64.
        probabilities: (B, F) float32, of each frame's label.
        strategy: One of :data:`STRATEGIES`.
        keep: (B, F) bool, False at frames whose runs are dropped; None keeps all.

    Returns:
        Pooled (B, R, D), zero past each length; lengths (B,), at least 1; number of utterances of which nothing was
        kept, and that became the mean of their frames.
    """
    size = labels.shape[1]
    valid = lengths_to_mask(lengths, size)
    starts = torch.ones_like(valid)
    starts[:, 1:] = labels[:, 1:] != labels[:, :-1]
    used = valid if keep is None else valid & keep
    nothing = ~used.any(dim=1)
    used = torch.where(nothing[:, None], valid, used)
    starts = torch.where(nothing[:, None], torch.arange(size, device=labels.device) == 0, starts & used)
    runs = starts.long().cumsum(dim=1) - 1  # dropped runs share the number of the run before them, and weigh nothing
    out_lengths = starts.sum(dim=1)
    weights = {"avg": torch.ones_like(probabilities), "weighted": probabilities, "softmax": probabilities.exp()}[
        strategy
    ]
    weights = torch.where(nothing[:, None], torch.ones_like(weights), weights) * used
    runs = runs.clamp(min=0)
    totals = torch.zeros_like(weights).scatter_add(1, runs, weights)
    weights = (weights / totals.gather(1, runs).clamp(min=1e-20)).to(values.dtype)
    pooled = torch.zeros_like(values).scatter_add(1, runs[..., None].expand_as(values), weights[..., None] * values)
    return pooled[:, : int(out_lengths.max())], out_lengths, nothing.sum()


def ctc_losses(log_probs: Tensor, lengths: Tensor, targets: list[Tensor], blank: int) -> tuple[Tensor, Tensor]:
    """Return each utterance's CTC loss, divided by its target's length (spec §13.2).

    Args:
        log_probs: (B, F, V + 1) float32.
        lengths: (B,) int64, frames.
        targets: Token ids (U,) of each transcript; an empty one has a loss of 0.
        blank: Id of the blank.

    Returns:
        Losses (B,) float32, 0 where no path fits the frames; the number of those utterances.
    """
    target_lengths = torch.tensor([len(target) for target in targets], device=log_probs.device)
    repeats = torch.stack([(target[1:] == target[:-1]).sum() for target in targets])  # each needs a blank between
    too_long = target_lengths + repeats.to(lengths.device) > lengths
    losses = nn.functional.ctc_loss(
        log_probs.transpose(0, 1),
        torch.cat(targets),
        lengths,
        target_lengths,
        blank,
        reduction="none",
        zero_infinity=True,
    )
    return losses.masked_fill(target_lengths == 0, 0) / target_lengths.clamp(min=1), too_long.sum()
