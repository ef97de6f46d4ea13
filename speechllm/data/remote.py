"""Files on disk, on web servers and in object stores, by fsspec: read in pieces, each tried again when it fails."""

import logging
import random
import time
from typing import Any

import fsspec
from fsspec.core import url_to_fs

from speechllm.errors import UserError

PIECE_BYTES = 8 * 2**20
"""How much is asked for at a time: what a broken connection costs."""

GONE = (FileNotFoundError, PermissionError, IsADirectoryError, NotADirectoryError)
"""Failures that waiting does not mend."""

log = logging.getLogger(__name__)


class Location:
    """A folder on disk or behind a URL.

    Args:
        url: A path, or ``s3://bucket/folder``, ``https://server/folder`` and whatever else fsspec knows.
        tries: How often a piece is asked for before a run ends.
        wait_s: Seconds before the second try; twice as long before each further one, up to a minute.

    Raises:
        UserError: If the protocol is unknown, or its package is not installed.
    """

    def __init__(self, url: str, tries: int = 6, wait_s: float = 1.0) -> None:
        self.url, self.tries, self.wait_s = url.rstrip("/"), tries, wait_s
        try:
            fsspec.get_filesystem_class(fsspec.utils.get_protocol(self.url))
        except (ValueError, ImportError) as error:
            msg = f"'{url}' cannot be reached: {error}. Give a folder, or install what the protocol needs."
            raise UserError(msg) from error

    @property
    def is_local(self) -> bool:
        """Whether the folder is on disk."""
        return bool(fsspec.utils.get_protocol(self.url) in ("file", "local"))

    def read(self, name: str, start: int = 0, stop: int | None = None) -> bytes:
        """Return a stretch of a file.

        Args:
            name: Path of the file from the folder.
            start: First byte.
            stop: Byte after the last; the file's end where not given.

        Raises:
            UserError: If the file is not there, is shorter than that, or every try failed.
        """
        stop = self.size(name) if stop is None else stop
        pieces = []
        for first in range(start, stop, PIECE_BYTES):
            last = min(stop, first + PIECE_BYTES)
            pieces.append(self._insist(name, lambda first=first, last=last: self._piece(name, first, last)))
        return b"".join(pieces)

    def read_if_there(self, name: str) -> bytes:
        """Return a file, or nothing where there is none.

        Raises:
            UserError: If every try failed.
        """

        def ask() -> bytes:
            system, path = url_to_fs(f"{self.url}/{name}")
            return bytes(system.cat_file(path)) if system.exists(path) else b""

        return bytes(self._insist(name, ask))

    def size(self, name: str) -> int:
        """Return the size of a file in bytes.

        Raises:
            UserError: If the file is not there, or every try failed.
        """

        def ask() -> int:
            system, path = url_to_fs(f"{self.url}/{name}")
            return int(system.info(path)["size"])

        return int(self._insist(name, ask))

    def write(self, name: str, content: bytes) -> None:
        """Write a file whole.

        Raises:
            UserError: If it cannot be written.
        """

        def put() -> None:
            system, path = url_to_fs(f"{self.url}/{name}")
            system.makedirs(system._parent(path), exist_ok=True)
            system.pipe_file(path, content)

        self._insist(name, put)

    def _piece(self, name: str, start: int, stop: int) -> bytes:
        system, path = url_to_fs(f"{self.url}/{name}")
        content = bytes(system.cat_file(path, start=start, end=stop))
        if len(content) > stop - start:  # a server that knows no ranges sends everything
            content = content[start:stop]
        if len(content) != stop - start and self.is_local:
            msg = f"'{self.url}/{name}' ends before byte {stop}. Write it anew."
            raise UserError(msg)
        if len(content) != stop - start:
            msg = f"{len(content)} bytes came instead of {stop - start}"
            raise OSError(msg)
        return content

    def _insist(self, name: str, action: Any) -> Any:
        """Return what ``action`` gives, after as many tries as it takes."""
        where = f"{self.url}/{name}"
        for attempt in range(1, self.tries + 1):
            try:
                return action()
            except UserError:
                raise
            except GONE as error:
                msg = f"'{where}' is not there, or may not be used: {error}. Correct the address, or write it anew."
                raise UserError(msg) from error
            except ImportError as error:
                msg = f"'{where}' cannot be reached: {error}"
                raise UserError(msg) from error
            except Exception as error:  # every protocol has errors of its own
                cause = f"{type(error).__name__}: {error}"
                if attempt == self.tries:
                    msg = f"'{where}' could not be read in {self.tries} tries. The last error: {cause}."
                    raise UserError(msg) from error
                wait_s = min(60.0, self.wait_s * 2 ** (attempt - 1)) * random.uniform(0.75, 1.25)
                log.warning("'%s': %s; try %d of %d in %.1f s.", where, cause, attempt + 1, self.tries, wait_s)
                time.sleep(wait_s)
        raise AssertionError
