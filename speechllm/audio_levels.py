"""What is in stretches of an audio file: whether they decode, how much of them, and how loud.

Made for worker processes that look at every clip of a corpus: only numpy and soundfile are loaded, files are decoded
block by block whatever their headers claim, and nothing is raised.
"""

import os
import re
from enum import IntEnum
from hashlib import blake2b
from stat import S_ISREG
from typing import NamedTuple

import numpy as np
import soundfile
from numpy.typing import NDArray

BLOCK = 1 << 18
"""Samples that are decoded at a time, of all channels together: 16 s of mono at 16 kHz."""

FULL_SCALE = 0.999
"""Magnitude from which a sample counts as clipped; codecs give a clipped one back a little off."""

HASHED = 4
"""Every so many-th sample goes into the hash of the content, which is as telling and four times as fast."""

UNKNOWN_LENGTH = 0x7F000000
"""Bytes of wav data from which a header means that its writer, a pipe, did not know the length."""

_SHORT_WAV = re.compile(r"^data : (\d+) \(should be (\d+)\)", re.MULTILINE)
_LONG_WAV = re.compile(
    r"^Length : (?P<file>\d+)$(?s:.*)^data : (?P<data>\d+)\n"
    r"(?:\W*Unknown chunk marker|\*\*\* .{4} : \d+ \(unknown marker\)\n(?:Request .*\n)?\*\*\* Chunk size)",
    re.MULTILINE,
)
"""What libsndfile says where data is followed neither by another chunk nor by the end of the file."""


class Outcome(IntEnum):
    """What came of reading a stretch."""

    READ = 0
    """It was decoded, though perhaps less of it than asked for."""
    MISSING = 1
    """There is no such file."""
    EMPTY = 2
    """The file has 0 bytes."""
    UNDECODABLE = 3
    """The file cannot be opened as audio, or holds no samples."""
    PAST_END = 4
    """It begins where the file has ended."""
    NO_CHANNEL = 5
    """The file has no such channel."""
    BROKEN = 6
    """The decoder gave up part-way."""
    CRASHED = 7
    """Decoding ended the process; set by whoever runs it."""


class Stretch(NamedTuple):
    """A part of a file: where it begins and how long it is, in seconds, and its channel; None for the mean of all."""

    offset_s: float
    duration_s: float
    channel: int | None


class FileState(NamedTuple):
    """What shows that a file has not changed: its size in bytes, and when it was written, in ns."""

    size: int
    mtime_ns: int


class Job(NamedTuple):
    """Stretches of a file to measure, in any order.

    Attributes:
        path: The file.
        stretches: The stretches.
        known: State of the file at which they were measured before; where it still holds, nothing is decoded.
    """

    path: str
    stretches: tuple[Stretch, ...]
    known: FileState | None = None


class Measurement(NamedTuple):
    """What is known of a stretch. Levels are linear, 1 being full scale, of the channel asked for or the mean of all.

    Attributes:
        outcome: An :class:`Outcome`.
        message: What the decoder said.
        size: Size of the file in bytes; -1 where there is none.
        mtime_ns: When the file was written, in ns.
        rate: Sampling rate of the file in Hz.
        channels: Number of channels of the file.
        frames: Frames of the file, as far as the decoder knows without decoding.
        lost: Frames that the header of a wav file promises beyond the file's end.
        start: Where the stretch begins, in frames.
        wanted: Frames asked for.
        decoded: Frames that were there.
        peak: Largest magnitude; NaN or infinite where a sample is.
        rms: Root of the mean square.
        mean: Mean of the samples.
        clipped: Number of samples at full scale.
        loudest: RMS of the loudest channel.
        quietest: RMS of the quietest channel.
        content: Hash of the samples.
    """

    outcome: int
    message: bytes
    size: int
    mtime_ns: int
    rate: int
    channels: int
    frames: int
    lost: int
    start: int
    wanted: int
    decoded: int
    peak: float
    rms: float
    mean: float
    clipped: int
    loudest: float
    quietest: float
    content: int


_FORMATS = ("u1", "S80", "i8", "i8", "i4", "i2", "i8", "i8", "i8", "i8", "i8", "f4", "f4", "f4", "i8", "f4", "f4", "u8")
MEASUREMENT = np.dtype(list(zip(Measurement._fields, _FORMATS, strict=True)))
"""A :class:`Measurement` in an array."""

Measurements = NDArray[np.void]


def measure(job: Job) -> Measurements:
    """Return (N,) of :data:`MEASUREMENT` for the N stretches of a file; (0,) where the file is as it was known."""
    found = np.zeros(len(job.stretches), dtype=MEASUREMENT)
    found["size"] = -1
    try:
        state = os.stat(job.path)
        if not S_ISREG(state.st_mode):  # a pipe would keep whoever opens it waiting
            return _set(found, Outcome.MISSING, "it is not a file")
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path
        return _set(found, Outcome.MISSING, "" if isinstance(error, FileNotFoundError) else _text(error))
    if job.known == (state.st_size, state.st_mtime_ns):
        return found[:0]
    found["size"], found["mtime_ns"] = state.st_size, state.st_mtime_ns
    if not state.st_size:
        return _set(found, Outcome.EMPTY)
    waiting = sorted(range(len(found)), key=lambda number: job.stretches[number].offset_s)
    while waiting:
        try:
            with soundfile.SoundFile(job.path) as file, np.errstate(all="ignore"):
                found["rate"], found["channels"], found["frames"] = file.samplerate, file.channels, max(0, file.frames)
                if file.frames <= 0:
                    return _set(found, Outcome.UNDECODABLE, "it holds no samples")
                found["lost"] = lost_frames(file)
                healthy = True
                while waiting and healthy:  # a decoder that gave up is replaced for the stretches that are left
                    number = waiting.pop(0)
                    healthy = _measure_stretch(file, job.stretches[number], found, number)
        except (soundfile.SoundFileError, OSError, TypeError) as error:  # TypeError: a file called *.raw
            return _set(found, Outcome.UNDECODABLE, _text(error))
    return found


def measure_packed(job: Job) -> bytes:
    """Return what :func:`measure` does as bytes, which pass between processes far faster than an array's type."""
    return measure(job).tobytes()


def lost_frames(file: soundfile.SoundFile) -> int:
    """Return the frames that a wav file's header promises beyond the file's end; libsndfile takes them back itself."""
    if file.format not in ("WAV", "WAVEX") or not (said := _SHORT_WAV.search(file.extra_info)):
        return 0
    promised, there = int(said[1]), int(said[2])
    return (promised - there) * file.frames // there if there < promised < UNKNOWN_LENGTH and there else 0


def hidden_frames(file: soundfile.SoundFile) -> int:
    """Return the frames that a wav file holds behind the end that its header names, where libsndfile sees no chunk."""
    if file.format not in ("WAV", "WAVEX") or not (said := _LONG_WAV.search(file.extra_info)):
        return 0
    length, data = int(said["file"]), int(said["data"])
    return (length - data) * file.frames // data if data else 0


def _measure_stretch(file: soundfile.SoundFile, stretch: Stretch, found: Measurements, number: int) -> bool:
    """Fill in row ``number`` of ``found``; return whether the decoder can go on."""
    start, wanted = round(stretch.offset_s * file.samplerate), max(1, round(stretch.duration_s * file.samplerate))
    found["start"][number], found["wanted"][number] = start, wanted
    if start >= file.frames:
        _set(found[number : number + 1], Outcome.PAST_END)
        return True
    if stretch.channel is not None and stretch.channel >= file.channels:
        _set(found[number : number + 1], Outcome.NO_CHANNEL)
        return True
    levels = _Levels(file.channels, stretch.channel)
    broken = ""
    left = min(wanted, file.frames - start)
    size = max(HASHED, BLOCK // file.channels // HASHED * HASHED)
    try:
        if file.tell() != start:
            file.seek(start)
        while left > 0:
            asked = min(size, left)
            block = file.read(asked, dtype="float32", always_2d=True)
            levels.add(block)
            left -= len(block)
            if len(block) < asked:
                break
    except (soundfile.SoundFileError, RuntimeError, OSError) as error:
        broken = _text(error)
    levels.fill(found, number)
    if broken:
        _set(found[number : number + 1], Outcome.BROKEN, broken)
    return not broken


class _Levels:
    """Sums over the blocks of a stretch."""

    def __init__(self, channels: int, channel: int | None) -> None:
        self.channel = channel
        self.frames = self.clipped = 0
        self.peak = self.total = self.squares = 0.0
        self.channel_squares = np.zeros(channels)
        self.content = blake2b(digest_size=8)

    def add(self, block: NDArray[np.float32]) -> None:
        if not len(block):
            return
        if block.shape[1] == 1:
            samples = block[:, 0]
        else:
            samples = block.mean(axis=1) if self.channel is None else np.ascontiguousarray(block[:, self.channel])
            self.channel_squares += np.einsum("ij,ij->j", block, block, dtype=np.float64)
        peak = float(max(samples.max(), -samples.min()))
        self.frames += len(samples)
        self.peak = peak if not peak <= self.peak else self.peak  # NaN stays
        self.total += float(samples.sum(dtype=np.float64))
        self.squares += float(np.dot(samples, samples))
        if not peak < FULL_SCALE:
            self.clipped += int(np.count_nonzero(np.abs(samples) >= FULL_SCALE))
        self.content.update(samples[::HASHED].tobytes())

    def fill(self, found: Measurements, number: int) -> None:
        frames = max(1, self.frames)
        rms = (self.squares / frames) ** 0.5
        channels = np.sqrt(self.channel_squares / frames) if len(self.channel_squares) > 1 else np.array([rms])
        for name, value in (
            ("decoded", self.frames),
            ("peak", self.peak),
            ("rms", rms),
            ("mean", self.total / frames),
            ("clipped", self.clipped),
            ("loudest", channels.max()),
            ("quietest", channels.min()),
            ("content", int.from_bytes(self.content.digest(), "little")),
        ):
            found[name][number] = value


def _set(found: Measurements, outcome: Outcome, message: str = "") -> Measurements:
    found["outcome"], found["message"] = outcome, message.encode("ascii", "replace")[:80]
    return found


def _text(error: Exception) -> str:
    text = str(getattr(error, "error_string", "")) or getattr(error, "strerror", "") or str(error)
    return text.strip() or f"error {getattr(error, 'code', 'without a number')} of the decoder"
