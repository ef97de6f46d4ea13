"""5×5 convolution over time and features: five frames become one position (spec §8; paper B, Whisper branch)."""

from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from speechllm.adapters.base import Adapter
from speechllm.batch import AdapterOutput, Frames, Spans, zero_padding
from speechllm.errors import UserError
from speechllm.registry import ADAPTERS

KERNEL = 5
"""Frames and features under the kernel; also its stride over time, so that no two positions share a frame."""


@ADAPTERS.register("conv2d")
class Conv2dAdapter(Adapter):
    """One kernel of 5×5 weights, slid over the frames as over an image, and a projection; S = floor(F / 5).

    The convolution has 26 parameters and keeps the width E. It reads each utterance by itself; in the code that the
    paper used, utterances are the channels of the convolution, which mixes them (spec §8.2).

    Args:
        in_dim: Encoder width E.
        out_dim: LLM width H.
        projection_layers: 1 is a linear layer; 2 are two of them with GELU between, of width ``out_dim``.
        ceil_mode: Fill the last frames up with zeros to five, S = ceil(F / 5), where otherwise up to four of them are
            dropped. An utterance of fewer than five frames is always filled up.
        identity_mean: Start from the mean of five frames, feature by feature, and not from random weights.
    """

    tiny: ClassVar[dict[str, Any]] = {"ceil_mode": True}

    def __init__(
        self,
        in_dim: int,
        out_dim: int,
        projection_layers: int = 1,
        ceil_mode: bool = False,
        identity_mean: bool = False,
    ) -> None:
        super().__init__()
        if projection_layers not in (1, 2):
            msg = f"`projection_layers` must be 1 or 2, but is {projection_layers}."
            raise UserError(msg)
        self.ceil_mode = ceil_mode
        self.conv = nn.Conv2d(1, 1, KERNEL, stride=(KERNEL, 1), padding=(0, KERNEL // 2))
        if identity_mean:
            nn.init.zeros_(self.conv.weight)
            nn.init.constant_(self.conv.weight[..., KERNEL // 2], 1 / KERNEL)
            nn.init.zeros_(self.conv.bias)  # type: ignore[arg-type]
        second = [nn.GELU(), nn.Linear(out_dim, out_dim)] if projection_layers == 2 else []
        self.projection = nn.Sequential(nn.Linear(in_dim, out_dim), *second)

    def output_lengths(self, lengths: Tensor) -> Tensor:
        """Return max(1, floor(lengths / 5)), or ceil(lengths / 5) in ``ceil_mode``."""
        return ((lengths + KERNEL - 1) // KERNEL if self.ceil_mode else lengths // KERNEL).clamp(min=1)

    def forward(self, frames: Frames, targets: list[Tensor] | None = None) -> AdapterOutput:
        """Adapt a batch; see :meth:`Adapter.forward`."""
        out_lengths = self.output_lengths(frames.lengths)
        values = zero_padding(frames.values, frames.lengths)
        values = nn.functional.pad(values, (0, 0, 0, KERNEL * int(out_lengths.max()) - values.shape[1]))
        values = self.projection(self.conv(values[:, None])[:, 0])
        stats = {"short_utterances": (frames.lengths < KERNEL).sum()}
        return AdapterOutput(zero_padding(values, out_lengths), out_lengths, stats=stats)

    def spans(self, frames: Frames) -> list[Spans]:
        """Return the five frames of each position; see :meth:`Adapter.spans`."""
        found = []
        counts = self.output_lengths(frames.lengths).tolist()
        for length, count in zip(frames.lengths.tolist(), counts, strict=True):
            starts = torch.arange(count) * KERNEL
            found.append(Spans(starts.float(), (starts + KERNEL).clamp(max=length).float()))
        return found
