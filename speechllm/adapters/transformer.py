"""Base adapter of paper A: four BERT layers, one position per encoder frame (spec §3)."""

from typing import Any, ClassVar

from torch import Tensor

from speechllm.adapters.two_stage import TwoStageAdapter
from speechllm.batch import AdapterOutput
from speechllm.registry import ADAPTERS


@ADAPTERS.register("base")
class BaseAdapter(TwoStageAdapter):
    """BERT layers between two projections; the output is as long as the input.

    At ``dim`` 768 and 4 layers it has 28,351,488 parameters without the projections (paper A, Table II).

    Args:
        in_dim: Encoder width E.
        out_dim: LLM width H.
        layers: Number of BERT layers.
        dim: Width of the layers.
        heads: Attention heads; they divide ``dim``.
        dropout: Dropout of hidden states and attention weights, 0–1.
    """

    tiny: ClassVar[dict[str, Any]] = {"layers": 2, "dim": 16, "heads": 2}

    def __init__(
        self, in_dim: int, out_dim: int, layers: int = 4, dim: int = 768, heads: int = 12, dropout: float = 0.1
    ) -> None:
        super().__init__(in_dim, out_dim, layers, dim, heads, dropout)

    def output_lengths(self, lengths: Tensor) -> Tensor:
        """Return the lengths as they are."""
        return lengths

    def adapt_length(self, values: Tensor, lengths: Tensor, targets: list[Tensor] | None) -> AdapterOutput:
        """Keep every frame."""
        return AdapterOutput(values, lengths)
