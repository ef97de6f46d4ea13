"""CTC bridge of paper C: the encoder frames that a CTC head labels alike become one position (spec §10.2)."""

from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from speechllm.adapters.base import Adapter
from speechllm.adapters.ctc_loss import ctc_losses
from speechllm.adapters.ctc_vocabulary import CTCVocabulary
from speechllm.adapters.runs import Runs, find_runs, pool, spans_of_runs, weigh_frames
from speechllm.batch import AdapterOutput, Frames, Spans, lengths_to_mask, zero_padding
from speechllm.registry import ADAPTERS


@ADAPTERS.register("bridge_ctc")
class CTCBridgeAdapter(Adapter):
    """A CTC head on the encoder's frames; the mean of each run of equal labels but blanks, and a linear layer.

    The head learns the transcript, with the blank as an extra, last label. The means pass gradients on to the frames,
    the choice of the runs does not. An utterance of nothing but blanks, as all are early in training, becomes the mean
    of its frames and is counted as ``ctc_fallbacks``. The paper does not state the weight of the loss; 0.3 is common in
    recognisers that train with CTC beside another loss (spec §10.2, §21).

    Args:
        in_dim: Encoder width E.
        out_dim: LLM width H.
        vocab_size: Vocabulary size V of the LLM's tokenizer.
        vocabulary: What the head writes in: ``llm``, ``bytes``, ``characters`` or the path of a ``tokenizer.json``; see
            :class:`speechllm.adapters.ctc_vocabulary.CTCVocabulary`.
        alphabet: Characters of ``vocabulary: characters``; lower-case Latin letters, apostrophe and space where not
            given. Others are dropped from transcripts and counted as ``ctc_dropped_characters``.
    """

    tiny: ClassVar[dict[str, Any]] = {}
    loss_weights: ClassVar[dict[str, float]] = {"ctc": 0.3}

    def __init__(
        self, in_dim: int, out_dim: int, vocab_size: int, vocabulary: str = "llm", alphabet: str | None = None
    ) -> None:
        super().__init__()
        self.vocabulary = CTCVocabulary(vocabulary, alphabet, vocab_size)
        self.blank = self.vocabulary.size
        self.head = nn.Linear(in_dim, self.blank + 1)
        self.projection = nn.Linear(in_dim, out_dim)

    def output_lengths(self, lengths: Tensor) -> None:
        """Return None: the number of runs depends on the frames."""
        return

    def encode_targets(self, transcripts: list[str]) -> list[Tensor] | None:
        """Return transcripts in the head's vocabulary; None where that is the LLM's."""
        return self.vocabulary.encode(transcripts)

    def log_probs(self, values: Tensor) -> Tensor:
        """Return what the head says of each frame (B, F, E): (B, F, labels + 1) float32, the blank last."""
        log_probs: Tensor = self.head(values).float().log_softmax(dim=-1)
        return log_probs

    def forward(self, frames: Frames, targets: list[Tensor] | None = None) -> AdapterOutput:
        """Adapt a batch, with targets also its loss ``ctc`` (B,); see :meth:`Adapter.forward`."""
        values = zero_padding(frames.values, frames.lengths)
        log_probs = self.log_probs(values)
        labels, runs = self._find_runs(log_probs, frames.lengths)
        blanks = (labels == self.blank) & lengths_to_mask(frames.lengths, labels.shape[1], labels.device)
        stats = {"ctc_blank_rate": blanks.sum() / int(frames.lengths.sum()), "ctc_fallbacks": runs.nothing_kept.sum()}
        losses = {}
        if targets is not None:
            losses["ctc"], stats["ctc_too_long"] = ctc_losses(log_probs, frames.lengths, targets, self.blank)
            stats |= self.vocabulary.stats()
        pooled = pool(values, runs, weigh_frames(runs, torch.ones_like(log_probs[..., 0])))
        return AdapterOutput(zero_padding(self.projection(pooled), runs.lengths), runs.lengths, losses, stats)

    @torch.no_grad()
    def spans(self, frames: Frames) -> list[Spans]:
        """Return each run and what its label says; see :meth:`Adapter.spans`."""
        labels, runs = self._find_runs(self.log_probs(frames.values), frames.lengths)
        return spans_of_runs(runs, frames.lengths, labels, self.vocabulary.text, tokens=self.vocabulary.tokens)

    def _find_runs(self, log_probs: Tensor, lengths: Tensor) -> tuple[Tensor, Runs]:
        """Return the label of each frame (B, F) and the runs of all but blanks, from (B, F, labels + 1)."""
        labels = log_probs.argmax(dim=-1)
        return labels, find_runs(labels, lengths, labels != self.blank)
