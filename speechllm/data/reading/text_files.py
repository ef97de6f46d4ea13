"""Text files of corpora as they are on disk: one line feed ends a line, and quotes mean nothing."""

from collections.abc import Iterator
from pathlib import Path

from speechllm.data.manifest import Tally
from speechllm.errors import UserError


def read_lines(path: Path, tally: Tally | None = None, name: str | None = None) -> list[str]:
    r"""Return the lines of a text file, ended by ``\n`` alone and without a byte order mark.

    The texts hold stray carriage returns and U+2028 in the middle of segments, which text mode and ``splitlines`` take
    for line ends.

    Args:
        path: The file.
        tally: Where a last line that nothing ends is counted.
        name: What the file is called in the tally, where a corpus has very many of them; its own name where not given.

    Raises:
        UserError: If the file cannot be read or is not UTF-8.
    """
    try:
        content = path.read_bytes()
        text = content.decode("utf-8")
    except OSError as error:
        msg = f"'{path}' cannot be read: {error}."
        raise UserError(msg) from error
    except UnicodeDecodeError as error:
        raise not_utf8(path, error) from error
    if tally is not None:
        count_open_end(content, name or path.name, tally)
    text = text.removeprefix("\ufeff")
    return text.removesuffix("\n").split("\n") if text else []


def not_utf8(path: Path, error: UnicodeDecodeError) -> UserError:
    """Return what to say of a file that is not UTF-8, with the first line that is not.

    Args:
        path: The file.
        error: What decoding it, or a part of it, raised.
    """
    try:
        path.read_bytes().decode("utf-8")
    except UnicodeDecodeError as found:
        error = found  # of the whole file: a part does not know which line it begins with
    return UserError(f"'{path}' is not UTF-8 in line {line_of(error)}: {error}. Save it as UTF-8, or fetch it anew.")


def line_of(error: UnicodeDecodeError) -> int:
    """Return the number of the line, from 1, that cannot be decoded."""
    return error.object.count(b"\n", 0, error.start) + 1


def count_open_end(content: bytes, name: str, tally: Tally) -> None:
    """Count a file that does not end with a line feed: of a download that broke off, the last line is not whole.

    Args:
        content: The file, or the end of it.
        name: What it is called.
        tally: Where it is counted.
    """
    if content and not content.endswith(b"\n"):
        tally.changed[f"no line feed ends {name}, which may be cut off"] += 1


def read_table(
    path: Path, columns: tuple[str, ...], tally: Tally, escaped: bool = False, whole: bool = False
) -> Iterator[dict[str, str]]:
    r"""Yield the rows of a tab-separated file by the names in its header; one physical line is one row.

    Quotes mean nothing: sentences hold single ones, and a parser that pairs them swallows the lines between. Empty
    lines are no rows.

    Args:
        path: The file.
        columns: Columns that it must have.
        tally: Where rows of a wrong number of fields are counted, and a last line that nothing ends.
        escaped: Whether ``\"`` stands for a quote, as in files that the release's script wrote.
        whole: Whether a row of a wrong number of fields is an error, as in a test set, which must not lose one.

    Raises:
        UserError: If the file cannot be read or is not UTF-8, if a column is missing, or, with ``whole``, if a row is
            wrong; the message names the file and the line.
    """
    number = 1
    try:
        with path.open("rb") as lines:
            line = next(lines, b"")
            header = line.decode("utf-8").rstrip("\r\n").removeprefix("\ufeff").split("\t")
            if missing := [column for column in columns if column not in header]:
                there = f"its columns are: {', '.join(header)[:300]}" if any(header) else "it has no header"
                msg = f"'{path}' has no column {', '.join(missing)}; {there}. Fetch the file anew."
                raise UserError(msg)
            for number, line in enumerate(lines, start=2):
                text = line.decode("utf-8").rstrip("\r\n")
                fields = text.split("\t")
                if len(fields) != len(header):
                    if not text:
                        continue
                    what = f"{len(fields)} fields for {len(header)} columns"
                    if whole:
                        msg = f"{path}, line {number}: {what}. A test set must be whole: fetch the file anew."
                        raise UserError(msg)
                    tally.rejected[what] += 1
                    continue
                if escaped:
                    fields = [field.replace('\\"', '"') for field in fields]
                yield dict(zip(header, fields, strict=True))
            count_open_end(line, path.name, tally)
    except UnicodeDecodeError as error:
        msg = f"{path}, line {number}: not UTF-8 ({error}). Fetch the file anew, or convert it."
        raise UserError(msg) from error
    except OSError as error:
        msg = f"'{path}' cannot be read: {error}."
        raise UserError(msg) from error
