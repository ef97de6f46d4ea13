"""Files of checkpoints: written whole or not at all, with a checksum inside, and checked when they are read.

A checkpoint is a zip archive, as ``torch.save`` writes it. Its comment holds a CRC-32 of all that stands before it, so
that the checksum cannot be separated from the file, and other programs read the file as any other checkpoint.
"""

import errno
import os
import re
import shutil
import struct
import zipfile
import zlib
from pathlib import Path
from typing import Any, BinaryIO

import torch
from lightning.fabric.plugins.io.torch_io import TorchCheckpointIO

from speechllm.durable_files import sync_folder
from speechllm.errors import UserError

UNFINISHED = ".unfinished"
"""End of the name of a file that is being written; its name begins with a dot."""

SEAL = re.compile(rb"speechllm crc32 ([0-9a-f]{8})")
SEAL_BYTES = len("speechllm crc32 00000000")
OUT_OF_SPACE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
BLOCK_BYTES = 1 << 22

_checked: set[tuple[str, int, int]] = set()


def _to_cpu(storage: Any, location: str) -> Any:
    """Leave a tensor that is read where torch puts it first."""
    return storage


class AtomicCheckpointIO(TorchCheckpointIO):
    """Write checkpoints so that a run which dies at any moment leaves whole ones only, and check them when reading.

    For ``Trainer(plugins=[AtomicCheckpointIO()])``; ``speechllm fit`` has it by default. Addresses of object stores are
    left to Lightning.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any | None = None) -> None:
        """Write a checkpoint.

        Raises:
            UserError: If it cannot be written; the file that was there stays.
        """
        if "://" in str(path):
            super().save_checkpoint(checkpoint, path, storage_options)
        else:
            write_checkpoint(checkpoint, Path(path))

    def load_checkpoint(
        self, path: Any, map_location: Any = _to_cpu, weights_only: bool | None = True
    ) -> dict[str, Any]:
        """Read a checkpoint, after a look at its checksum.

        Raises:
            UserError: If it is damaged.
        """
        if "://" not in str(path) and Path(path).is_file() and (problem := damage(Path(path))):
            msg = f"'{path}' is not a readable checkpoint: {problem}"
            raise UserError(msg)
        return super().load_checkpoint(path, map_location, weights_only is not False)


def write_checkpoint(checkpoint: dict[str, Any], path: Path) -> None:
    """Write a checkpoint beside its place, wait until it is on the disk, and only then put it there.

    Raises:
        UserError: If it cannot be written; the file that was there stays.
    """
    unfinished = path.with_name(f".{path.name}{UNFINISHED}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open_file(unfinished) as file:
            sealed = _SealedFile(file)
            _save(checkpoint, sealed)
            sealed.close()
            file.flush()
            os.fsync(file.fileno())
        os.replace(unfinished, path)
        sync_folder(path.parent)
    except OSError as error:
        unfinished.unlink(missing_ok=True)
        raise UserError(_cannot_write(path, error)) from error
    except BaseException:
        unfinished.unlink(missing_ok=True)
        raise


def open_file(path: Path) -> BinaryIO:
    """Open a file to be written anew."""
    return path.open("wb")


def _save(checkpoint: dict[str, Any], file: "_SealedFile") -> None:
    try:
        torch.save(checkpoint, file)  # type: ignore[arg-type]  # it needs no more than these methods
    except RuntimeError as error:  # torch's own, while the one that was raised in between is of its context
        cause: BaseException | None = error
        while cause is not None and not isinstance(cause, OSError):
            cause = cause.__context__
        raise cause or error from None


class _SealedFile:
    """A zip archive that is being written, to which a comment with its checksum is added."""

    def __init__(self, file: BinaryIO) -> None:
        self.file, self.crc, self.end = file, 0, b""

    def write(self, data: Any) -> int:
        """Write all but the last two bytes, which in the end are the length of the archive's comment."""
        view = memoryview(data).cast("B")
        size = len(view)
        if size < 2:
            view = memoryview(self.end + bytes(view))
        else:
            self._put(memoryview(self.end))
        self._put(view[:-2])
        self.end = bytes(view[-2:])
        return size

    def _put(self, view: memoryview) -> None:
        self.file.write(view)
        self.crc = zlib.crc32(view, self.crc)

    def flush(self) -> None:
        """Do nothing; the caller flushes."""

    def close(self) -> None:
        """Write the checksum."""
        if self.end != b"\0\0":  # the archive has a comment of its own
            self.file.write(self.end)
            return
        seal = f"speechllm crc32 {self.crc:08x}".encode()
        self.file.write(struct.pack("<H", len(seal)) + seal)


def damage(path: Path) -> str | None:
    """Return what is wrong with a file of a checkpoint, None for one that is as it was written.

    One that was written without a checksum, by an earlier version or another program, is held to the archive's own.
    """
    try:
        stat = path.stat()
        key = (str(path.resolve()), stat.st_mtime_ns, stat.st_size)
        if key in _checked:
            return None
        if stat.st_size == 0:
            return "it is empty"
        with path.open("rb") as file:
            file.seek(max(0, stat.st_size - SEAL_BYTES))
            seal = SEAL.fullmatch(file.read())
            if seal and _crc32(file, stat.st_size - SEAL_BYTES - 2) != int(seal[1], 16):
                return "its checksum is not that of what was written"
        if not seal:
            with zipfile.ZipFile(path) as archive:
                if broken := archive.testzip():
                    return f"the checksum of '{broken}' inside is not that of what was written"
    except (zipfile.BadZipFile, zlib.error, NotImplementedError, EOFError, RuntimeError, ValueError):
        return "it is cut off, or no checkpoint"
    except OSError as error:
        return f"it cannot be read: {error}"
    _checked.add(key)
    return None


def _crc32(file: BinaryIO, size: int) -> int:
    """Return the checksum of the first ``size`` bytes of a file."""
    file.seek(0)
    crc = 0
    while size > 0 and (block := file.read(min(BLOCK_BYTES, size))):
        crc = zlib.crc32(block, crc)
        size -= len(block)
    return crc


def remove(path: Path) -> None:
    """Remove a checkpoint, which is a folder where each process wrote its share; it may be absent."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def _cannot_write(path: Path, error: OSError) -> str:
    kept = f" The one before, '{path}', is untouched." if path.exists() else ""
    if error.errno in OUT_OF_SPACE:
        free_gb = shutil.disk_usage(path.parent).free / 1e9
        return (
            f"There is no space for the checkpoint '{path}': {error.strerror} ({free_gb:.1f} GB free).{kept} Make "
            f"room, and go on with `--resume auto`."
        )
    return f"The checkpoint '{path}' cannot be written: {error}.{kept}"
