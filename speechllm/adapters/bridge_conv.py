"""Convolutional bridge of paper C (Nue-ASR): four frames become one position (spec §10.1)."""

from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from speechllm.adapters.base import Adapter
from speechllm.batch import AdapterOutput, Frames, Spans, zero_padding
from speechllm.registry import ADAPTERS

KERNEL, STRIDE = 4, 2
HOP = STRIDE * STRIDE
"""Frames from one position to the next."""
REACH = KERNEL + STRIDE * (KERNEL - 1)
"""Frames that one position is computed from; an utterance of fewer is filled up with zeros."""


@ADAPTERS.register("bridge_conv")
class ConvBridgeAdapter(Adapter):
    """Two convolutions of kernel 4 and stride 2 with GELU, and a linear layer; a position reads 10 frames, 4 apart.

    The convolutions pad nothing, so S = f(f(F)) with f(n) = floor((n − 4) / 2) + 1; up to three frames at the end reach
    no position. From HuBERT-base (768) to GPT-NeoX 3.6B (2,816) the adapter has 6,885,632 parameters.

    Args:
        in_dim: Encoder width E, also that of the convolutions.
        out_dim: LLM width H.
    """

    tiny: ClassVar[dict[str, Any]] = {}

    def __init__(self, in_dim: int, out_dim: int) -> None:
        super().__init__()
        self.convs = nn.ModuleList(nn.Conv1d(in_dim, in_dim, KERNEL, stride=STRIDE) for _ in range(2))
        self.projection = nn.Linear(in_dim, out_dim)

    def output_lengths(self, lengths: Tensor) -> Tensor:
        """Return f(f(lengths)), or 1 for fewer than 10 frames."""
        return (lengths.clamp(min=REACH) - REACH) // HOP + 1

    def forward(self, frames: Frames, targets: list[Tensor] | None = None) -> AdapterOutput:
        """Adapt a batch; see :meth:`Adapter.forward`."""
        out_lengths = self.output_lengths(frames.lengths)
        values = zero_padding(frames.values, frames.lengths)
        values = nn.functional.pad(values, (0, 0, 0, REACH + HOP * (int(out_lengths.max()) - 1) - values.shape[1]))
        hidden = values.transpose(1, 2)
        for conv in self.convs:  # between them nothing is zeroed: no position within its length reads past it
            hidden = nn.functional.gelu(conv(hidden))
        values = self.projection(hidden.transpose(1, 2))
        stats = {"short_utterances": (frames.lengths < REACH).sum()}
        return AdapterOutput(zero_padding(values, out_lengths), out_lengths, stats=stats)

    def spans(self, frames: Frames) -> list[Spans]:
        """Return the ten frames that each position reads, which overlap; see :meth:`Adapter.spans`."""
        found = []
        counts = self.output_lengths(frames.lengths).tolist()
        for length, count in zip(frames.lengths.tolist(), counts, strict=True):
            starts = torch.arange(count) * HOP
            found.append(Spans(starts.float(), (starts + REACH).clamp(max=length).float()))
        return found
