"""Rows of a table of utterances: CSV, TSV or JSON lines, as spreadsheets, pandas and people write them."""

import csv
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from speechllm.data.manifest import Tally
from speechllm.data.reading.json_lines import read_json_lines, text_of
from speechllm.data.reading.text_files import count_open_end, not_utf8
from speechllm.errors import UserError, did_you_mean

SUFFIXES = (".csv", ".tsv", ".jsonl")
"""Suffixes of tables; each is one way of writing them."""

COLUMNS = ("audio", "transcript", "translation", "source", "target", "speaker", "id", "offset", "duration")
"""Columns that are read, beside ``translation_<language>``; all others are passed over."""


@dataclass(frozen=True)
class TableRow:
    """One row of a table.

    Attributes:
        where: File and line, for messages.
        cells: What the row holds, by column; columns that are empty or absent are missing.
        columns: All columns of the table; for JSON lines those of the row.
    """

    where: str
    cells: dict[str, str]
    columns: list[str]

    def seconds(self, column: str) -> float | None:
        """Return a cell as seconds, None where it is empty.

        Raises:
            UserError: If it is not a number from 0 on.
        """
        text = self.cells.get(column)
        if text is None:
            return None
        try:
            value = float(text)
        except ValueError:
            value = -1.0
        if not 0 <= value < float("inf"):
            msg = f"{self.where}: `{column}` is '{text}', and must be a number of seconds from 0 on."
            raise UserError(msg)
        return value


def read_rows(path: Path, tally: Tally, whole: bool) -> Iterator[TableRow]:
    """Yield the rows of a table.

    A byte order mark, either kind of line end and empty lines are passed over; text is left as it is.

    Args:
        path: The table; its suffix says how it is written. In CSV a cell may stand in quotes, with quotes inside
            doubled. In TSV quotes are text, unless a whole cell stands in them with doubled ones inside.
        tally: Where rows of a wrong number of cells are counted, and a last line that nothing ends.
        whole: Whether such a row is an error, as in a test set, and not left out.

    Raises:
        UserError: If the file cannot be read, its suffix is not one of :data:`SUFFIXES`, it has no column ``audio``, or
            a row is not what the format allows.
    """
    suffix = path.suffix.lower()
    if suffix not in SUFFIXES:
        msg = f"A table ends in one of {', '.join(SUFFIXES)}, but this is '{path}'."
        raise UserError(msg)
    try:
        if suffix == ".jsonl":
            yield from _json_rows(path)
            return
        rows = _csv_rows(path) if suffix == ".csv" else _tsv_rows(path)
        _, header = next(rows, (1, []))
        columns = [column.strip() for column in header]
        _check_columns(path, columns)
        for number, cells in rows:
            if len(cells) == len(columns):
                yield TableRow(f"{path}, line {number}", _filled(zip(columns, cells, strict=True)), columns)
                continue
            problem = f"{len(cells)} cells for {len(columns)} columns"
            if whole:
                msg = f"{path}, line {number}: {problem}. A cell with a {_separator(path)} in it must stand in quotes."
                raise UserError(msg)
            tally.rejected[problem] += 1
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - 1))
            count_open_end(file.read(), path.name, tally)
    except OSError as error:
        msg = f"The table '{path}' cannot be read: {error}."
        raise UserError(msg) from error
    except UnicodeDecodeError as error:
        raise not_utf8(path, error) from error


def _filled(cells: Iterable[tuple[str, str]]) -> dict[str, str]:
    """Return the cells that are not empty; only texts keep the spaces around them."""
    return {
        column: cell if column.startswith(("transcript", "translation")) else cell.strip()
        for column, cell in cells
        if cell.strip()
    }


def _check_columns(path: Path, columns: list[str]) -> None:
    named = [column for column in columns if column]
    if twice := sorted({column for column in named if named.count(column) > 1}):
        msg = f"'{path}' has the column {', '.join(twice)} more than once."
        raise UserError(msg)
    if "audio" in columns:
        return
    held = f"Its columns are: {', '.join(named) or 'none'}."
    if len(columns) == 1 and any(separator in columns[0] for separator in ",;\t"):
        held += f" A {path.suffix} file separates its columns by a {_separator(path)}."
    msg = f"'{path}' has no column 'audio'.{did_you_mean('audio', named)} {held}"
    raise UserError(msg)


def _separator(path: Path) -> str:
    return "tab" if path.suffix.lower() == ".tsv" else "comma"


def _csv_rows(path: Path) -> Iterator[tuple[int, list[str]]]:
    """Yield the line on which each row begins, and its cells; lines in quotes belong to one row."""
    with path.open(encoding="utf-8-sig", newline="") as file:
        rows = csv.reader(file, strict=True)
        line = 1
        try:
            for cells in rows:
                if any(cell.strip() for cell in cells):
                    yield line, cells
                line = rows.line_num + 1
        except csv.Error as error:
            msg = f"{path}, line {line}: {error}. Double the quotes inside a cell that stands in quotes."
            raise UserError(msg) from error


def _tsv_rows(path: Path) -> Iterator[tuple[int, list[str]]]:
    with path.open(encoding="utf-8-sig", newline="\n") as file:
        for number, line in enumerate(file, start=1):
            if line.strip():
                yield number, [_unquoted(cell) for cell in line.rstrip("\r\n").split("\t")]


def _unquoted(cell: str) -> str:
    """Return the text of a cell that was written in quotes because of the quotes in it."""
    inside = cell[1:-1]
    quoted = len(cell) > 1 and cell[0] == cell[-1] == '"' and '""' in inside and '"' not in inside.replace('""', "")
    return inside.replace('""', '"') if quoted else cell


def _json_rows(path: Path) -> Iterator[TableRow]:
    for where, row in read_json_lines(path):
        if "audio" not in row:
            msg = f"{where}: no 'audio'.{did_you_mean('audio', row)} It has: {', '.join(row) or 'nothing'}."
            raise UserError(msg)
        read = [key for key in row if key in COLUMNS or key.startswith("translation_")]
        yield TableRow(where, _filled((key, text_of(row, key, where)) for key in read), list(row))
