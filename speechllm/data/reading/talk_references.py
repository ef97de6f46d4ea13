"""References of talks in the XML of IWSLT: ``<doc docid="…"><seg id="1"> text </seg>…``.

Only tags are looked for: an unescaped ``&`` is text, and a document type with its entities means nothing.
"""

import re
from collections.abc import Sequence
from pathlib import Path

from speechllm.data.reading.talks import line_of
from speechllm.data.reading.text import entities
from speechllm.data.reading.text_files import read_lines
from speechllm.errors import UserError

_TAG = re.compile(r"<(doc|seg)\b([^<>]*)>", re.IGNORECASE)
_END = re.compile(r"</seg\s*>|<(?:seg|/?doc)\b", re.IGNORECASE)
_ID = re.compile(r"""\b(?:doc)?id\s*=\s*(?:"([^"]*)"|'([^']*)')""", re.IGNORECASE)


def read_references(path: Path) -> dict[str, dict[str, str]]:
    """Return the texts of each talk: talks by ``docid``, segments by ``id``, both in the order of the file.

    White space around a text and line ends within it go, ``&amp;`` and the like are read, and nothing else changes.

    Raises:
        UserError: If a segment has no id, is not closed, comes twice or is in no talk; the message names the line.
    """
    text = "\n".join(read_lines(path))
    talks: dict[str, dict[str, str]] = {}
    talk: dict[str, str] | None = None
    for tag in _TAG.finditer(text):
        found = _ID.search(tag[2])
        name = (found[1] or found[2] or "").strip() if found else ""
        where = f"{path}, line {line_of(text, tag.start())}"
        if not name:
            msg = f"{where}: '{tag[0]}' has no {'docid' if tag[1].lower() == 'doc' else 'id'}."
            raise UserError(msg)
        if tag[1].lower() == "doc":
            talk = talks.setdefault(name, {})
            continue
        end = _END.search(text, tag.end())
        if end is None or not end[0].lower().startswith("</seg"):
            msg = f"{where}: the segment {name} is not closed. Fetch the file anew."
            raise UserError(msg)
        if talk is None or name in talk:
            msg = f"{where}: the segment {name} {'is in no talk' if talk is None else 'comes twice in its talk'}."
            raise UserError(msg)
        talk[name] = entities(text[tag.end() : end.start()].replace("\r", "").replace("\n", " ").strip(" \t"))
    if not any(talks.values()):
        msg = f"'{path}' has no segment: looked for <doc docid=…> and <seg id=…>. Fetch the file anew."
        raise UserError(msg)
    return talks


def read_parallel_references(paths: dict[str, Path]) -> dict[str, dict[str, dict[str, str]]]:
    """Return the texts of each talk by segment and language.

    Args:
        paths: File of each language.

    Raises:
        UserError: If the files do not have the same talks and segments, or as :func:`read_references`.
    """
    texts = {language: read_references(path) for language, path in paths.items()}
    shapes = [{talk: list(segments) for talk, segments in text.items()} for text in texts.values()]
    if any(shape != shapes[0] for shape in shapes):
        counts = " and ".join(
            f"'{path}' has {sum(map(len, texts[language].values()))} segments in {len(texts[language])} talks"
            for language, path in paths.items()
        )
        msg = f"The references do not match, segment by segment: {counts}. Fetch them anew."
        raise UserError(msg)
    return {
        talk: {number: {language: texts[language][talk][number] for language in texts} for number in segments}
        for shape in shapes[:1]
        for talk, segments in shape.items()
    }


def match_talks(docs: Sequence[str], talks: Sequence[str]) -> dict[str, str]:
    """Return the talk of each document: the one whose name ends in its number, or else the one at its place.

    Args:
        docs: Documents of the references.
        talks: Names of audio files, without suffix.

    Raises:
        ValueError: If there is neither.
    """
    numbers = {_number(talk): talk for talk in talks}
    wanted = {_number(doc) for doc in docs}
    if "" not in wanted and wanted <= numbers.keys() and (len(numbers), len(wanted)) == (len(talks), len(docs)):
        return {doc: numbers[_number(doc)] for doc in docs}
    return dict(zip(docs, talks, strict=True))


def _number(name: str) -> str:
    """Return the number that a name ends in, empty where it ends in none: ``tst2010.en.talkid837`` is 837."""
    found = re.search(r"\d+$", name)
    return found[0].lstrip("0") if found else ""
