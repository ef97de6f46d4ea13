"""Both streams side by side (spec §11.2; paper D)."""

from typing import Any, ClassVar

import torch
from torch import Tensor

from speechllm.fusions.base import Fusion
from speechllm.registry import FUSIONS


@FUSIONS.register("concat")
class ConcatFusion(Fusion):
    """[w, m]: both streams side by side, without weights; D = E1 + E2.

    Args:
        in_dims: Widths (E1, E2) of the two streams.
    """

    tiny: ClassVar[dict[str, Any]] = {}

    def __init__(self, in_dims: tuple[int, int]) -> None:
        super().__init__()
        self.dim = sum(in_dims)

    def fuse(self, first: Tensor, second: Tensor, lengths: Tensor) -> Tensor:
        """Return (B, F, E1 + E2); see :meth:`Fusion.fuse`."""
        return torch.cat([first, second], dim=-1)
