"""Published figures: a table of values as they are printed, and averages that are checked."""

import csv
import io
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path

from speechllm.errors import UserError, did_you_mean
from speechllm.evaluation.comparison.results import Key, Result, full_name

REQUIRED = ("system", "group", "figure", "languages", "value")
OPTIONAL = ("significant", "corpus", "compression")
"""Columns of a file of published figures."""

AVERAGE = "avg"
"""What stands in the column ``languages`` of a printed average."""

DIRECTIONS = {
    "wer": False,
    "cer": False,
    "mer": False,
    "ter": False,
    "metricx": False,
    "bleu": True,
    "chrf": True,
    "comet": True,
    "xcomet": True,
    "cometkiwi": True,
}
"""Whether higher values are better, by figure; options of a metric follow its name after an underscore."""

_NUMBER = re.compile(r"[+-]?\d+(\.\d+)?")


@dataclass(frozen=True)
class Misprint:
    """A printed average that its row does not give.

    Attributes:
        system: Group and name of the system.
        figure: Name of the figure.
        corpus: Corpus of its test sets, where the file names one.
        printed: The average as printed.
        mean: Mean of the printed values.
        where: File and row.
    """

    system: Key
    figure: str
    corpus: str
    printed: str
    mean: Decimal
    where: str

    def __str__(self) -> str:
        """Say what does not fit, with both values."""
        where = f" on {self.corpus}" if self.corpus else ""
        return (
            f"{full_name(self.system)}, {self.figure}{where}: the average is printed as {self.printed}, but the mean "
            f"of the row is {self.mean:.3f} ({self.where})"
        )


@dataclass
class Publication:
    """Contents of a file of published figures.

    Attributes:
        path: The file.
        results: Its values, averages left out, in its order.
        averages: Printed averages, by system, figure and corpus.
        misprints: Averages that the rows do not give.
        compression: Frames of the encoder for each position of the LLM, by system, where the file says.
    """

    path: Path
    results: list[Result]
    averages: dict[tuple[Key, str, str], str]
    misprints: list[Misprint]
    compression: dict[Key, float]

    @property
    def systems(self) -> list[Key]:
        """Group and name of each system, once, in the order of the file."""
        return list(dict.fromkeys([r.system for r in self.results] + [key for key, _, _ in self.averages]))


def read_published(path: Path) -> Publication:
    """Read published figures from a table with the columns of :data:`REQUIRED`, and those of :data:`OPTIONAL` it has.

    Each row has one value. The languages are one (``en``) or a pair (``en-de``), or ``avg`` for a printed average. A
    value is kept as it is printed; an empty one is not known. ``significant`` is yes or no: whether the value differs
    from the baseline's.

    Raises:
        UserError: If the file cannot be read, or a row is malformed; the message names file and row, which are counted
            from 1 with the header among them.
    """
    publication = Publication(path, [], {}, [], {})
    places: dict[tuple[Key, str, str, str], str] = {}
    for where, cells in _rows(path):
        key = (cells["group"], cells["system"])
        figure, corpus, languages = cells["figure"].lower(), cells["corpus"], cells["languages"]
        for name in ("system", "figure", "languages"):
            if not cells[name]:
                msg = f"{where}: no {name}."
                raise UserError(msg)
        taken = places.setdefault((key, figure, corpus, languages.lower()), where)
        if taken != where:
            msg = f"{where}: {cells['figure']} of '{full_name(key)}' for '{languages}' stands in {taken} already."
            raise UserError(msg)
        _note_compression(publication, key, cells["compression"], where)
        significant = _significant(cells["significant"], where)
        printed = cells["value"]
        if not printed:
            continue
        if not _NUMBER.fullmatch(printed):
            msg = f"{where}: the value must be a number such as 84.94, or empty if it is not known, but is '{printed}'."
            raise UserError(msg)
        if languages.lower() == AVERAGE:
            publication.averages[key, figure, corpus] = printed
            continue
        publication.results.append(
            Result(
                key,
                figure,
                languages,
                float(printed),
                higher_is_better=_direction(figure, where),
                corpus=corpus,
                printed=printed,
                significant=significant,
            )
        )
    if not publication.systems:
        msg = f"{path}: the file has no values. It needs a row for each of them, under {','.join(REQUIRED)}."
        raise UserError(msg)
    publication.misprints = list(_misprints(publication, places))
    return publication


def _misprints(publication: Publication, places: Mapping[tuple[Key, str, str, str], str]) -> list[Misprint]:
    found = []
    for (key, figure, corpus), printed in publication.averages.items():
        row = [
            Decimal(r.printed) for r in publication.results if (r.system, r.figure, r.corpus) == (key, figure, corpus)
        ]
        named = [languages for *place, languages in places if place == [key, figure, corpus] and languages != AVERAGE]
        if not row or len(row) < len(named):  # a value that is not known may explain any average
            continue
        mean = sum(row, Decimal(0)) / len(row)
        # Rounding moves each value, and so their mean, by up to half a unit of the last place; and the average as well.
        allowed = (_last_place(row) + _last_place([Decimal(printed)])) / 2
        if abs(mean - Decimal(printed)) > allowed:
            place = places[key, figure, corpus, AVERAGE]
            found.append(Misprint(key, figure, corpus, printed, mean, place))
    return found


def _last_place(values: Sequence[Decimal]) -> Decimal:
    """Return one unit of the last place of the coarsest value."""
    return max(Decimal(1).scaleb(int(value.as_tuple().exponent)) for value in values)


def _rows(path: Path) -> list[tuple[str, dict[str, str]]]:
    """Return where each row stands, and its cells; optional columns that are not there are empty."""
    if path.is_dir():
        msg = f"'{path}' is a folder, and no table of published figures. Name systems before `--published`."
        raise UserError(msg)
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except OSError as error:
        near = [str(other) for other in path.parent.glob("*.csv")] if path.parent.is_dir() else []
        msg = f"{path}: the published figures cannot be read: {error.strerror}.{did_you_mean(str(path), near)}"
        raise UserError(msg) from error
    except UnicodeDecodeError as error:
        msg = f"{path}: not UTF-8. Convert the file, with `iconv` for instance."
        raise UserError(msg) from error
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    rows: list[tuple[str, list[str]]] = []
    try:
        for cells in reader:
            if any(cells):
                rows.append((f"{path}, row {reader.line_num}", [cell.strip() for cell in cells]))
    except csv.Error as error:
        msg = f"{path}, row {reader.line_num}: {error}."
        raise UserError(msg) from error
    header = [name.lower() for name in rows[0][1]] if rows else []
    _check_header(path, header)
    found = []
    for where, row in rows[1:]:
        if len(row) != len(header):
            msg = f"{where}: {len(row)} cells for the {len(header)} columns {','.join(header)}."
            raise UserError(msg)
        found.append((where, dict.fromkeys(OPTIONAL, "") | dict(zip(header, row, strict=True))))
    return found


def _check_header(path: Path, header: Sequence[str]) -> None:
    known = (*REQUIRED, *OPTIONAL)
    unknown = [name for name in header if name not in known]
    missing = [name for name in REQUIRED if name not in header]
    if unknown or missing or len(set(header)) < len(header):
        said = [f"no column '{name}'" for name in missing] + [f"unknown column '{name}'" for name in unknown]
        said += ["a column that comes twice"] if not said else []
        hint = "".join(did_you_mean(name, known) for name in unknown)
        msg = (
            f"{path}, row 1: {', '.join(said)}.{hint} A file of published figures has the columns "
            f"{', '.join(REQUIRED)}, and may have {', '.join(OPTIONAL)}."
        )
        raise UserError(msg)


def _direction(figure: str, where: str) -> bool:
    name = figure.partition("_")[0]
    if name not in DIRECTIONS:
        msg = (
            f"{where}: unknown figure '{figure}'.{did_you_mean(name, DIRECTIONS)} Known: {', '.join(DIRECTIONS)}, each "
            "also with options after an underscore, such as wer_whisper."
        )
        raise UserError(msg)
    return DIRECTIONS[name]


def _significant(text: str, where: str) -> bool | None:
    known = {"": None, "yes": True, "no": False}
    if text.lower() not in known:
        msg = f"{where}: 'significant' must be yes, no or empty, but is '{text}'."
        raise UserError(msg)
    return known[text.lower()]


def _note_compression(publication: Publication, key: Key, text: str, where: str) -> None:
    if not text:
        return
    if not _NUMBER.fullmatch(text) or float(text) <= 0:
        msg = f"{where}: 'compression' must be frames for each position, such as 4, but is '{text}'."
        raise UserError(msg)
    if publication.compression.setdefault(key, float(text)) != float(text):
        before = publication.compression[key]
        msg = f"{where}: the compression of '{full_name(key)}' is {text}, but was {before:g} before."
        raise UserError(msg)
