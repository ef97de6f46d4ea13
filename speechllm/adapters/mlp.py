"""Frame-wise perceptron: the plainest adapter, one position per encoder frame."""

import itertools
from typing import Any, ClassVar

from torch import Tensor, nn

from speechllm.adapters.base import Adapter
from speechllm.batch import AdapterOutput, Frames, zero_padding
from speechllm.errors import UserError
from speechllm.registry import ADAPTERS


@ADAPTERS.register("mlp")
class MLPAdapter(Adapter):
    """Linear layers with GELU between them, applied to each frame alone.

    Args:
        in_dim: Encoder width E.
        out_dim: LLM width H.
        hidden_dim: Width of the hidden layers.
        hidden_layers: Number of hidden layers; 0 is a single linear projection.
    """

    tiny: ClassVar[dict[str, Any]] = {"hidden_dim": 16}

    def __init__(self, in_dim: int, out_dim: int, hidden_dim: int = 4096, hidden_layers: int = 1) -> None:
        super().__init__()
        if hidden_layers < 0:
            msg = f"`hidden_layers` must be 0 or more, but is {hidden_layers}."
            raise UserError(msg)
        widths = [in_dim, *[hidden_dim] * hidden_layers, out_dim]
        layers: list[nn.Module] = [nn.Linear(widths[0], widths[1])]
        for width_in, width_out in itertools.pairwise(widths[1:]):
            layers += [nn.GELU(), nn.Linear(width_in, width_out)]
        self.layers = nn.Sequential(*layers)

    def output_lengths(self, lengths: Tensor) -> Tensor:
        """Return the lengths as they are."""
        return lengths

    def forward(self, frames: Frames, targets: list[Tensor] | None = None) -> AdapterOutput:
        """Adapt a batch; see :meth:`Adapter.forward`."""
        return AdapterOutput(zero_padding(self.layers(frames.values), frames.lengths), frames.lengths)
