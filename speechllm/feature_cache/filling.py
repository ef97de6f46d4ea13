"""Filling a cache: one process's share of the utterances, batch by batch."""

import contextlib
import math
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from speechllm.batch import SAMPLE_RATE, Batch, Frames
from speechllm.errors import UserError
from speechllm.feature_cache.audio_keys import content_key
from speechllm.feature_cache.folder import SHARDS, CacheSettings
from speechllm.feature_cache.shards import ShardWriter
from speechllm.feature_cache.store import FeatureStore

SPARE = 0.02
"""Share of a disk's free space that a cache leaves free."""

INDEX_BYTES = 96
"""What the index takes for an utterance."""


@dataclass
class Counts:
    """What came of filling.

    Attributes:
        added: Utterances that were encoded and written.
        added_s: Their audio in seconds.
        known: Utterances whose audio was there already, under another file.
        unreadable: Clips that could not be read.
        unfit: Clips that are too short or too long for the encoder.
        done_s: Audio that was dealt with in either way, in seconds.
    """

    added: int = 0
    added_s: float = 0.0
    known: int = 0
    unreadable: int = 0
    unfit: int = 0
    done_s: float = 0.0

    def __iadd__(self, other: "Counts") -> "Counts":
        for field in fields(self):
            setattr(self, field.name, getattr(self, field.name) + getattr(other, field.name))
        return self


class CacheFiller:
    """Encodes batches and writes their frames, in a thread of its own.

    Args:
        folder: Folder of the cache, which is described already.
        settings: What it holds.
        encode: The encoder: audio (B, T) and lengths (B,) to frames, wherever it computes.
        store: The cache as it was at the beginning.

    Raises:
        UserError: If the folder cannot be written to.
    """

    def __init__(
        self,
        folder: Path,
        settings: CacheSettings,
        encode: Callable[[Tensor, Tensor], Frames],
        store: FeatureStore,
    ) -> None:
        self.settings, self.encode, self.store = settings, encode, store
        try:
            self.writer = ShardWriter(folder / SHARDS, settings.layout)
        except OSError as error:
            raise _full(error, folder / SHARDS) from error
        self._written: set[bytes] = set()

    def fill(self, batches: Iterable[Batch], file_keys: Callable[[Batch], Sequence[bytes | None]]) -> Iterable[Counts]:
        """Fill the cache; yield what came of each batch.

        Args:
            batches: Utterances; those of length 0 could not be read.
            file_keys: Gives the keys of the files that the utterances of a batch come from.

        Raises:
            UserError: If the disk is full; what was finished before stays.
        """
        try:
            yield from self._fill(batches, file_keys)
        except OSError as error:
            raise _full(error, self.writer.folder) from error
        except BaseException:  # an interruption: what is complete is kept
            with contextlib.suppress(OSError):
                self.writer.close()
            raise
        try:
            self.writer.close()
        except OSError as error:
            raise _full(error, self.writer.folder) from error

    def _fill(self, batches: Iterable[Batch], file_keys: Callable[[Batch], Sequence[bytes | None]]) -> Iterator[Counts]:
        waiting: Future[None] | None = None
        with ThreadPoolExecutor(1) as thread:
            for batch in batches:
                keys, rows, counts = self._sort(batch)
                frames = None
                if rows:
                    few = batch.select(rows)
                    frames = self.encode(few.audio, few.audio_lengths).to("cpu")
                if waiting is not None:
                    waiting.result()
                waiting = thread.submit(self._write, batch, keys, rows, frames, file_keys(batch))
                yield counts
            if waiting is not None:
                waiting.result()

    def _sort(self, batch: Batch) -> tuple[list[bytes | None], list[int], Counts]:
        """Return the content key of each utterance, None for those that are not stored, and the rows to encode."""
        counts = Counts(done_s=sum(batch.durations_s))
        keys: list[bytes | None] = []
        rows: list[int] = []
        limit = math.inf if self.settings.max_duration_s is None else self.settings.max_duration_s * SAMPLE_RATE
        for row, samples in enumerate(batch.audio_lengths.tolist()):
            if not samples:
                counts.unreadable += 1
                keys.append(None)
            elif not self.settings.min_samples <= samples <= limit:
                counts.unfit += 1
                keys.append(None)
            else:
                key = content_key(batch.audio[row, :samples])
                keys.append(key)
                if key in self._written or self.store.find(key) is not None:
                    counts.known += 1
                else:
                    self._written.add(key)
                    rows.append(row)
                    counts.added += 1
                    counts.added_s += samples / SAMPLE_RATE
        return keys, rows, counts

    def _write(
        self,
        batch: Batch,
        keys: Sequence[bytes | None],
        rows: Sequence[int],
        frames: Frames | None,
        file_keys: Sequence[bytes | None],
    ) -> None:
        for place, row in enumerate(rows):
            key = keys[row]
            assert frames is not None
            assert key is not None
            length = int(frames.lengths[place])
            logits = None if frames.ctc_logits is None else frames.ctc_logits[place, :length]
            self.writer.add(key, int(batch.audio_lengths[row]), frames.values[place, :length], logits)
        for key, file_key in zip(keys, file_keys, strict=True):
            if key is not None and file_key is not None:
                self.writer.know(file_key, key)
        self.writer.close_if_due()


def forecast_bytes(settings: CacheSettings, durations_s: NDArray[np.float64]) -> int:
    """Return about how many bytes utterances of these durations (N,) will take."""
    frames = np.ceil(durations_s * settings.frame_rate).sum()
    return int(frames) * settings.layout.frame_bytes + len(durations_s) * INDEX_BYTES


def check_space(folder: Path, needed: int) -> int:
    """Check that a disk has room, and return its free bytes.

    Args:
        folder: Folder on that disk, which may not be there yet.
        needed: Bytes.

    Raises:
        UserError: If it has not.
    """
    there = folder.resolve()
    while not there.exists():
        there = there.parent
    free = shutil.disk_usage(there).free
    if needed > free * (1 - SPARE):
        msg = (
            f"The cache will take about {gigabytes(needed)}, and '{folder}' has {gigabytes(free)} free. Name a larger "
            f"disk in `cache`, take `cache: {{dir: …, format: int8}}` (about half), or cache fewer splits (`--splits`)."
        )
        raise UserError(msg)
    return free


def gigabytes(size: float) -> str:
    """Return a size for people."""
    for unit, bytes_ in (("GB", 1e9), ("MB", 1e6)):
        if size >= bytes_ / 10:
            return f"{size / bytes_:.1f} {unit}"
    return f"{size / 1e3:.1f} kB"


def _full(error: OSError, folder: Path) -> UserError:
    return UserError(
        f"Writing to '{folder}' failed: {error.strerror or error}. What was finished stays and counts; make room, and "
        f"run the command again: it goes on from there."
    )
