"""All shards of a cache as one table, looked up by audio; processes may share it without a lock."""

import logging
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from speechllm.feature_cache.audio_keys import KEY_BYTES
from speechllm.feature_cache.folder import SHARDS, read_settings
from speechllm.feature_cache.shards import DamagedError, ShardIndex, read_index

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Place:
    """Where the frames of an utterance are.

    Attributes:
        shard: Number of the shard.
        start: First byte.
        samples: Audio samples.
        frames: Frames.
        checksum: CRC-32 of the record.
    """

    shard: int
    start: int
    samples: int
    frames: int
    checksum: int


class KeyTable:
    """Positions of keys, found by bisection: arrays that forked processes share.

    Args:
        keys: (N, 16) uint8.
    """

    def __init__(self, keys: NDArray[np.uint8]) -> None:
        heads = np.ascontiguousarray(keys[:, :8]).view(np.uint64).reshape(-1)
        self._positions = np.argsort(heads, kind="stable")
        self._heads = heads[self._positions]
        self._keys = keys

    def find(self, key: bytes) -> int | None:
        """Return the first position of a key; None where it is not there."""
        head = np.frombuffer(key[:8], np.uint64)[0]
        place = int(np.searchsorted(self._heads, head))
        while place < len(self._heads) and self._heads[place] == head:
            position = int(self._positions[place])
            if self._keys[position].tobytes() == key:
                return position
            place += 1
        return None


class FeatureStore:
    """The cache in a folder, as it was when it was opened.

    Shards that are damaged are left out, and named in a warning. A copy in another process reads the folder anew, where
    it is not forked.

    Args:
        folder: Folder of the cache.

    Attributes:
        settings: What the cache holds.
        damaged: Why shards were left out, by name.
    """

    def __init__(self, folder: Path) -> None:
        settings = read_settings(folder)
        if settings is None:
            msg = f"'{folder}' is no cache."
            raise FileNotFoundError(msg)
        self.folder, self.settings = folder, settings
        self._open()

    def _open(self) -> None:
        self.layout = self.settings.layout
        self.damaged: dict[str, str] = {}
        shards: list[ShardIndex] = []
        for path in sorted((self.folder / SHARDS).glob("*.npz")):
            try:
                shards.append(read_index(path))
            except DamagedError as error:
                self.damaged[path.stem] = str(error)
                log.warning(
                    "The shard '%s' of a cache is left out: %s. Its frames are computed anew; `speechllm cache` "
                    "replaces it.",
                    path,
                    error,
                )
        self._names = [shard.name for shard in shards]
        self.bytes = sum(shard.size for shard in shards)
        self.squares = np.sum([shard.squares for shard in shards], axis=0) if shards else np.zeros(2)
        counts = [len(shard.keys) for shard in shards]
        self._shard_of = np.repeat(np.arange(len(shards), dtype=np.int32), counts)
        self.samples, self._frames, self._starts, self._checksums = (
            _joined([getattr(shard, name) for shard in shards], (0,))
            for name in ("samples", "frames", "starts", "checksums")
        )
        self._contents = KeyTable(_joined([shard.keys for shard in shards], (0, KEY_BYTES)))
        self._files = KeyTable(_joined([shard.file_keys for shard in shards], (0, KEY_BYTES)))
        self._file_contents = _joined([shard.file_contents for shard in shards], (0, KEY_BYTES))
        self._records: dict[int, NDArray[np.uint8]] = {}

    def __len__(self) -> int:
        return len(self.samples)

    def __getstate__(self) -> dict[str, Any]:
        return {"folder": self.folder, "settings": self.settings}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._open()

    def find(self, content: bytes) -> Place | None:
        """Return where the frames of audio with this content key are; None where they are not there."""
        row = self._contents.find(content)
        if row is None:
            return None
        return Place(
            int(self._shard_of[row]),
            int(self._starts[row]),
            int(self.samples[row]),
            int(self._frames[row]),
            int(self._checksums[row]),
        )

    def find_file(self, file_key: bytes) -> Place | None:
        """Return where the frames of a stretch of a file are; None where it is not known."""
        row = self._files.find(file_key)
        return None if row is None else self.find(self._file_contents[row].tobytes())

    def read(self, place: Place) -> NDArray[np.uint8]:
        """Return a record, (N,) uint8.

        Raises:
            DamagedError: If it is not what was written.
        """
        if place.shard not in self._records:
            path = self.folder / SHARDS / f"{self._names[place.shard]}.bin"
            try:
                self._records[place.shard] = np.memmap(path, np.uint8, mode="r")
            except (OSError, ValueError) as error:
                msg = f"the shard '{path}' cannot be read: {error}"
                raise DamagedError(msg) from error
        record = self._records[place.shard][place.start : place.start + place.frames * self.layout.frame_bytes]
        if zlib.crc32(record.data) != place.checksum:
            msg = f"the shard '{self.folder / SHARDS / self._names[place.shard]}.bin' is damaged at {place.start}"
            raise DamagedError(msg)
        return record

    def verify(self) -> list[str]:
        """Read every record, and return the names of shards that hold a damaged one."""
        found = set()
        for row in range(len(self)):
            number = int(self._shard_of[row])
            place = Place(number, int(self._starts[row]), 0, int(self._frames[row]), int(self._checksums[row]))
            try:
                self.read(place)
            except DamagedError:
                found.add(self._names[number])
        return sorted(found)

    def set_aside(self, names: Sequence[str]) -> None:
        """Give shards another name, so that they do not count, and read the folder anew."""
        for name in names:
            for suffix in (".npz", ".bin"):  # the index first: a shard without one does not count
                path = self.folder / SHARDS / f"{name}{suffix}"
                if path.exists():
                    path.rename(path.with_name(f"{path.name}.damaged"))
        self._open()


def _joined(arrays: list[NDArray[Any]], empty: tuple[int, ...]) -> NDArray[Any]:
    return np.concatenate(arrays) if arrays else np.zeros(empty, np.uint8)
