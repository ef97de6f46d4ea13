"""The contract of adapters."""

from abc import ABC, abstractmethod
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from speechllm.batch import AdapterOutput, Frames, Spans


class Adapter(nn.Module, ABC):
    """Turns encoder frames into speech embeddings of the LLM's width.

    A subclass registers itself in :data:`speechllm.registry.ADAPTERS` and takes ``in_dim`` and ``out_dim`` from the
    builder, and where it needs them ``vocab_size`` (of the LLM) and ``frame_rate`` (of the encoder, in Hz). What it
    gives for an utterance depends on nothing but that utterance: it zeroes the padding before every convolution and
    masks it in every attention (spec §0.2). An utterance of one frame or more gives at least one position.

    Attributes:
        tiny: Options that build the adapter small enough for tests.
        loss_weights: Default weight of each auxiliary loss that the adapter returns, by name.
    """

    tiny: ClassVar[dict[str, Any]]
    loss_weights: ClassVar[dict[str, float]] = {}

    @abstractmethod
    def forward(self, frames: Frames, targets: list[Tensor] | None = None) -> AdapterOutput:
        """Adapt a batch.

        Args:
            frames: Encoder frames (B, F, E) with lengths (B,), which stay on the CPU; bring them to the values with
                :func:`speechllm.batch.to_device` or as a mask, and ask these for nothing (``int``, ``.tolist()``, a
                mask as an index): a GPU would have to be waited for.
            targets: Token ids of each utterance's source-language transcript, each (U,) int64 on the CPU, for adapters
                that learn from it, as :meth:`encode_targets` or else the LLM's tokenizer gives them; None in inference.

        Returns:
            Speech embeddings (B, S, H) with lengths (B,), auxiliary losses and figures to log; among these
            ``short_utterances``, the number of those with fewer frames than a window or kernel, where there is one.
        """

    @abstractmethod
    def output_lengths(self, lengths: Tensor) -> Tensor | None:
        """Return the positions (B,) that ``lengths`` (B,) frames become; None where that depends on their content."""

    def encode_targets(self, transcripts: list[str]) -> list[Tensor] | None:
        """Return the token ids (U,) of transcripts in a vocabulary of the adapter's own; None to take the LLM's."""
        return None

    def spans(self, frames: Frames) -> list[Spans]:
        """Return which frames each speech position stands for, an utterance each; to look at, not to train with.

        Unless a subclass knows better, the positions share the frames equally.

        Args:
            frames: Encoder frames (B, F, E) with lengths (B,).
        """
        found = []
        positions = self.output_lengths(frames.lengths)
        positions = self(frames).lengths if positions is None else positions
        for length, count in zip(frames.lengths.tolist(), positions.tolist(), strict=True):
            bounds = torch.linspace(0, length, count + 1)
            found.append(Spans(bounds[:-1], bounds[1:]))
        return found
