"""Audio in: any file or array becomes 16 kHz mono float32 in [-1, 1]."""

import io
import logging
import math
import os
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import soundfile
import torch
from torch import Tensor

from speechllm.audio_levels import hidden_frames, lost_frames
from speechllm.batch import SAMPLE_RATE
from speechllm.errors import UserError

BLOCK_S = 60.0
"""How much is decoded at a time, in seconds: what a file claims to hold is never allocated on its word alone."""

HEADER_TOLERANCE_S = 0.2
"""How far the header of a file may be off; frame counts of mp3 files are estimates."""

MAX_PEAK = 4.0
"""Largest peak taken for an overshoot of decoding or resampling, and clipped; above, the scale is wrong."""

RESAMPLING_STEPS = 8_000
"""Largest numerator of the resampling ratio: a rate such as 15,999 Hz would need a filter of gigabytes."""

log = logging.getLogger(__name__)

_said_mixed_down = False


class AudioError(UserError):
    """Audio that cannot be used; the message names the file and what to do."""


@dataclass(frozen=True)
class AudioInfo:
    """What the header of an audio file says.

    Attributes:
        sampling_rate: In Hz.
        duration_s: In seconds.
        channels: Number of channels.
    """

    sampling_rate: int
    duration_s: float
    channels: int


def audio_info(path: str | Path) -> AudioInfo:
    """Return what the header of an audio file says, without decoding it.

    Raises:
        AudioError: If the file is missing, is not audio or holds no samples.
    """
    with _open(path) as file:
        return AudioInfo(file.samplerate, file.frames / file.samplerate, file.channels)


def read_audio(
    path: str | Path, offset_s: float = 0.0, duration_s: float | None = None, channel: int | None = None
) -> Tensor:
    """Read an audio file, or a segment of it, as the models take it.

    Wav, flac, mp3, ogg and opus files of any sampling rate and channel count are read. A segment is sought, so that
    a stretch of a long recording costs what the stretch costs.

    Args:
        path: Audio file.
        offset_s: Where to begin, in seconds.
        duration_s: How much to read, in seconds; to the end where it is not given. A segment that runs past the end
            gives what is there: compare the length with what was asked for.
        channel: Channel to read, from 0; the mean of all where it is not given.

    Returns:
        (T,) float32, 16 kHz mono in [-1, 1]; T is at least 1.

    Raises:
        AudioError: If the file is missing, not audio, empty, damaged or shorter than its header says, if it holds
            values that are not finite, or if the segment begins past its end or the channel is not there. A wav file
            that is cut off, or longer than its header says, is refused only where its end is asked for.
    """
    if offset_s < 0 or (duration_s is not None and not duration_s > 0):
        msg = f"A segment needs a start of at least 0 s and a duration above 0 s; got {offset_s} s and {duration_s} s."
        raise AudioError(msg)
    with _open(path) as file:
        return _segment(file, str(path), offset_s, duration_s, channel)


def decode_audio(content: bytes, name: str) -> Tensor:
    """Decode a whole audio file that is in memory, as :func:`read_audio` does one on disk.

    Args:
        content: The file's bytes.
        name: How messages name it.

    Raises:
        AudioError: If it is not audio, empty, damaged or shorter than its header says.
    """
    with _opened(io.BytesIO(content), name) as file:
        return _segment(file, name, 0.0, None, None)


def _segment(
    file: soundfile.SoundFile, name: str, offset_s: float, duration_s: float | None, channel: int | None
) -> Tensor:
    rate = file.samplerate
    start = round(offset_s * rate)
    left = file.frames - start
    if left <= 0:
        length_s = file.frames / rate
        msg = f"'{name}' is {length_s:.3f} s long, and a segment of it begins at {offset_s:.3f} s. Check the offsets."
        raise AudioError(msg)
    if channel is not None and not 0 <= channel < file.channels:
        msg = f"'{name}' has {file.channels} channels, and channel {channel} was asked for; they count from 0."
        raise AudioError(msg)
    wanted = left if duration_s is None else min(left, max(1, round(duration_s * rate)))
    samples = _decode(file, name, start, wanted)
    if len(samples) < wanted - HEADER_TOLERANCE_S * rate or not len(samples):
        msg = (
            f"'{name}' says that it holds {wanted / rate:.3f} s from {offset_s:.3f} s on, but only "
            f"{len(samples) / rate:.3f} s can be decoded. Fetch or convert the file anew."
        )
        raise AudioError(msg)
    if start + wanted >= file.frames - HEADER_TOLERANCE_S * rate:
        _check_end(file, name)
    if channel is None and file.channels > 1:
        _say_mixed_down(name, file.channels)
    try:
        return prepare_samples(samples.T if channel is None else samples[:, channel], rate)
    except AudioError as error:
        msg = f"'{name}' cannot be used: {error}"
        raise AudioError(msg) from error


def _check_end(file: soundfile.SoundFile, name: str) -> None:
    """Check that a wav file ends where its header says; decoders see to other formats."""
    for frames, what in ((lost_frames(file), "ends {} before"), (hidden_frames(file), "goes on for {} after")):
        if frames > HEADER_TOLERANCE_S * file.samplerate:
            how = what.format(f"{frames / file.samplerate:.3f} s")
            msg = f"'{name}' {how} the end that its header names. Fetch or convert the file anew."
            raise AudioError(msg)


def _say_mixed_down(name: str, channels: int) -> None:
    global _said_mixed_down
    if not _said_mixed_down:
        log.warning("'%s' has %d channels, of which the mean is taken, as of all others like it.", name, channels)
    _said_mixed_down = True


def prepare_samples(samples: npt.NDArray[np.generic] | Tensor, sampling_rate: int) -> Tensor:
    """Bring samples in memory to the form that the models take.

    Args:
        samples: (T,) mono, or (channels, T), which are averaged. Floating point in [-1, 1], or int8, uint8, int16 or
            int32, which are scaled by their full range.
        sampling_rate: In Hz.

    Returns:
        (T',) float32, 16 kHz mono in [-1, 1]; T' is T · 16,000 / ``sampling_rate``, rounded up.

    Raises:
        AudioError: If there are no samples, or their shape, type, scale or sampling rate cannot be right.
    """
    audio = _to_float(samples if isinstance(samples, Tensor) else torch.from_numpy(np.ascontiguousarray(samples)))
    if audio.ndim == 2 and audio.shape[0] > audio.shape[1] > 0:
        msg = f"Samples of shape {tuple(audio.shape)} have more channels than samples. Transpose them to (channels, T)."
        raise AudioError(msg)
    if audio.ndim not in (1, 2) or not audio.numel():
        msg = f"Samples need the shape (T,) or (channels, T) with T of at least 1, but have {tuple(audio.shape)}."
        raise AudioError(msg)
    if audio.ndim == 2:
        audio = audio[0] if len(audio) == 1 else audio.mean(dim=0)
    peak = float(audio.abs().max())
    if not math.isfinite(peak):
        msg = "The samples hold NaN or infinite values. Convert the audio anew, or leave it out."
        raise AudioError(msg)
    if peak > MAX_PEAK:
        msg = f"The samples reach {peak:g}, and must lie in [-1, 1]. Scale them, or pass integers of their own type."
        raise AudioError(msg)
    resampled = _resample(audio, sampling_rate)
    return resampled if resampled is audio and peak <= 1 else resampled.clamp(-1.0, 1.0)


def _open(path: str | Path) -> soundfile.SoundFile:
    if not os.path.isfile(path):  # unlike Path.is_file, it has an answer for names that are too long
        what = "is a folder" if os.path.isdir(path) else "does not exist"
        msg = f"The audio file '{path}' {what}. Check the path; where a manifest names it, prepare the corpus anew."
        raise AudioError(msg)
    if Path(path).stat().st_size == 0:
        msg = f"The audio file '{path}' is empty (0 bytes). Fetch it anew, or leave it out."
        raise AudioError(msg)
    return _opened(str(path), str(path))


def _opened(source: str | io.BytesIO, name: str) -> soundfile.SoundFile:
    try:
        file = soundfile.SoundFile(source)
    except (soundfile.LibsndfileError, OSError, TypeError) as error:  # TypeError: a name that ends in .raw
        msg = f"'{name}' cannot be decoded: {error} Convert it to flac or wav, or leave it out."
        raise AudioError(msg) from error
    if file.frames <= 0:
        file.close()
        msg = f"The audio file '{name}' holds no samples. Fetch it anew, or leave it out."
        raise AudioError(msg)
    return file


def _decode(file: soundfile.SoundFile, name: str, start: int, count: int) -> npt.NDArray[np.float32]:
    """Return up to ``count`` samples from ``start`` on, (T, channels) float32."""
    size = int(BLOCK_S * file.samplerate)
    blocks = []
    try:
        file.seek(start)
        while count > 0:
            block = file.read(min(size, count), dtype="float32", always_2d=True)
            blocks.append(block)
            if len(block) < min(size, count):
                break
            count -= len(block)
    except (soundfile.LibsndfileError, RuntimeError) as error:
        msg = f"'{name}' is damaged: {error} Fetch or convert it anew, or leave it out."
        raise AudioError(msg) from error
    return blocks[0] if len(blocks) == 1 else np.concatenate(blocks)


def _to_float(audio: Tensor) -> Tensor:
    if audio.is_floating_point():
        return audio.float()
    if audio.dtype == torch.uint8:
        return (audio.float() - 128) / 128
    if audio.dtype in (torch.int8, torch.int16, torch.int32):
        return (audio.double() / -torch.iinfo(audio.dtype).min).float()
    msg = f"Samples of type {audio.dtype} are not audio; give floating point, int8, uint8, int16 or int32."
    raise AudioError(msg)


def _resample(audio: Tensor, sampling_rate: int) -> Tensor:
    if sampling_rate == SAMPLE_RATE:
        return audio
    if sampling_rate <= 0 or SAMPLE_RATE // math.gcd(SAMPLE_RATE, int(sampling_rate)) > RESAMPLING_STEPS:
        msg = f"A sampling rate of {sampling_rate} Hz cannot be brought to 16,000 Hz. Convert the audio first."
        raise AudioError(msg)
    resampled: Tensor = _resampler(int(sampling_rate))(audio)
    return resampled


@lru_cache(maxsize=8)
def _resampler(sampling_rate: int) -> Any:
    """Return a resampler to 16 kHz, which keeps the filter that takes longer to compute than to apply."""
    from torchaudio.transforms import Resample  # loads a compiled library: only where it is needed

    return Resample(sampling_rate, SAMPLE_RATE)
