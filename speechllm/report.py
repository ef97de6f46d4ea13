"""Plain text for the end of a run: a table of figures and a few utterances to look at."""

import unicodedata
from collections.abc import Sequence

from speechllm.predictions import Prediction


def format_table(rows: Sequence[Sequence[str | int | float]], columns: Sequence[str]) -> str:
    """Return a table of columns divided by two spaces, under their names and a rule.

    Widths are those of a terminal: a Chinese character fills two columns, a combining mark none. Floats are printed
    with two decimals, and columns that hold only numbers, or nothing, stand at the right.

    Args:
        rows: Cells, as many in each row as there are columns.
        columns: Names of the columns.

    Returns:
        Lines without a line end after the last one.

    Raises:
        ValueError: If a row has more or fewer cells than there are columns.
    """
    cells = [[_format_cell(cell) for cell in row] for row in rows]
    for row in cells:
        if len(row) != len(columns):
            msg = f"A row has {len(row)} cells for {len(columns)} columns: {row}."
            raise ValueError(msg)
    widths = [
        max(display_width(text) for text in (name, *(row[index] for row in cells)))
        for index, name in enumerate(columns)
    ]
    filled = [[row[index] for row in rows if row[index] != ""] for index in range(len(columns))]
    numeric = [bool(column) and all(isinstance(cell, int | float) for cell in column) for column in filled]
    lines = [list(columns), ["-" * width for width in widths], *cells]
    return "\n".join(
        "  ".join(_pad(*cell) for cell in zip(line, widths, numeric, strict=True)).rstrip() for line in lines
    )


def format_examples(predictions: Sequence[Prediction], n: int = 3) -> str:
    """Return ``n`` utterances with reference and hypothesis of what their task asks for.

    The choice is fixed: evenly spaced over the given order, the same for every model on a split.

    Args:
        predictions: Predictions of a split.
        n: Number of utterances to show; all are shown where there are fewer.

    Returns:
        Blocks of lines with an empty line between them.
    """
    shown = min(n, len(predictions))
    return "\n\n".join(_format_example(predictions[index * len(predictions) // shown]) for index in range(shown))


def display_width(text: str) -> int:
    """Return how many columns of a terminal ``text`` fills."""
    return sum(_character_width(character) for character in text)


def _character_width(character: str) -> int:
    if unicodedata.category(character) in ("Mn", "Me", "Cf"):
        return 0
    return 2 if unicodedata.east_asian_width(character) in ("W", "F") else 1


def _format_cell(cell: str | int | float) -> str:
    return f"{cell:.2f}" if isinstance(cell, float) else str(cell)


def _pad(text: str, width: int, right: bool) -> str:
    space = " " * (width - display_width(text))
    return space + text if right else text + space


def _format_example(prediction: Prediction) -> str:
    languages = prediction.source_language
    if "st" in prediction.task.split("+"):
        languages += f" → {prediction.target_language}"
    notes = {
        "the audio could not be read": not prediction.readable,
        "no separator": prediction.missing_separator,
        "cut off at the limit of tokens": prediction.hit_limit,
    }
    head = [
        prediction.task,
        languages,
        *([f"{prediction.duration_s:.1f} s"] if prediction.duration_s else []),
        *(note for note, holds in notes.items() if holds),
    ]
    lines = [f"{prediction.id} ({', '.join(head)})"]
    if "asr" in prediction.task.split("+"):
        lines += _format_pair("transcript", prediction.reference_transcript, prediction.hypothesis_transcript)
    if "st" in prediction.task.split("+"):
        lines += _format_pair("translation", prediction.reference_translation, prediction.hypothesis_translation)
    return "\n".join(lines)


def _format_pair(name: str, reference: str, hypothesis: str) -> list[str]:
    return [f"  {name:<11}  reference   {_one_line(reference)}", f"  {'':<11}  hypothesis  {_one_line(hypothesis)}"]


def _one_line(text: str) -> str:
    """Return ``text`` with line ends made visible, so that a hypothesis keeps to its line."""
    return " ".join(text.replace("\n", " \\n ").split()) or "(empty)"
