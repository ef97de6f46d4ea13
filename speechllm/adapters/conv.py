"""Convolutional length adapter of paper A: four frames become one position (spec §4)."""

from typing import Any, ClassVar

from torch import Tensor, nn

from speechllm.adapters.two_stage import TwoStageAdapter
from speechllm.batch import AdapterOutput, zero_padding
from speechllm.errors import UserError
from speechllm.registry import ADAPTERS


@ADAPTERS.register("conv")
class ConvAdapter(TwoStageAdapter):
    """BERT layers with two stride-2 convolutions in their middle; S = ceil(F / 4).

    The convolutions have 3,543,552 parameters at ``dim`` 768; Table II of paper A prints 25.20 M, which no plausible
    pair of stride-2 convolutions gives (spec §4, §21).

    Args:
        in_dim: Encoder width E.
        out_dim: LLM width H.
        layers: BERT layers in all, half of them before the convolutions.
        dim: Width of the layers.
        heads: Attention heads; they divide ``dim``.
        dropout: Dropout of hidden states and attention weights, 0–1.
        kernel_size: Width of both convolutions in frames; odd.
        hidden_channels: Channels between the two convolutions; ``dim`` where not given.
    """

    tiny: ClassVar[dict[str, Any]] = {"layers": 2, "dim": 16, "heads": 2}

    def __init__(
        self,
        in_dim: int,
        out_dim: int,
        layers: int = 4,
        dim: int = 768,
        heads: int = 12,
        dropout: float = 0.1,
        kernel_size: int = 3,
        hidden_channels: int | None = None,
    ) -> None:
        super().__init__(in_dim, out_dim, layers, dim, heads, dropout)
        if kernel_size % 2 == 0:
            msg = f"`kernel_size` must be odd, but is {kernel_size}; even kernels shift the frames."
            raise UserError(msg)
        inner = hidden_channels or dim
        self.convs = nn.ModuleList(
            nn.Conv1d(channels_in, channels_out, kernel_size, stride=2, padding=kernel_size // 2)
            for channels_in, channels_out in ((dim, inner), (inner, dim))
        )
        self.norms = nn.ModuleList([nn.LayerNorm(inner), nn.LayerNorm(dim)])

    def output_lengths(self, lengths: Tensor) -> Tensor:
        """Return ceil(lengths / 4)."""
        return (lengths + 3) // 4

    def adapt_length(self, values: Tensor, lengths: Tensor, targets: list[Tensor] | None) -> AdapterOutput:
        """Run Conv → LayerNorm → ReLU → Conv → LayerNorm on (B, F, D); each input is zero past its length."""
        for layer, (conv, norm) in enumerate(zip(self.convs, self.norms, strict=True)):
            values = norm(conv(values.transpose(1, 2)).transpose(1, 2))
            lengths = (lengths - 1) // 2 + 1
            if layer == 0:
                values = values.relu()
            values = zero_padding(values, lengths)
        return AdapterOutput(values, lengths)
