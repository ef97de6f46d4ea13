"""References of whole talks, for systems that cut them into segments of their own."""

import dataclasses
import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from speechllm.errors import UserError


@dataclass(frozen=True)
class TalkReference:
    """A segment of the references of a talk, which need not be one of the segments that were decoded.

    Attributes:
        talk: Name of the talk's audio file, without suffix.
        segment: Its number in the talk.
        target: Language of the translation.
        transcript: What is said; empty where it was not published.
        translation: Its translation; empty where it was not published.
    """

    talk: str
    segment: str
    target: str
    transcript: str
    translation: str


def to_json_lines(references: Iterable[TalkReference]) -> str:
    """Return references as JSON lines, in their order."""
    return "".join(json.dumps(dataclasses.asdict(one), ensure_ascii=False) + "\n" for one in references)


def read_talk_references(path: Path) -> list[TalkReference]:
    """Read the references that stand beside the manifests of automatic segments.

    Raises:
        UserError: If the file cannot be read or a line is not such a reference; the message names file and row.
    """
    names = [field.name for field in dataclasses.fields(TalkReference)]
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        msg = f"{path}: the references cannot be read: {error}."
        raise UserError(msg) from error
    found = []
    for row, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            values = json.loads(line)
        except json.JSONDecodeError as error:
            msg = f"{path}, row {row}: invalid JSON at column {error.colno}: {error.msg}."
            raise UserError(msg) from error
        if (
            not isinstance(values, dict)
            or set(values) != set(names)
            or not all(isinstance(values[n], str) for n in names)
        ):
            msg = f"{path}, row {row}: expected an object with the texts {', '.join(names)}."
            raise UserError(msg)
        found.append(TalkReference(**values))
    if not found:
        msg = f"{path}: there are no references in it."
        raise UserError(msg)
    return found
