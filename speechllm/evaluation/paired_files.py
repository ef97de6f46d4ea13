"""Predictions from files of hypotheses and references, for systems that know nothing of this package."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from speechllm.errors import UserError, did_you_mean
from speechllm.evaluation.hypothesis_files import TableRow, by_id, check_lengths, is_table, read_table, read_text_lines
from speechllm.languages import check_language
from speechllm.predictions import Prediction


@dataclass(frozen=True)
class Origin:
    """What the texts of files are.

    Attributes:
        scored: Language of hypotheses and references.
        source: Language that is spoken, which makes them translations; None for transcripts.
        corpus: Name of the test set.

    Raises:
        UserError: If a language is not known.
    """

    scored: str
    source: str | None = None
    corpus: str = "files"

    def __post_init__(self) -> None:
        for code in (self.scored, self.source):
            if code is not None:
                check_language(code)


def read_pairs(hypotheses: Path, references: Path | None, sources: Path | None, origin: Origin) -> list[Prediction]:
    """Read hypotheses with their references.

    Two files of lines belong together line by line. Tables belong together by id; one with a column ``reference`` needs
    no file of references.

    Args:
        hypotheses: Lines of text, or a table with the column ``hypothesis``.
        references: Lines of text, or a table with the columns ``id`` and ``reference``; None where the table of the
            hypotheses has them.
        sources: What was said, for metrics that look at it: as ``references``, with the column ``source``.
        origin: Origin of the texts.

    Returns:
        One prediction an utterance, in the order of the hypotheses; lines are called by their number, from 1.

    Raises:
        UserError: If files differ in length or ids, a reference is missing, or a file is broken.
    """
    if is_table(hypotheses):
        rows = read_table(hypotheses)
    else:
        lines = enumerate(read_text_lines(hypotheses), start=1)
        rows = [TableRow(f"{hypotheses}, row {row}", {"id": str(row), "hypothesis": line}) for row, line in lines]
    expected = _texts(rows, hypotheses, references, "reference")
    if not is_table(hypotheses):
        _check_no_ids([row.cells["hypothesis"] for row in rows], expected)
    spoken = [""] * len(rows)
    if sources is not None or any("source" in row.cells for row in rows):
        spoken = _texts(rows, hypotheses, sources, "source")
    return [
        _prediction(place, row, texts, origin)
        for place, (row, texts) in enumerate(zip(rows, zip(expected, spoken, strict=True), strict=True))
    ]


def _check_no_ids(hypotheses: Sequence[str], references: Sequence[str]) -> None:
    """Check that lines are texts alone, and no ids before them, as Kaldi writes them."""
    first = [line.split(maxsplit=1)[0] if line.strip() else "" for line in references]
    same = all(line.split(maxsplit=1)[:1] == [name] for line, name in zip(hypotheses, first, strict=True))
    if same and 1 < len(first) == len(set(first)) and all(any(c.isdigit() for c in name) for name in first):
        msg = (
            f"It seems that each line of both files begins with an id, such as '{first[0]}', which would be counted as "
            "a word. Write a tab after the id, and call the files .tsv: `sed 's/ \\|$/\\t/' text > text.tsv`."
        )
        raise UserError(msg)


def _texts(rows: Sequence[TableRow], hypotheses: Path, file: Path | None, column: str) -> list[str]:
    """Return the reference or source of each row, from a file of its own or from the rows."""
    if file is None:
        for row in rows:
            if column not in row.cells:
                msg = f"{row.where}: no {column}. Give `--{column}s`, a file of lines or a table with ids."
                raise UserError(msg)
        return [row.cells[column] for row in rows]
    if not is_table(file):
        lines = read_text_lines(file)
        check_lengths([(str(hypotheses), len(rows)), (str(file), len(lines))])
        return lines
    texts = by_id(read_table(file, column))
    found = []
    for name, row in by_id(rows).items():
        if name not in texts:
            msg = f"{row.where}: '{file}' has no {column} of '{name}'.{did_you_mean(name, texts)}"
            raise UserError(msg)
        found.append(texts[name].cells[column])
    if len(texts) > len(rows):
        ids = {row.cells["id"] for row in rows}
        absent = [name for name in texts if name not in ids]
        msg = f"{hypotheses}: no hypothesis for {len(absent)} of {len(texts)} utterances of '{file}': '{absent[0]}', …"
        raise UserError(msg)
    return found


def _prediction(place: int, row: TableRow, texts: tuple[str, str], origin: Origin) -> Prediction:
    hypothesis, (reference, source) = row.cells["hypothesis"], texts
    translates = origin.source is not None
    return Prediction(
        id=row.cells.get("id", str(place + 1)),
        row=place,
        corpus=origin.corpus,
        split="test",
        task="st" if translates else "asr",
        source_language=origin.source or origin.scored,
        target_language=origin.scored,
        reference_transcript=source if translates else reference,
        reference_translation=reference if translates else "",
        hypothesis_transcript="" if translates else hypothesis,
        hypothesis_translation=hypothesis if translates else "",
        text=hypothesis,
        duration_s=_seconds(row),
        decode_s=0.0,
        tokens=0,
        readable=True,
        missing_separator=False,
        hit_limit=False,
        speaker=row.cells.get("speaker", ""),
        recording=row.cells.get("recording", ""),
    )


def _seconds(row: TableRow) -> float:
    text = row.cells.get("duration_s") or "0"
    try:
        seconds = float(text)
    except ValueError:
        seconds = -1.0
    if not 0 <= seconds < float("inf"):
        msg = f"{row.where}: 'duration_s' must be a number of seconds, but is '{text}'."
        raise UserError(msg)
    return seconds
