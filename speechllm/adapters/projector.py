"""Convolutional projector of paper D: four frames become one position (spec §11.3)."""

from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from speechllm.adapters.base import Adapter
from speechllm.batch import AdapterOutput, Frames, Spans, zero_padding
from speechllm.registry import ADAPTERS

STRIDE = 4


@ADAPTERS.register("projector")
class ProjectorAdapter(Adapter):
    """Two convolutions, the second of stride 4, and two linear layers; S = floor(F / 4), at least 1.

    Conv k3 → GELU → Conv k3 stride 4 → Linear → ReLU → Linear → ReLU → LayerNorm, as published: there is no activation
    between the second convolution and the linear layer. The last F mod 4 frames are dropped; an utterance of fewer than
    4 frames is filled up with zeros.

    Args:
        in_dim: Encoder width E.
        out_dim: LLM width H.
    """

    tiny: ClassVar[dict[str, Any]] = {}

    def __init__(self, in_dim: int, out_dim: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv1d(in_dim, in_dim, 3, padding=1)
        self.conv2 = nn.Conv1d(in_dim, STRIDE * in_dim, 3, stride=STRIDE, padding=1)
        self.layers = nn.Sequential(
            nn.Linear(STRIDE * in_dim, in_dim), nn.ReLU(), nn.Linear(in_dim, out_dim), nn.ReLU(), nn.LayerNorm(out_dim)
        )

    def output_lengths(self, lengths: Tensor) -> Tensor:
        """Return floor(lengths / 4), at least 1."""
        return (lengths // STRIDE).clamp(min=1)

    def forward(self, frames: Frames, targets: list[Tensor] | None = None) -> AdapterOutput:
        """Adapt a batch; see :meth:`Adapter.forward`."""
        lengths = self.output_lengths(frames.lengths)
        used = STRIDE * int(lengths.max())
        # Kernels of 3 at a stride of 4 do not read past the last used frame; fewer than 4 frames rest on these zeros.
        values = zero_padding(frames.values[:, :used], _used_frames(frames.lengths))
        values = nn.functional.pad(values, (0, 0, 0, used - values.shape[1])).transpose(1, 2)
        hidden = nn.functional.gelu(self.conv1(values)).transpose(1, 2)
        hidden = self.conv2(zero_padding(hidden, STRIDE * lengths).transpose(1, 2)).transpose(1, 2)
        stats = {"short_utterances": (frames.lengths < STRIDE).sum()}
        return AdapterOutput(zero_padding(self.layers(hidden), lengths), lengths, stats=stats)

    def spans(self, frames: Frames) -> list[Spans]:
        """Return four frames for each position; the dropped ones belong to none."""
        return super().spans(Frames(frames.values, _used_frames(frames.lengths)))


def _used_frames(lengths: Tensor) -> Tensor:
    """Return the frames (B,) that are not dropped: a multiple of 4, or all of fewer than 4."""
    return torch.where(lengths < STRIDE, lengths, lengths // STRIDE * STRIDE)
