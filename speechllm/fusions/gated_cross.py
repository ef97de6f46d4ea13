"""The first stream enriched, through a gate, by what it gathers from the second (spec §11.2; paper D)."""

from typing import Any, ClassVar

from torch import Tensor

from speechllm.fusions.base import Fusion
from speechllm.fusions.cross_attention import GatedCrossAttention
from speechllm.registry import FUSIONS


@FUSIONS.register("gated_cross")
class GatedCrossFusion(Fusion):
    """LN(w + g · a), a = A(w ← m), g = sigmoid(Linear(a)): attention to the second stream, gated; D = E1.

    Args:
        in_dims: Widths (E1, E2) of the two streams.
        heads: Attention heads; they divide E1.
        dropout: Dropout of the attention weights, 0–1.
    """

    tiny: ClassVar[dict[str, Any]] = {"heads": 2}

    def __init__(self, in_dims: tuple[int, int], heads: int = 8, dropout: float = 0.0) -> None:
        super().__init__()
        self.first = GatedCrossAttention(*in_dims, heads, dropout)
        self.dim = in_dims[0]

    def fuse(self, first: Tensor, second: Tensor, lengths: Tensor) -> Tensor:
        """Return (B, F, E1); see :meth:`Fusion.fuse`."""
        enriched: Tensor = self.first(first, second, lengths)
        return enriched
