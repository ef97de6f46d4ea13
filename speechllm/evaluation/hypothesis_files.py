"""Hypotheses and references of any origin: lines of text, or tables with an id a row."""

import csv
import io
import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from speechllm.errors import UserError, did_you_mean

COLUMNS = ("id", "hypothesis", "reference", "source", "speaker", "recording", "duration_s")
"""Columns of a table that are read; others are passed over."""

OPTIONAL = ("speaker", "recording", "duration_s")
"""Columns whose cells may be null in JSON, where they are not known."""

NUMBERS: dict[str, Any] = {"id": int, "speaker": int, "recording": int, "duration_s": int | float}
"""Columns that may hold numbers in JSON."""

ALIASES = {
    "hyp": "hypothesis",
    "pred_text": "hypothesis",
    "prediction": "hypothesis",
    "ref": "reference",
    "src": "source",
    "audio": "recording",
    "audio_filepath": "recording",
    "duration": "duration_s",
}
"""Other names of these columns, as NeMo and others write them."""

NEMO_HYPOTHESIS, NEMO_REFERENCE = "pred_text", "text"
"""Columns of NeMo, where what is right is called ``text``; that name means other things elsewhere."""

TABLES = (".csv", ".tsv", ".jsonl", ".json", ".trn")
"""Suffixes of tables; every other file holds a text a line."""


@dataclass(frozen=True)
class TableRow:
    """One row of a table.

    Attributes:
        where: File and row, for messages; rows are counted from 1, the header among them.
        cells: Texts by column, out of :data:`COLUMNS`.
    """

    where: str
    cells: dict[str, str]


def is_table(path: Path) -> bool:
    """Return whether a file is read as a table, which its suffix says."""
    return path.suffix.lower() in TABLES


def read_text_lines(path: Path) -> list[str]:
    """Return the lines of a file, without line ends; an empty line is an empty text.

    Only a line feed ends a line, with or without a carriage return before it, and not U+2028 inside a text.

    Raises:
        UserError: If the file cannot be read, is empty, or is not UTF-8.
    """
    lines = _read(path).split("\n")
    if lines[-1] == "":
        lines.pop()
    if not lines:
        msg = f"{path}: the file is empty. It needs a line for each utterance."
        raise UserError(msg)
    return [line.removesuffix("\r") for line in lines]


def read_table(path: Path, needed: str = "hypothesis") -> list[TableRow]:
    """Return the rows of a table.

    ``.csv`` has quotes as spreadsheets write them, ``.tsv`` takes quotes for text, ``.jsonl`` holds an object a line.
    ``.json`` holds the same or one list of objects. A ``.tsv`` of two columns needs no header: they are the id and what
    is needed. ``.trn`` is the format of sclite: a text and, in parentheses, its id.

    Args:
        path: The file.
        needed: Column that each row must have.

    Raises:
        UserError: If the file cannot be read, is empty, lacks the column, a row has other cells than the header, or an
            id comes twice; the message names file and row.
    """
    text = _read(path)
    suffix = path.suffix.lower()
    if suffix == ".trn":
        rows = list(_trn_rows(path, text, needed))
    else:
        rows = list(_json_rows(path, text) if suffix in (".jsonl", ".json") else _separated_rows(path, text, needed))
    if not rows:
        msg = f"{path}: the file has no rows. It needs one for each utterance."
        raise UserError(msg)
    first: dict[str, str] = {}
    for row in rows:
        if needed not in row.cells:
            names = sorted(row.cells)
            msg = f"{row.where}: no '{needed}'; there is {', '.join(names) or 'nothing that is read'}. "
            raise UserError(msg + f"Columns that are read: {', '.join(COLUMNS)}.")
        name = row.cells.get("id")
        if name is not None and first.setdefault(name, row.where) != row.where:
            msg = f"{row.where}: the id '{name}' stands in {first[name]} already. An id is that of one utterance."
            raise UserError(msg)
    return rows


def by_id(rows: Sequence[TableRow]) -> dict[str, TableRow]:
    """Return the rows of a table by their ids, in their order.

    Raises:
        UserError: If a row has no id.
    """
    found = {}
    for row in rows:
        if "id" not in row.cells:
            msg = f"{row.where}: no 'id', by which rows of tables belong together. Files of lines need none."
            raise UserError(msg)
        found[row.cells["id"]] = row
    return found


def _read(path: Path) -> str:
    try:
        data = path.read_bytes()
    except OSError as error:
        msg = f"{path}: the file cannot be read: {error.strerror}."
        raise UserError(msg) from error
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        row = data[: error.start].count(b"\n") + 1
        msg = f"{path}, row {row}: not UTF-8. Convert the file, with `iconv` for instance."
        raise UserError(msg) from error


def _separated_rows(path: Path, text: str, needed: str) -> Iterator[TableRow]:
    csv.field_size_limit(2**31 - 1)
    file = io.StringIO(text, newline="")
    if path.suffix.lower() == ".csv":
        reader = csv.reader(file, strict=True)
    else:
        reader = csv.reader(file, delimiter="\t", quoting=csv.QUOTE_NONE)
    try:
        rows = [row for row in reader if row]
    except csv.Error as error:
        msg = f"{path}, row {reader.line_num}: {error}."
        raise UserError(msg) from error
    if not rows:
        return
    header = _columns(rows[0], str(path))
    start = 1
    if needed not in header:
        if path.suffix.lower() != ".tsv" or len(header) != 2:
            hint = "".join(did_you_mean(name, [needed]) for name in rows[0])
            if len(header) == 1 and any(mark in rows[0][0] for mark in ";\t"):
                hint = " Cells are divided by commas in .csv, and by tabs in .tsv."
            msg = f"{path}: no column '{needed}'; the header has {', '.join(rows[0])}.{hint}"
            raise UserError(msg)
        header, start = ["id", needed], 0
    for number, row in enumerate(rows[start:], start=start + 1):
        if len(row) != len(header):
            msg = f"{path}, row {number}: {len(row)} cells for {len(header)} columns."
            raise UserError(msg)
        yield TableRow(f"{path}, row {number}", _known(zip(header, row, strict=True)))


def _trn_rows(path: Path, text: str, needed: str) -> Iterator[TableRow]:
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        found = re.fullmatch(r"(.*)\(([^()]+)\)\s*", line)
        if found is None:
            msg = f"{path}, row {number}: a row of .trn ends with the utterance's id in parentheses."
            raise UserError(msg)
        yield TableRow(f"{path}, row {number}", {"id": found[2].strip(), needed: found[1].strip()})


def _json_rows(path: Path, text: str) -> Iterator[TableRow]:
    for where, values in _json_values(path, text):
        if not isinstance(values, dict):
            msg = f"{where}: expected a JSON object a line."
            raise UserError(msg)
        cells = _known(zip(_columns(list(values), where), values.values(), strict=True))
        cells = {name: value for name, value in cells.items() if value is not None or name not in OPTIONAL}
        for name, value in cells.items():
            if not isinstance(value, str):
                kinds = NUMBERS.get(name)
                if kinds is None or isinstance(value, bool) or not isinstance(value, kinds):
                    msg = f"{where}: '{name}' must be a text, but is {json.dumps(value)}."
                    raise UserError(msg)
                cells[name] = str(value)
        yield TableRow(where, cells)


def _json_values(path: Path, text: str) -> Iterator[tuple[str, Any]]:
    """Yield each value of a file and where it is: of lines, or of the one list that a ``.json`` may be."""
    where = str(path)
    try:
        if path.suffix.lower() == ".json" and text.lstrip().startswith("["):
            yield from ((f"{path}, row {number}", value) for number, value in enumerate(json.loads(text), start=1))
            return
        for number, line in enumerate(text.split("\n"), start=1):
            where = f"{path}, row {number}"
            if line.strip():
                yield where, json.loads(line)
    except json.JSONDecodeError as error:
        place = f"line {error.lineno}, column" if where == str(path) else "column"
        msg = f"{where}: invalid JSON at {place} {error.colno}: {error.msg}."
        raise UserError(msg) from error


def _columns(names: Sequence[str], where: str) -> list[str]:
    """Return what the columns of a table hold, by the names that :data:`COLUMNS` has.

    Raises:
        UserError: If two of them hold the same.
    """
    plain = [name.strip().lower() for name in names]
    if NEMO_HYPOTHESIS in plain and "reference" not in plain:
        plain = ["reference" if name == NEMO_REFERENCE else name for name in plain]
    found = [ALIASES.get(name, name) for name in plain]
    for column in COLUMNS:
        same = [name for name, other in zip(names, found, strict=True) if other == column]
        if len(same) > 1:
            msg = f"{where}: the columns {' and '.join(map(repr, same))} are each the {column}. Leave one of them."
            raise UserError(msg)
    return found


def _known(cells: Any) -> dict[str, Any]:
    return {name: value for name, value in cells if name in COLUMNS}


def check_lengths(names: Sequence[tuple[str, int]]) -> None:
    """Check that files which belong together have equally many lines.

    Args:
        names: Name and number of lines of each file.

    Raises:
        UserError: If they have not.
    """
    if len({count for _, count in names}) > 1:
        listed = ", ".join(f"{name} has {count}" for name, count in names)
        msg = f"The files need a line for each utterance, in the same order, but {listed}. Nothing was scored."
        raise UserError(msg)
