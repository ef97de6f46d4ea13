"""Stacked frames through two linear layers, as in SLAM-LLM: five frames become one position (spec §11.5)."""

from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from speechllm.adapters.base import Adapter
from speechllm.batch import AdapterOutput, Frames, Spans, zero_padding
from speechllm.errors import UserError
from speechllm.registry import ADAPTERS


@ADAPTERS.register("linear_stack")
class LinearStackAdapter(Adapter):
    """Concatenate ``stride`` frames → Linear → ReLU → Linear; S = floor(F / stride), at least 1.

    The last F mod ``stride`` frames are dropped; an utterance of fewer frames is filled up with zeros.

    Args:
        in_dim: Encoder width E.
        out_dim: LLM width H.
        stride: Encoder frames of one position.
        hidden_dim: Width between the two layers.
    """

    tiny: ClassVar[dict[str, Any]] = {"hidden_dim": 16}

    def __init__(self, in_dim: int, out_dim: int, stride: int = 5, hidden_dim: int = 2048) -> None:
        super().__init__()
        if stride < 1:
            msg = f"`stride` must be 1 or more, but is {stride}."
            raise UserError(msg)
        self.stride = stride
        self.layers = nn.Sequential(nn.Linear(stride * in_dim, hidden_dim), nn.ReLU(), nn.Linear(hidden_dim, out_dim))

    def output_lengths(self, lengths: Tensor) -> Tensor:
        """Return floor(lengths / stride), at least 1."""
        return (lengths // self.stride).clamp(min=1)

    def forward(self, frames: Frames, targets: list[Tensor] | None = None) -> AdapterOutput:
        """Adapt a batch; see :meth:`Adapter.forward`."""
        lengths = self.output_lengths(frames.lengths)
        used = self.stride * int(lengths.max())
        values = zero_padding(frames.values[:, :used], frames.lengths)
        values = nn.functional.pad(values, (0, 0, 0, used - values.shape[1]))
        stacked = values.reshape(values.shape[0], -1, self.stride * values.shape[2])
        stats = {"short_utterances": (frames.lengths < self.stride).sum()}
        return AdapterOutput(zero_padding(self.layers(stacked), lengths), lengths, stats=stats)

    def spans(self, frames: Frames) -> list[Spans]:
        """Return ``stride`` frames for each position; the dropped ones belong to none."""
        whole = frames.lengths // self.stride * self.stride
        return super().spans(Frames(frames.values, torch.where(whole > 0, whole, frames.lengths)))
