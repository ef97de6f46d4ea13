"""The contract of fusions."""

from abc import ABC, abstractmethod
from typing import Any, ClassVar

from torch import Tensor, nn

from speechllm.batch import zero_padding

# Shape legend beyond batch.py: E1 and E2 widths of the first and the second stream, D width of the fused frames.
# In formulae w and m are the first and the second stream, as in paper D, where they come from Whisper and mHuBERT.


class Fusion(nn.Module, ABC):
    """Makes one stream of frames of two streams that stand frame by frame beside each other (spec §11; paper D).

    A subclass registers itself in :data:`speechllm.registry.FUSIONS`, takes ``in_dims`` (E1, E2) from the builder and
    sets the attributes below. What it gives for an utterance depends on nothing but that utterance: both streams are
    masked at its end wherever frames meet (spec §0.2).

    Attributes:
        tiny: Options that build the fusion small enough for tests.
        dim: Width D of the fused frames.
    """

    tiny: ClassVar[dict[str, Any]]
    dim: int

    @abstractmethod
    def fuse(self, first: Tensor, second: Tensor, lengths: Tensor) -> Tensor:
        """Fuse (B, F, E1) and (B, F, E2) with lengths (B,) into (B, F, D), whatever past the lengths."""

    def forward(self, streams: tuple[Tensor, Tensor], lengths: Tensor) -> Tensor:
        """Fuse two streams of the same utterances.

        Args:
            streams: Frames (B, F, E1) and (B, F, E2); whatever stands past an utterance's length is ignored.
            lengths: (B,) int64, at least 1; the lengths of both.

        Returns:
            Fused frames (B, F, D), exactly zero past each length.
        """
        first, second = streams
        return zero_padding(self.fuse(first, second, lengths), lengths)
