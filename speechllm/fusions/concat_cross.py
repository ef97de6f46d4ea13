"""Both streams and what the first gathers from the second, side by side (spec §11.2; paper D)."""

from typing import Any, ClassVar

import torch
from torch import Tensor

from speechllm.fusions.base import Fusion
from speechllm.fusions.cross_attention import CrossAttention
from speechllm.registry import FUSIONS


@FUSIONS.register("concat_cross")
class ConcatCrossFusion(Fusion):
    """[w, m, A(w ← m)]: both streams beside what the first gathers; D = 2 E1 + E2.

    Args:
        in_dims: Widths (E1, E2) of the two streams.
        heads: Attention heads; they divide E1.
        dropout: Dropout of the attention weights, 0–1.
    """

    tiny: ClassVar[dict[str, Any]] = {"heads": 2}

    def __init__(self, in_dims: tuple[int, int], heads: int = 8, dropout: float = 0.0) -> None:
        super().__init__()
        self.first = CrossAttention(*in_dims, heads, dropout)
        self.dim = 2 * in_dims[0] + in_dims[1]

    def fuse(self, first: Tensor, second: Tensor, lengths: Tensor) -> Tensor:
        """Return (B, F, 2 E1 + E2); see :meth:`Fusion.fuse`."""
        return torch.cat([first, second, self.first(first, second, lengths)], dim=-1)
