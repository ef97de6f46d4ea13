"""JSON lines as other tools write them: one object a line, plain or gzipped."""

import gzip
import json
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from speechllm.errors import UserError


def read_json_lines(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield each row with its place (``train.jsonl, line 3``); empty lines and a byte order mark are passed over.

    Args:
        path: The file; gzipped where its name ends in ``.gz``.

    Raises:
        UserError: If the file cannot be read, holds no row, or a line is not a JSON object.
    """
    number, found = 0, False
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as lines:
            for number, line in enumerate(lines, start=1):
                text = line.removeprefix(b"\xef\xbb\xbf") if number == 1 else line
                if text.strip():
                    found = True
                    where = f"{path}, line {number}"
                    yield where, _parsed(text, where)
    except (OSError, EOFError, zlib.error) as error:
        after = f", after line {number}" if number else ""
        msg = f"'{path}' cannot be read{after}: {error}. Fetch or write it anew."
        raise UserError(msg) from error
    if not found:
        msg = f"'{path}' holds no row. Fetch or write it anew."
        raise UserError(msg)


def _parsed(line: bytes, where: str) -> dict[str, Any]:
    try:
        row = json.loads(line)
        if b"\\ud" in line.lower():  # half of a surrogate pair, which no text file can hold
            json.dumps(row, ensure_ascii=False).encode()
    except RecursionError as error:
        msg = f"{where}: the objects in it are nested too deeply."
        raise UserError(msg) from error
    except ValueError as error:
        msg = f"{where}: not JSON: {error}. Each line must be one object, as UTF-8."
        raise UserError(msg) from error
    if not isinstance(row, dict):
        msg = f"{where}: not a JSON object, but {type(row).__name__}. Each line must be one object."
        raise UserError(msg)
    return row


def text_of(row: dict[str, Any], key: str, where: str) -> str:
    """Return a field as text, empty where it is absent or null.

    Raises:
        UserError: If it is neither text nor a number.
    """
    value = row.get(key)
    if value is None:
        return ""
    if isinstance(value, bool | list | dict):
        msg = f"{where}: `{key}` must be a text or a number, but is {value!r:.80}."
        raise UserError(msg)
    return str(value)


def seconds_of(row: dict[str, Any], key: str, where: str) -> float | None:
    """Return a field as seconds, None where it is absent, null or empty.

    Raises:
        UserError: If it is not a number from 0 on.
    """
    value = row.get(key)
    if value is None or value == "":
        return None
    try:
        number = -1.0 if isinstance(value, bool | list | dict) else float(value)
    except (ValueError, OverflowError):
        number = -1.0
    if not 0 <= number < float("inf"):
        msg = f"{where}: `{key}` is {value!r:.80}, and must be a number of seconds from 0 on."
        raise UserError(msg)
    return number
