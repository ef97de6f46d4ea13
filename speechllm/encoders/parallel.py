"""Two encoders that hear the same audio, and a fusion that makes one stream of their frames (spec §11; paper D)."""

import math
import warnings
from fractions import Fraction
from typing import Any, ClassVar

import torch
from torch import Tensor

from speechllm.batch import Batch, Frames, to_device, zero_padding
from speechllm.encoders.base import Encoder
from speechllm.errors import UserError
from speechllm.registry import ENCODERS, FUSIONS

MISMATCH_FRAMES = 2
"""Streams may differ by this many frames, of the slower one, through rounding alone (spec §11.1)."""


@ENCODERS.register("parallel")
class ParallelEncoder(Encoder):
    """Two encoders side by side, whose frames a fusion joins.

    Both streams of an utterance are brought to one frame rate and cut to the shorter of the two, from that utterance's
    own lengths, so that frame t of both is the same moment of the same utterance whatever it is batched with.
    Each encoder is frozen or trained as its own ``tuning`` says; the fusion is always trained. What CTC heads of the
    encoders say is not passed on.

    Args:
        encoders: Specs of the two encoders, ``{name: whisper, pretrained: …, tuning: frozen}``; the first is the stream
            w of the fusions' formulae.
        fusion: Spec of the fusion, ``{name: gated_bicross_cat}``.
        frame_rate: Rate of the joined frames in Hz; the higher of the two where not given. A stream of another rate is
            interpolated linearly.

    Attributes:
        uneven_utterances: Number of utterances so far whose streams differed by more than :data:`MISMATCH_FRAMES`
            frames before they were cut.
    """

    tiny: ClassVar[dict[str, Any]] = {
        "encoders": [
            {
                "name": "whisper",
                "config": {
                    "d_model": width,
                    "encoder_layers": 1,
                    "encoder_attention_heads": 2,
                    "encoder_ffn_dim": 32,
                    "num_mel_bins": 80,
                },
            }
            for width in (16, 12)
        ],
        "fusion": {"name": "gated_bicross_cat", "heads": 2},
    }
    # Nothing here is loaded or frozen as one: the weights are those of the encoders, which say so themselves.
    pretrained = None
    tuning = "full"

    def __init__(self, encoders: list[dict[str, Any]], fusion: dict[str, Any], frame_rate: float | None = None) -> None:
        super().__init__()
        _check_specs(encoders, fusion)
        classes = [ENCODERS.get(spec["name"]) for spec in encoders]
        _check_frame_rate(frame_rate, [getattr(part, "frame_rate", math.inf) for part in classes])
        self.first, self.second = first, second = [ENCODERS.build(spec) for spec in encoders]
        self.fusion = FUSIONS.build(fusion, in_dims=(first.dim, second.dim))
        self.dim = self.fusion.dim
        self.frame_rate = frame_rate or max(first.frame_rate, second.frame_rate)
        self.min_samples = max(first.min_samples, second.min_samples)
        limits = [encoder.max_duration_s for encoder in (first, second) if encoder.max_duration_s is not None]
        self.max_duration_s = min(limits, default=None)
        slower = min(first.frame_rate, second.frame_rate)
        self._tolerance = MISMATCH_FRAMES * max(1.0, self.frame_rate / slower)
        self.uneven_utterances = 0

    def output_lengths(self, audio_lengths: Tensor) -> Tensor:
        """Return the frames of the shorter stream at the common rate."""
        first, second = (
            _resampled_lengths(encoder.output_lengths(audio_lengths), self._ratio(encoder))
            for encoder in (self.first, self.second)
        )
        return torch.minimum(first, second)

    def forward(self, audio: Tensor, audio_lengths: Tensor) -> Frames:
        """Encode a batch; see :meth:`Encoder.forward`."""
        return self._join(self.first(audio, audio_lengths), self.second(audio, audio_lengths))

    def encode(self, batch: Batch) -> Frames:
        """Encode a batch; each encoder takes its own frames from a cache where it has one."""
        return self._join(self.first.encode(batch), self.second.encode(batch))

    def _join(self, first: Frames, second: Frames) -> Frames:
        """Make one stream of the frames of the two encoders."""
        first, second = self._resampled(self.first, first), self._resampled(self.second, second)
        lengths = torch.minimum(first.lengths, second.lengths)
        self._count_uneven((first.lengths - second.lengths).abs())
        longest = int(lengths.max())
        return Frames(self.fusion((first.values[:, :longest], second.values[:, :longest]), lengths), lengths)

    def _ratio(self, encoder: Encoder) -> Fraction:
        """Return the joined frames for each frame of an encoder, exactly."""
        return _exact(self.frame_rate) / _exact(encoder.frame_rate)

    def _resampled(self, encoder: Encoder, frames: Frames) -> Frames:
        """Return an encoder's frames at the common rate, in the number format of the fusion's weights."""
        frames = resample_frames(frames, self._ratio(encoder))
        weight = next(self.fusion.parameters(), None)
        values = frames.values if weight is None else frames.values.to(weight.dtype)
        return Frames(values, frames.lengths)

    def _count_uneven(self, differences: Tensor) -> None:
        """Count utterances whose streams are of different lengths (B,), and warn of the first."""
        uneven = int((differences > self._tolerance).sum())
        if uneven and not self.uneven_utterances:
            warnings.warn(
                f"The two streams of an utterance differ by {int(differences.max())} frames at {self.frame_rate:g} Hz; "
                f"the longer one is cut. Check that both encoders hear the utterance alone (`trim_to_speech: true` "
                f"where one pads to 30 s).",
                stacklevel=3,
            )
        self.uneven_utterances += uneven


def resample_frames(frames: Frames, ratio: Fraction) -> Frames:
    """Bring frames to another rate by linear interpolation between each utterance's own frames.

    Frame i is taken to stand at i / rate, which holds for Whisper, HuBERT and SeamlessM4T within 12.5 ms (their windows
    are centred there). Interpolation and not repetition, since repeated frames of a slow encoder lag behind by up to
    one of its frames, 160 ms in SeamlessM4T. Past the last frame of an utterance its value is held. Frames of a rate
    that is lowered are picked, not averaged.

    Args:
        frames: (B, F, E) with lengths (B,).
        ratio: New rate over old rate; 1 gives the frames as they are.

    Returns:
        (B, F', E) with lengths ceil(lengths · ratio), zero past them.
    """
    if ratio == 1:
        return frames
    lengths = _resampled_lengths(frames.lengths, ratio)
    steps = torch.arange(int(lengths.max())) * ratio.denominator
    last = frames.lengths[:, None] - 1
    before = torch.minimum(steps // ratio.numerator, last)
    rows = torch.arange(len(lengths))[:, None] * frames.values.shape[1]
    places = torch.stack([rows + before, rows + torch.minimum(before + 1, last)])  # in frames of all utterances
    share = ((steps % ratio.numerator) / ratio.numerator).float()[:, None]
    device = frames.values.device
    first, second = frames.values.flatten(0, 1)[to_device(places, device)].float()
    values = torch.lerp(first, second, to_device(share, device))
    return Frames(zero_padding(values.to(frames.values.dtype), lengths), lengths)


def _resampled_lengths(lengths: Tensor, ratio: Fraction) -> Tensor:
    """Return ceil(lengths · ratio), from integers alone."""
    return -(-lengths * ratio.numerator // ratio.denominator)


def _exact(frame_rate: float) -> Fraction:
    """Return a rate as the fraction that is meant: 16.67 Hz are 1667 / 100."""
    return Fraction(frame_rate).limit_denominator(1000)


def _check_specs(encoders: list[dict[str, Any]], fusion: dict[str, Any]) -> None:
    """Check names and options of the parts inside, before any weight is loaded."""
    if not isinstance(encoders, list | tuple) or len(encoders) != 2:
        msg = (
            f"The encoder 'parallel' needs a list of two encoder specs, such as "
            f"[{{name: whisper, …}}, {{name: hubert, …}}]; got {encoders!r}."
        )
        raise UserError(msg)
    for spec in encoders:
        ENCODERS.check(spec)
        if spec["name"] == "parallel":
            msg = "The encoder 'parallel' cannot hold another 'parallel'; give two encoders such as whisper and hubert."
            raise UserError(msg)
    FUSIONS.check(fusion)


def _check_frame_rate(frame_rate: float | None, own: list[float]) -> None:
    """Check that streams of the rates ``own`` can meet at the one asked for.

    Raises:
        UserError: If they cannot.
    """
    if frame_rate is not None and not 1 <= frame_rate <= max(own):
        msg = (
            f"The streams of `parallel` have {' and '.join(f'{rate:g}' for rate in own)} frames per second and cannot "
            f"meet at `frame_rate: {frame_rate:g}`. Choose 1 to {max(own):g}, or leave it out for {max(own):g}."
        )
        raise UserError(msg)
