"""What a model wrote about a split: one JSON object a line, complete enough to score again without the model."""

import json
import os
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, get_origin, get_type_hints

from speechllm.errors import UserError, did_you_mean


@dataclass
class Prediction:
    """One utterance, its references and what a model said about it.

    Attributes:
        id: Utterance id, unique within a split of a corpus.
        row: Position of the utterance in its split, from 0.
        corpus: Name of the corpus.
        split: Name of the split.
        task: ``asr``, ``st`` or ``asr+st``.
        source_language: BCP-47 code of what is spoken.
        target_language: BCP-47 code of the translation; the source language where the task is ``asr``.
        reference_transcript: Transcript of the corpus; empty where there is none.
        reference_translation: Translation of the corpus; empty where there is none.
        hypothesis_transcript: The model's transcript; empty where the task has none.
        hypothesis_translation: The model's translation; empty where the task has none.
        text: What the decoder wrote, before it was split into transcript and translation.
        duration_s: Duration of the audio in seconds; 0 where it could not be read.
        decode_s: This utterance's share of the time that its batch took to decode, in seconds.
        tokens: Number of generated tokens.
        readable: Whether the audio could be read; both hypotheses are empty where it could not.
        missing_separator: Whether the task was ``asr+st`` and nothing divided transcript from translation.
        hit_limit: Whether decoding was cut off at the limit of new tokens.
        first_token_s: Time from the audio to the first token of its batch, in seconds; 0 where it was not measured.
        speaker: Speaker, as the corpus calls it; empty where it does not.
        recording: Path of the audio file (a talk, for instance); empty where there is none.
        offset_s: Where the utterance begins in that file, in seconds.
        statistics: What metrics that keep it say of the utterance: by the name of the metric's main figure, the value
            of each of its statistics by name (``{"wer": {"substitutions": 1.0, …}}``).
    """

    id: str
    row: int
    corpus: str
    split: str
    task: str
    source_language: str
    target_language: str
    reference_transcript: str
    reference_translation: str
    hypothesis_transcript: str
    hypothesis_translation: str
    text: str
    duration_s: float
    decode_s: float
    tokens: int
    readable: bool
    missing_separator: bool
    hit_limit: bool
    first_token_s: float = 0.0
    speaker: str = ""
    recording: str = ""
    offset_s: float = 0.0
    statistics: dict[str, dict[str, float]] = field(default_factory=dict)


_FIELD_TYPES: dict[str, type] = {name: get_origin(kind) or kind for name, kind in get_type_hints(Prediction).items()}
_REQUIRED = list(_FIELD_TYPES)[: list(_FIELD_TYPES).index("first_token_s")]
_TYPE_NAMES = {str: "a string", int: "an integer", float: "a number", bool: "true or false", dict: "an object"}


def write_predictions(path: str | os.PathLike[str], predictions: Iterable[Prediction]) -> None:
    """Write predictions as JSON lines in the order of their rows, UTF-8 and unescaped.

    The file appears at once, when it is complete: a run that dies while writing leaves what was there before. Missing
    folders are made.

    Args:
        path: File to write or replace.
        predictions: Predictions in any order.

    Raises:
        UserError: If two predictions share corpus, id, task and languages.
        ValueError: If a number is not finite.
    """
    path = Path(path)
    ordered = sorted(predictions, key=lambda prediction: prediction.row)
    _check_unique(path, [(prediction.row, prediction) for prediction in ordered])
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        # backslashreplace writes half a surrogate pair, which UTF-8 has no bytes for, as the JSON escape that it is.
        with partial.open("w", encoding="utf-8", errors="backslashreplace", newline="\n") as file:
            for prediction in ordered:
                file.write(to_line(prediction))
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def read_predictions(path: str | os.PathLike[str]) -> list[Prediction]:
    """Read the predictions that :func:`write_predictions` wrote, in the order of the file.

    Raises:
        UserError: If the file cannot be read, a line is not a JSON object with exactly the fields of
            :class:`Prediction`, or two lines share corpus, id, task and languages; the message names file and
            row, and rows are counted from 1.
    """
    path = Path(path)
    try:
        with path.open("rb") as file:  # bytes: only a line feed ends a line, not U+2028 inside a text
            lines = file.readlines()
    except OSError as error:
        msg = f"{path}: the predictions cannot be read: {error.strerror}."
        raise UserError(msg) from error
    numbered = [(row, from_line(line, f"{path}, row {row}")) for row, line in enumerate(lines, start=1)]
    _check_unique(path, numbered)
    return [prediction for _, prediction in numbered]


def to_line(prediction: Prediction) -> str:
    """Return a prediction as a line of JSON with its line feed.

    Raises:
        ValueError: If a number is not finite.
    """
    # not dataclasses.asdict, which copies deeply and takes five times as long
    return json.dumps(vars(prediction), ensure_ascii=False, allow_nan=False) + "\n"


def from_line(line: bytes, where: str) -> Prediction:
    """Return the prediction that :func:`to_line` wrote.

    Args:
        line: Bytes of the line.
        where: File and row, for messages.

    Raises:
        UserError: If it is not a JSON object with exactly the fields of :class:`Prediction`.
    """
    try:
        values = json.loads(line.removesuffix(b"\n").decode("utf-8"))
    except UnicodeDecodeError as error:
        msg = f"{where}: not UTF-8 at byte {error.start + 1} of the line."
        raise UserError(msg) from error
    except json.JSONDecodeError as error:
        msg = f"{where}: invalid JSON at column {error.colno}: {error.msg}. Is the file complete?"
        raise UserError(msg) from error
    if not isinstance(values, dict):
        msg = f"{where}: expected a JSON object, got {_show(values)}."
        raise UserError(msg)
    _check_fields(values, where)
    return Prediction(**values)


def _check_fields(values: dict[str, Any], where: str) -> None:
    unknown = [name for name in values if name not in _FIELD_TYPES]
    if unknown:
        hint = "".join(did_you_mean(name, _FIELD_TYPES) for name in unknown)
        msg = f"{where}: unknown field {', '.join(map(repr, unknown))}.{hint} Fields: {', '.join(_FIELD_TYPES)}."
        raise UserError(msg)
    missing = [name for name in _REQUIRED if name not in values]
    if missing:
        msg = f"{where}: missing field {', '.join(map(repr, missing))}."
        raise UserError(msg)
    for name in values:
        expected = _FIELD_TYPES[name]
        allowed = (int, float) if expected is float else (expected,)
        if type(values[name]) not in allowed:
            msg = f"{where}: field '{name}' must be {_TYPE_NAMES[expected]}, but is {_show(values[name])}."
            raise UserError(msg)


def _check_unique(path: Path, numbered: list[tuple[int, Prediction]]) -> None:
    first: dict[tuple[str, ...], int] = {}
    for row, prediction in numbered:
        # corpora number their utterances on their own, and some give a sentence the same id in each language
        languages = prediction.source_language, prediction.target_language
        key = (prediction.corpus, prediction.id, prediction.task, *languages)
        if key in first:
            msg = (
                f"{path}, row {row}: the id '{prediction.id}' with task '{prediction.task}' and target language "
                f"'{prediction.target_language}' stands in row {first[key]} already. Ids must be unique in a split."
            )
            raise UserError(msg)
        first[key] = row


def _show(value: object) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 60 else f"{text[:60]}…"
