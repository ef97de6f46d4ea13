"""How the frames of one utterance lie in a shard: values, then 8-bit scales and CTC logits where there are any."""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

STORAGE = ("bf16", "int8")
"""Formats of values: bfloat16, or 8 bits with a float32 scale for each frame."""

LARGEST = 127
"""Largest 8-bit value that is used, on both sides of zero."""


@dataclass(frozen=True)
class RecordLayout:
    """The layout of one cache's records.

    Attributes:
        dim: Width E of the frames.
        storage: One of :data:`STORAGE`.
        ctc_classes: Classes C of the encoder's CTC head, whose logits are kept in float32; 0 where it has none.
    """

    dim: int
    storage: str = "bf16"
    ctc_classes: int = 0

    @property
    def frame_bytes(self) -> int:
        """Bytes of a frame."""
        values = self.dim * 2 if self.storage == "bf16" else self.dim + 4
        return values + 4 * self.ctc_classes

    def pack(self, values: Tensor, logits: Tensor | None = None) -> bytes:
        """Return the record of an utterance.

        Args:
            values: (F, E) float on the CPU.
            logits: (F, C) float on the CPU, where the encoder has a CTC head.
        """
        if self.storage == "bf16":
            parts = [_bytes(values.bfloat16().view(torch.int16))]
        else:
            small, scales = quantize(values)
            parts = [_bytes(small), _bytes(scales)]
        if self.ctc_classes:
            assert logits is not None
            parts.append(_bytes(logits.float()))
        return b"".join(parts)

    def unpack(self, record: NDArray[np.uint8], values: Tensor, logits: Tensor | None = None) -> None:
        """Write a record's frames into tensors.

        Args:
            record: (N,) uint8, the record.
            values: (F, E) bfloat16, written to.
            logits: (F, C) float32, written to, where the encoder has a CTC head.
        """
        frames, buffer = len(values), record.data
        if self.storage == "bf16":
            end = frames * self.dim * 2
            values.view(torch.int16).numpy()[:] = np.frombuffer(buffer[:end], np.int16).reshape(frames, self.dim)
        else:
            end = frames * (self.dim + 4)
            small = np.frombuffer(buffer[: frames * self.dim], np.int8).reshape(frames, self.dim)
            scales = np.frombuffer(buffer[frames * self.dim : end], np.float32)
            values.copy_(torch.from_numpy(small * scales[:, None]))
        if self.ctc_classes and logits is not None:
            logits.numpy()[:] = np.frombuffer(buffer[end:], np.float32).reshape(frames, self.ctc_classes)

    def stored(self, values: Tensor) -> Tensor:
        """Return what reading (F, E) values will give, in float32."""
        if self.storage == "bf16":
            return values.bfloat16().float()
        small, scales = quantize(values)
        return (small.float() * scales[:, None]).bfloat16().float()


def quantize(values: Tensor) -> tuple[Tensor, Tensor]:
    """Return values (F, E) as int8 (F, E) and a scale for each frame (F,) float32, its largest value over 127."""
    values = values.float()
    scales = (values.abs().amax(dim=1) / LARGEST).clamp(min=torch.finfo(torch.float32).tiny)
    return (values / scales[:, None]).round().clamp(-LARGEST, LARGEST).to(torch.int8), scales


def _bytes(values: Tensor) -> bytes:
    data: bytes = values.contiguous().numpy().tobytes()
    return data
