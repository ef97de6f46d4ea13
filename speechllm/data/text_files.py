"""Text files of corpora as they are on disk: one line feed ends a line, and quotes mean nothing."""

from collections.abc import Iterator
from pathlib import Path

from speechllm.data.manifest import Tally
from speechllm.errors import UserError


def read_lines(path: Path) -> list[str]:
    r"""Return the lines of a text file, ended by ``\n`` alone.

    The texts hold stray carriage returns and U+2028 in the middle of segments, which text mode and ``splitlines`` take
    for line ends.

    Raises:
        UserError: If the file is not UTF-8.
    """
    try:
        text = path.read_bytes().decode("utf-8")
    except UnicodeDecodeError as error:
        msg = f"'{path}' is not UTF-8: {error}."
        raise UserError(msg) from error
    return text.removesuffix("\n").split("\n") if text else []


def read_table(path: Path, columns: tuple[str, ...], tally: Tally, escaped: bool = False) -> Iterator[dict[str, str]]:
    r"""Yield the rows of a tab-separated file by the names in its header; one physical line is one row.

    Quotes mean nothing: sentences hold single ones, and a parser that pairs them swallows the lines between.

    Args:
        path: The file.
        columns: Columns that it must have.
        tally: Where rows of a wrong number of fields are counted.
        escaped: Whether ``\"`` stands for a quote, as in files that the release's script wrote.

    Raises:
        UserError: If a column is missing or the file is not UTF-8.
    """
    try:
        with path.open(encoding="utf-8", newline="\n") as lines:
            header = next(lines, "").rstrip("\r\n").removeprefix("\ufeff").split("\t")
            if missing := [column for column in columns if column not in header]:
                msg = f"'{path}' has no column {', '.join(missing)}; its columns are: {', '.join(header)}."
                raise UserError(msg)
            for line in lines:
                fields = line.rstrip("\r\n").split("\t")
                if len(fields) != len(header):
                    tally.rejected[f"{len(fields)} fields for {len(header)} columns"] += 1
                    continue
                if escaped:
                    fields = [field.replace('\\"', '"') for field in fields]
                yield dict(zip(header, fields, strict=True))
    except (UnicodeDecodeError, OSError) as error:
        msg = f"'{path}' cannot be read: {error}."
        raise UserError(msg) from error
