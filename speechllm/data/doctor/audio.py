"""The audio of a corpus: which stretches to measure, what was measured before, and what is wrong with a measurement."""

import math
import os
from collections import deque
from collections.abc import Generator, Iterable, Iterator, Mapping
from hashlib import blake2b
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from speechllm.audio import MAX_PEAK, RESAMPLING_STEPS
from speechllm.audio_levels import (
    MEASUREMENT,
    FileState,
    Job,
    Measurement,
    Measurements,
    Outcome,
    Stretch,
    measure_packed,
)
from speechllm.batch import SAMPLE_RATE
from speechllm.data.doctor.rules import Thresholds
from speechllm.data.utterance import Utterance
from speechllm.worker_pool import Crash, WorkerPool

STRETCHES = 64
"""Utterances of one file that are measured together. Opening an mp3 talk anew for each makes it ten times slower, and
more than this gains little; a talk of hundreds still occupies several workers."""

TIMEOUT_S = 600.0
"""How long one job may take, in seconds: :data:`STRETCHES` utterances decode in a second or two, but disks stall."""

_RECORD = np.dtype([("key", "u8"), ("measurement", MEASUREMENT)])
_MAGIC = b"speechllm measurements 1\n"


class Measured(NamedTuple):
    """Utterances of one split and file with their measurements; ``fresh`` where they were not measured before."""

    split: str
    utterances: list[Utterance]
    measurements: list[Measurement]
    fresh: bool


class MeasuredBefore:
    """Measurements on disk, so that a check that was interrupted goes on, and other thresholds decode nothing anew.

    A file that changed in size or time is measured anew. The file is only ever appended to.

    Args:
        path: The file; it is made where it is absent, and begun anew where it is not of this version.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o666)
        size = os.fstat(self._file).st_size
        if os.pread(self._file, len(_MAGIC), 0) != _MAGIC:
            os.ftruncate(self._file, 0)
            os.write(self._file, _MAGIC)
            size = len(_MAGIC)
        count = (size - len(_MAGIC)) // _RECORD.itemsize
        os.ftruncate(self._file, len(_MAGIC) + count * _RECORD.itemsize)  # a record that was not written to its end
        self._records = (
            np.memmap(path, dtype=_RECORD, mode="r", offset=len(_MAGIC), shape=(count,))
            if count
            else np.zeros(0, dtype=_RECORD)
        )
        keys = np.array(self._records["key"])
        self._order = np.argsort(keys, kind="stable")
        self._keys = keys[self._order]

    def find(self, job: Job) -> Measurements | None:
        """Return what is known of all stretches of a job, of one state of its file; None where something is not."""
        if not len(self._keys):
            return None
        keys = _keys(job)
        places = np.searchsorted(self._keys, keys, side="right") - 1  # the last one, where a file was measured again
        if (self._keys[places] != keys).any():
            return None
        found: Measurements = self._records["measurement"][self._order[places]]
        same = (found["size"] == found["size"][0]) & (found["mtime_ns"] == found["mtime_ns"][0])
        return found if same.all() else None

    def add(self, job: Job, measurements: Measurements) -> None:
        """Keep measurements; those of files that are missing, or crashed a process, are tried again."""
        if measurements["size"][0] < 0 or (measurements["outcome"] == Outcome.CRASHED).any():
            return
        records = np.zeros(len(measurements), dtype=_RECORD)
        records["key"], records["measurement"] = _keys(job), measurements
        os.write(self._file, records.tobytes())

    def close(self) -> None:
        """Close the file."""
        os.close(self._file)


def measure_all(splits: Mapping[str, Iterable[Utterance]], before: MeasuredBefore, workers: int) -> Generator[Measured]:
    """Yield utterances with their measurements, in their order; those of one file that follow each other at once.

    Args:
        splits: Utterances of each split, taken as they are needed.
        before: What was measured before; what is measured now is added.
        workers: Number of processes; 0 measures in this one.

    Raises:
        UserError: If the workers cannot start.
    """
    waiting: deque[tuple[str, list[Utterance], Measurements | None]] = deque()

    def jobs() -> Iterator[Job]:
        for split, group in ((split, group) for split, utterances in splits.items() for group in _by_file(utterances)):
            job = Job(group[0].audio, tuple(Stretch(one.offset_s, one.duration_s, one.channel) for one in group))
            known = before.find(job)
            waiting.append((split, group, known))
            yield job if known is None else job._replace(known=FileState(known["size"][0], known["mtime_ns"][0]))

    with WorkerPool(measure_packed, workers, TIMEOUT_S) as pool:
        for job, result in pool.map(jobs()):
            split, group, known = waiting.popleft()
            measurements = _unpacked(job, result)
            fresh = len(measurements) > 0
            if fresh:
                before.add(job, measurements)
            rows = measurements if fresh or known is None else known
            yield Measured(split, group, [Measurement(*row) for row in rows.tolist()], fresh)


def check_audio(utterance: Utterance, found: Measurement, thresholds: Thresholds) -> Iterator[tuple[str, str]]:
    """Yield reason and detail of what is wrong with the audio of an utterance."""
    unreadable = _unreadable(found, thresholds.tolerance_s)
    if unreadable:
        yield unreadable
    rate, seconds = found.rate, decoded_s(found)
    if rate and rate != utterance.sampling_rate:
        yield "rate differs from the manifest", f"{rate:,} Hz, not {utterance.sampling_rate:,} Hz"
    if rate and SAMPLE_RATE // math.gcd(SAMPLE_RATE, rate) > RESAMPLING_STEPS:
        yield "rate cannot be resampled", f"{rate:,} Hz"
    if unreadable:
        return
    if seconds < thresholds.min_duration_s:
        yield "too short", f"{1000 * seconds:.1f} ms"
    if seconds > thresholds.max_duration_s:
        yield "over-long", f"{seconds:.1f} s"
    yield from _check_levels(utterance, found, thresholds)


def decoded_s(found: Measurement) -> float:
    """Return how much was decoded, in seconds."""
    return found.decoded / found.rate if found.rate else 0.0


def dbfs(level: float) -> float:
    """Return a linear level in dB of full scale, -120 at the lowest."""
    return 20 * math.log10(max(level, 1e-6))


def _unreadable(found: Measurement, tolerance_s: float) -> tuple[str, str] | None:
    """Return what keeps a stretch from being read as it should, if anything."""
    if found.outcome:
        return _not_read(found)
    rate = found.rate
    there = min(found.wanted, found.frames - found.start)
    tolerance = tolerance_s * rate
    if found.decoded < there - tolerance or not found.decoded:
        return "truncated or damaged", f"{decoded_s(found):.2f} s of {there / rate:.2f} s can be decoded"
    if found.lost > tolerance and found.start + found.wanted > found.frames - tolerance:
        return "truncated or damaged", f"the file ends {found.lost / rate:.2f} s before its header says"
    if found.decoded < found.wanted - tolerance:
        return "shorter than the manifest says", f"{decoded_s(found):.2f} s of {found.wanted / rate:.2f} s"
    return None


def _not_read(found: Measurement) -> tuple[str, str]:
    outcome, said, rate = Outcome(found.outcome), found.message.decode("ascii"), max(1, found.rate)
    match outcome:
        case Outcome.BROKEN:
            return "truncated or damaged", f"{said} after {decoded_s(found):.2f} s of {found.wanted / rate:.2f} s"
        case Outcome.PAST_END:
            ends = f"the file ends at {found.frames / rate:.2f} s"
            return "past the end", f"it begins at {found.start / rate:.2f} s, and {ends}"
        case Outcome.NO_CHANNEL:
            return "no such channel", f"the file has {found.channels}"
    return _REASONS[outcome], said


_REASONS = {
    Outcome.MISSING: "missing file",
    Outcome.EMPTY: "empty file",
    Outcome.UNDECODABLE: "not decodable",
    Outcome.CRASHED: "crashes the decoder",
}


def _check_levels(utterance: Utterance, found: Measurement, thresholds: Thresholds) -> Iterator[tuple[str, str]]:
    peak, rms, mean = found.peak, found.rms, found.mean
    quietest, loudest = dbfs(found.quietest), dbfs(found.loudest)
    if not math.isfinite(peak):
        yield "not finite", ""
        return
    if peak > MAX_PEAK:
        yield "out of scale", f"peak {peak:g}"
        return
    levels = f"RMS {dbfs(rms):.1f} dBFS, peak {dbfs(peak):.1f} dBFS"
    if dbfs(rms) < thresholds.silent_rms_dbfs or dbfs(peak) < thresholds.silent_peak_dbfs:
        cancelled = utterance.channel is None and loudest > dbfs(rms) + 20
        yield "silent", f"{levels}; the channels cancel each other" if cancelled else levels
    elif dbfs(rms) < thresholds.quiet_rms_dbfs:
        yield "quiet", levels
    if (share := found.clipped / found.decoded) >= thresholds.clipped_share and found.clipped > 1:
        yield "clipped", f"{100 * share:.2f} % of the samples at full scale"
    if abs(mean) > thresholds.dc_offset:
        yield "DC offset", f"{mean:+.3f}"
    if utterance.channel is None and quietest < thresholds.silent_rms_dbfs and loudest > thresholds.quiet_rms_dbfs:
        yield "one silent channel", f"RMS {loudest:.1f} and {quietest:.1f} dBFS"


def _by_file(utterances: Iterable[Utterance]) -> Iterator[list[Utterance]]:
    """Yield neighbours that share a file, at most :data:`STRETCHES` at a time."""
    group: list[Utterance] = []
    for utterance in utterances:
        if group and (utterance.audio != group[0].audio or len(group) == STRETCHES):
            yield group
            group = []
        group.append(utterance)
    if group:
        yield group


def _unpacked(job: Job, result: bytes | Crash) -> Measurements:
    """Return the measurements of a job; where it ended its process, that may be the fault of one stretch alone."""
    if isinstance(result, bytes):
        return np.frombuffer(result, dtype=MEASUREMENT)
    if len(job.stretches) == 1:
        found = np.zeros(1, dtype=MEASUREMENT)
        found["outcome"], found["message"] = Outcome.CRASHED, result.reason.encode("ascii", "replace")[:80]
        return found
    alone = [job._replace(stretches=(stretch,), known=None) for stretch in job.stretches]
    with WorkerPool(measure_packed, 1, TIMEOUT_S) as pool:
        return np.concatenate([_unpacked(one, result) for one, result in pool.map(alone)])


def _keys(job: Job) -> NDArray[np.uint64]:
    """Return (N,) hashes that name the stretches of a job."""
    named = [f"{job.path}\0{stretch.offset_s}\0{stretch.duration_s}\0{stretch.channel}" for stretch in job.stretches]
    return np.array([hash64(name) for name in named], dtype=np.uint64)


def hash64(text: str) -> int:
    """Return a hash of a text that is the same in every process, and never 0."""
    digest = blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return int.from_bytes(digest, "little") or 1
