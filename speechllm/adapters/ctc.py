"""CTC compression: frames that a CTC head labels alike become one position (spec §6; Gaido et al. 2021)."""

from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from speechllm.adapters.ctc_loss import ctc_losses
from speechllm.adapters.ctc_vocabulary import CTCVocabulary
from speechllm.adapters.runs import STRATEGIES, Runs, find_runs, pool, spans_of_runs, weigh_frames
from speechllm.adapters.two_stage import TwoStageAdapter
from speechllm.batch import AdapterOutput, Frames, Spans, lengths_to_mask, zero_padding
from speechllm.errors import UserError
from speechllm.registry import ADAPTERS

# Shape legend beyond batch.py: D adapter width, R runs of equal labels, at most F; V labels without the blank.


@ADAPTERS.register("ctc")
class CTCAdapter(TwoStageAdapter):
    """BERT layers around a CTC head that pools each run of equally labelled frames into one position.

    The head learns the source-language transcript, in the LLM's own tokens unless told otherwise, with the blank as an
    extra, last label. The pooling weights carry no gradient, the pooled frames do (spec §6.2).

    Args:
        in_dim: Encoder width E.
        out_dim: LLM width H.
        vocab_size: Vocabulary size of the LLM's tokenizer.
        layers: BERT layers in all, half of them before the compression.
        dim: Width of the layers.
        heads: Attention heads; they divide ``dim``.
        dropout: Dropout of hidden states and attention weights, 0–1.
        strategy: Weights of the frames of a run: ``avg`` equal, ``weighted`` by their label's probability,
            ``softmax`` by the softmax of these probabilities.
        remove_blank: Drop runs of blanks. An utterance of nothing else becomes the mean of its frames, and is counted
            as ``ctc_fallbacks``.
        max_out_len: Most positions of an utterance; neighbouring runs are merged beyond that, and counted as
            ``ctc_merged``. None has no limit.
        detach_compression: Let the layers before the compression learn from the CTC loss alone, as the released code
            of paper A does (spec §6.6).
        vocabulary: Labels of the head: ``llm``, ``bytes``, ``characters``, or the path of a ``tokenizer.json``; see
            :class:`speechllm.adapters.ctc_vocabulary.CTCVocabulary`.
        alphabet: Characters of ``vocabulary: characters``; lower-case Latin letters, apostrophe and space where not
            given. Others are dropped from transcripts and counted as ``ctc_dropped_characters``.
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
        max_out_len: int | None = None,
        detach_compression: bool = False,
        vocabulary: str = "llm",
        alphabet: str | None = None,
    ) -> None:
        super().__init__(in_dim, out_dim, layers, dim, heads, dropout)
        if strategy not in STRATEGIES:
            msg = f"`strategy` must be one of {', '.join(STRATEGIES)}, but is '{strategy}'."
            raise UserError(msg)
        if max_out_len is not None and max_out_len < 1:
            msg = f"`max_out_len` must be 1 or more, or null for no limit, but is {max_out_len}."
            raise UserError(msg)
        self.strategy = strategy
        self.remove_blank = remove_blank
        self.max_out_len = max_out_len
        self.detach_compression = detach_compression
        self.vocabulary = CTCVocabulary(vocabulary, alphabet, vocab_size)
        self.blank = self.vocabulary.size
        self.head = nn.Linear(dim, self.vocabulary.size + 1)

    def output_lengths(self, lengths: Tensor) -> None:
        """Return None: the number of runs depends on the frames."""
        return

    def encode_targets(self, transcripts: list[str]) -> list[Tensor] | None:
        """Return the transcripts in the labels of the head; None where these are the LLM's tokens."""
        return self.vocabulary.encode(transcripts)

    def adapt_length(self, values: Tensor, lengths: Tensor, targets: list[Tensor] | None) -> AdapterOutput:
        """Pool runs of (B, F, D) into (B, R, D); with targets, return the loss ``ctc`` (B,) too."""
        log_probs = self.head(values).float().log_softmax(dim=-1)
        labels, runs, weights = self._compress(log_probs, lengths)
        pooled = pool(values.detach() if self.detach_compression else values, runs, weights)
        valid = lengths_to_mask(lengths, labels.shape[1], labels.device)
        stats = {
            "ctc_blank_rate": ((labels == self.blank) & valid).sum() / int(lengths.sum()),
            "ctc_fallbacks": runs.nothing_kept.sum(),
        }
        if self.max_out_len is not None:
            stats["ctc_merged"] = runs.merged.sum()
        losses = {}
        if targets is not None:
            losses["ctc"], stats["ctc_too_long"] = ctc_losses(log_probs, lengths, targets, self.blank)
            stats |= self.vocabulary.stats()
        return AdapterOutput(pooled, runs.lengths, losses, stats)

    @torch.no_grad()
    def spans(self, frames: Frames) -> list[Spans]:
        """Return the frames and the label text of each run; see :meth:`Adapter.spans`."""
        hidden = self.before(zero_padding(self.in_proj(frames.values), frames.lengths), frames.lengths)
        labels, runs, weights = self._compress(self.head(hidden).float().log_softmax(dim=-1), frames.lengths)
        shown = None if self.strategy == "avg" else weights
        return spans_of_runs(runs, frames.lengths, labels, self.vocabulary.text, shown, self.vocabulary.tokens)

    def _compress(self, log_probs: Tensor, lengths: Tensor) -> tuple[Tensor, Runs, Tensor]:
        """Return labels (B, F), runs, and frame weights (B, F), from (B, F, V + 1) and lengths (B,)."""
        best, labels = log_probs.detach().max(dim=-1)
        keep = labels != self.blank if self.remove_blank else None
        runs = find_runs(labels, lengths, keep, self.max_out_len)
        return labels, runs, weigh_frames(runs, best.exp(), self.strategy)
