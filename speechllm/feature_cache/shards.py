"""Shards of a cache: written by one process each, and there only when their index is.

A shard is two files: ``NAME.bin``, the records one after the other, and ``NAME.npz``, its index. Both are written under
another name, forced to disk and renamed, the index last: what a killed process leaves behind does not count.
"""

import os
import re
import secrets
import socket
import time
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from speechllm.durable_files import sync_folder
from speechllm.feature_cache.audio_keys import KEY_BYTES
from speechllm.feature_cache.records import RecordLayout

SHARD_BYTES = 1 << 30
"""Size at which a shard is closed."""

SHARD_S = 120.0
"""Age at which a shard is closed, in seconds: a killed process loses no more than this."""

PART = ".part"
"""What the names of unfinished files end with."""


class DamagedError(Exception):
    """A shard, or a record in it, that is not what was written."""


@dataclass
class ShardIndex:
    """What is in a shard.

    Attributes:
        name: The shard's name.
        keys: (N, 16) uint8, content keys of its records.
        samples: (N,) int64, audio samples of each.
        frames: (N,) int64, frames of each.
        starts: (N,) int64, first byte of each.
        checksums: (N,) uint32, CRC-32 of each.
        file_keys: (M, 16) uint8, keys of stretches of files.
        file_contents: (M, 16) uint8, content key of each; its record may be in another shard.
        squares: (2,) float64, sum of squared errors of what is stored, and of squared values.
        size: Bytes of the records.
    """

    name: str
    keys: NDArray[np.uint8]
    samples: NDArray[np.int64]
    frames: NDArray[np.int64]
    starts: NDArray[np.int64]
    checksums: NDArray[np.uint32]
    file_keys: NDArray[np.uint8]
    file_contents: NDArray[np.uint8]
    squares: NDArray[np.float64]
    size: int


class ShardWriter:
    """Writes one process's shards.

    Args:
        folder: Folder of the shards.
        layout: Layout of the records.
        shard_bytes: Size at which a shard is closed.
        shard_s: Age at which it is closed, in seconds.
    """

    def __init__(
        self, folder: Path, layout: RecordLayout, shard_bytes: int = SHARD_BYTES, shard_s: float = SHARD_S
    ) -> None:
        self.folder, self.layout, self.shard_bytes, self.shard_s = folder, layout, shard_bytes, shard_s
        folder.mkdir(parents=True, exist_ok=True)
        self._writer = f"{host_name()}-{os.getpid()}-{secrets.token_hex(4)}"
        self._number = 0
        self._file: BinaryIO | None = None
        self._clear()

    def add(self, key: bytes, samples: int, values: Tensor, logits: Tensor | None = None) -> None:
        """Write the frames of an utterance.

        Args:
            key: Content key of its audio.
            samples: Audio samples.
            values: (F, E) float on the CPU.
            logits: (F, C) float on the CPU, where the encoder has a CTC head.
        """
        if self._file is None:
            self._file = (self.folder / f"{self._name}.bin{PART}").open("wb")
        record = self.layout.pack(values, logits)
        self._file.write(record)
        self._records.append((key, samples, len(values), self._size, zlib.crc32(record)))
        self._size += len(record)
        exact = values.float()
        self._squares += [float((self.layout.stored(values) - exact).square().sum()), float(exact.square().sum())]

    def know(self, file_key: bytes, content: bytes) -> None:
        """Note that a stretch of a file has the audio of a content key, whose record is written already."""
        self._files.append((file_key, content))

    def close_if_due(self) -> None:
        """Close the shard where it is large or old enough."""
        if self._size >= self.shard_bytes or time.monotonic() - self._began_s >= self.shard_s:
            self.close()

    def close(self) -> None:
        """Finish the shard; from now on it counts."""
        if self._records or self._files:
            if self._file is not None:
                _finish(self._file, self.folder / f"{self._name}.bin")
            with (self.folder / f"{self._name}.npz{PART}").open("wb") as file:
                np.savez(file, **self._arrays())
                _finish(file, self.folder / f"{self._name}.npz")
            sync_folder(self.folder)
            self._number += 1
        elif self._file is not None:
            self._file.close()
        self._clear()

    @property
    def _name(self) -> str:
        return f"{self._writer}-{self._number:05d}"

    def _clear(self) -> None:
        self._file, self._size = None, 0
        self._records: list[tuple[bytes, int, int, int, int]] = []
        self._files: list[tuple[bytes, bytes]] = []
        self._squares = np.zeros(2)
        self._began_s = time.monotonic()

    def _arrays(self) -> dict[str, Any]:
        columns = list(zip(*self._records, strict=True)) or [()] * 5
        files, contents = list(zip(*self._files, strict=True)) or [(), ()]
        return {
            "keys": _keys(columns[0]),
            "samples": np.array(columns[1], np.int64),
            "frames": np.array(columns[2], np.int64),
            "starts": np.array(columns[3], np.int64),
            "checksums": np.array(columns[4], np.uint32),
            "file_keys": _keys(files),
            "file_contents": _keys(contents),
            "squares": self._squares,
            "size": np.array(self._size),
        }


def read_index(path: Path) -> ShardIndex:
    """Read the index of a shard, and check that its records are all there.

    Raises:
        DamagedError: If the index cannot be read, or the shard is not as long as it says.
    """
    try:
        with np.load(path, allow_pickle=False) as arrays:
            columns = {name: arrays[name] for name in arrays.files}
        index = ShardIndex(path.stem, **columns | {"size": int(columns["size"])})
    except (OSError, ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        msg = f"its index cannot be read: {error}"
        raise DamagedError(msg) from error
    records = path.with_suffix(".bin")
    size = records.stat().st_size if records.is_file() else 0
    if size != index.size:
        msg = f"it has {size} bytes, not {index.size}"
        raise DamagedError(msg)
    return index


def remove_leftovers(folder: Path) -> int:
    """Remove what processes of this machine that have ended left unfinished; return the number of files."""
    removed = 0
    for path in [*folder.glob(f"*{PART}"), *folder.glob("*.bin")]:
        host, process, _ = [*path.name.rsplit("-", 3), "", "", ""][:3]
        finished = path.suffix == ".bin" and path.with_suffix(".npz").exists()
        if not finished and host == host_name() and process.isdigit() and not _runs(int(process)):
            path.unlink(missing_ok=True)
            removed += 1
    return removed


def host_name() -> str:
    """Return the name of this machine, as names of shards have it."""
    return re.sub(r"[^\w.-]", "_", socket.gethostname())


def _runs(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return True


def _keys(keys: tuple[bytes, ...]) -> NDArray[np.uint8]:
    return np.frombuffer(b"".join(keys), np.uint8).reshape(-1, KEY_BYTES)


def _finish(file: BinaryIO, path: Path) -> None:
    """Force a file to disk and give it its name."""
    file.flush()
    os.fsync(file.fileno())
    file.close()
    Path(file.name).rename(path)
