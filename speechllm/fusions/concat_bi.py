"""Both streams and what each gathers from the other, side by side (spec §11.2; paper D)."""

from typing import Any, ClassVar

import torch
from torch import Tensor

from speechllm.fusions.base import Fusion
from speechllm.fusions.cross_attention import CrossAttention
from speechllm.registry import FUSIONS


@FUSIONS.register("concat_bi")
class ConcatBiFusion(Fusion):
    """[w, m, A(w ← m), A(m ← w)]: both streams beside what each gathers; D = 2 (E1 + E2).

    Args:
        in_dims: Widths (E1, E2) of the two streams.
        heads: Attention heads; they divide E1 and E2.
        dropout: Dropout of the attention weights, 0–1.
    """

    tiny: ClassVar[dict[str, Any]] = {"heads": 2}

    def __init__(self, in_dims: tuple[int, int], heads: int = 8, dropout: float = 0.0) -> None:
        super().__init__()
        first_dim, second_dim = in_dims
        self.first = CrossAttention(first_dim, second_dim, heads, dropout)
        self.second = CrossAttention(second_dim, first_dim, heads, dropout)
        self.dim = 2 * (first_dim + second_dim)

    def fuse(self, first: Tensor, second: Tensor, lengths: Tensor) -> Tensor:
        """Return (B, F, 2 (E1 + E2)); see :meth:`Fusion.fuse`."""
        gathered = [self.first(first, second, lengths), self.second(second, first, lengths)]
        return torch.cat([first, second, *gathered], dim=-1)
