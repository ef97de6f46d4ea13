"""Both streams as they are and enriched through gates, side by side (spec §11.2; paper D's final fusion)."""

from typing import Any, ClassVar

import torch
from torch import Tensor

from speechllm.fusions.base import Fusion
from speechllm.fusions.cross_attention import GatedCrossAttention
from speechllm.registry import FUSIONS


@FUSIONS.register("gated_bicross_cat")
class GatedBicrossCatFusion(Fusion):
    """[w, m, LN(w + g1 · a1), LN(m + g2 · a2)]: gated attention beside the streams; D = 2 (E1 + E2).

    Args:
        in_dims: Widths (E1, E2) of the two streams.
        heads: Attention heads; they divide E1 and E2.
        dropout: Dropout of the attention weights, 0–1.
    """

    tiny: ClassVar[dict[str, Any]] = {"heads": 2}

    def __init__(self, in_dims: tuple[int, int], heads: int = 8, dropout: float = 0.0) -> None:
        super().__init__()
        first_dim, second_dim = in_dims
        self.first = GatedCrossAttention(first_dim, second_dim, heads, dropout)
        self.second = GatedCrossAttention(second_dim, first_dim, heads, dropout)
        self.dim = 2 * (first_dim + second_dim)

    def fuse(self, first: Tensor, second: Tensor, lengths: Tensor) -> Tensor:
        """Return (B, F, 2 (E1 + E2)); see :meth:`Fusion.fuse`."""
        enriched = [self.first(first, second, lengths), self.second(second, first, lengths)]
        return torch.cat([first, second, *enriched], dim=-1)
