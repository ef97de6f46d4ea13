"""Corpora of talks that are cut into segments: their lists of segments, and the same segment in several languages."""

import os
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from speechllm.audio import AudioInfo
from speechllm.data.manifest import Tally
from speechllm.data.reading.stretches import Stretch, with_audio
from speechllm.data.reading.text_files import read_lines
from speechllm.data.utterance import Utterance
from speechllm.errors import UserError

_ENTRY = re.compile(r"\{([^}]*)\}")
_BLOCK_ENTRY = re.compile(r"^- ((?:.|\n(?!- ))*)", re.MULTILINE)
_FIELD = re.compile(r"""["']?(\w+)["']?\s*:\s*(?:"([^"]*)"|'([^']*)'|([^,}\n]*))""")


class Segment(NamedTuple):
    """A stretch of a talk as a corpus lists it, which need not lie within the talk.

    Attributes:
        id: Unique within its split.
        audio: Path of the talk's audio.
        offset_s: Where it begins, in seconds.
        duration_s: Its duration in seconds.
        transcript: What is said.
        translations: Text by language.
        speaker: Who speaks.
        channel: Channel of the audio; None for the mean of all.
        file: What is known of the talk's audio; None where its header must be read.
    """

    id: str
    audio: str
    offset_s: float
    duration_s: float
    transcript: str
    translations: dict[str, str]
    speaker: str
    channel: int | None = None
    file: AudioInfo | None = None


def read_texts(path: Path, tally: Tally | None = None) -> list[str]:
    r"""Return the lines of a text; a carriage return is part of a line, unless every line ends with one.

    Args:
        path: The text.
        tally: Where a last line that nothing ends is counted.

    Raises:
        UserError: If the file is not UTF-8.
    """
    lines = read_lines(path, tally)
    return [line[:-1] for line in lines] if lines and all(line.endswith("\r") for line in lines) else lines


def read_segments(path: Path, tally: Tally | None = None) -> list[dict[str, str]]:
    """Return the entries of a yaml list of segments, every value as a string.

    The fields come in an order that depends on the release, and a yaml parser needs minutes for a training set: each
    ``{key: value, …}`` is read by its keys. Names and values may be quoted, and an entry may take several lines. Lists
    without braces, one ``key: value`` a line, are read too.

    Args:
        path: The list.
        tally: Where a last line that nothing ends is counted.

    Raises:
        UserError: If an entry is not closed, has no ``wav``, ``offset`` or ``duration``, or holds anything that is not
            a field; the message names the line.
    """
    text = "\n".join(read_lines(path, tally))
    segments = []
    for entry in (_ENTRY if "{" in text else _BLOCK_ENTRY).finditer(text):
        fields = {key: double or single or bare.strip() for key, double, single, bare in _FIELD.findall(entry[1])}
        missing = [key for key in ("wav", "offset", "duration") if not fields.get(key)]
        rest = _FIELD.sub("", entry[1]).strip(", \t\r\n")  # of a decimal comma, for one
        if missing or rest:
            wrong = f"no {', '.join(missing)}" if missing else f"'{rest}' is no field"
            wrong = "the entry is not closed" if "{" in entry[1] else f"{wrong} in '{entry[0].strip()}'"
            msg = f"{path}, line {line_of(text, entry.start())}: {wrong}. Unpack the archive anew."
            raise UserError(msg)
        segments.append(fields)
    if text.count("{") > text.count("}"):
        msg = f"{path}, line {line_of(text, text.rindex('{'))}: the entry is not closed. Unpack the archive anew."
        raise UserError(msg)
    return segments


def line_of(text: str, position: int) -> int:
    """Return the number of the line, from 1, that a position of a text is in."""
    return text.count("\n", 0, position) + 1


def read_seconds(value: str, where: str) -> float:
    """Return a time in seconds, which may be negative.

    Raises:
        UserError: If it is not a finite number; the message begins with ``where``.
    """
    try:
        seconds = float(value)
    except ValueError:
        seconds = float("nan")
    if not abs(seconds) < float("inf"):
        msg = f"{where} is '{value}', and must be a number of seconds."
        raise UserError(msg)
    return seconds


def join_translations(partitions: Iterable[Iterable[Segment]]) -> list[Segment]:
    """Return the segments of several partitions, where the same segment is one with the translations of all.

    Each partition cuts the talks in its own way. Segments are the same where the talk, times and transcript are.
    """
    first: dict[tuple[str, float, float, str], Segment] = {}
    found = []
    for segments in partitions:
        for segment in segments:
            key = (os.path.basename(segment.audio), segment.offset_s, segment.duration_s, segment.transcript)
            same = first.setdefault(key, segment)
            if same is segment or not same.translations.keys().isdisjoint(segment.translations):
                found.append(segment)
            else:
                same.translations.update(segment.translations)
    return found


def to_utterances(
    segments: Iterable[Segment], split: str, tally: Tally, corpus: str, source: str
) -> Iterator[Utterance]:
    """Yield segments as utterances, in their order; see :func:`speechllm.data.reading.stretches.with_audio`.

    Args:
        segments: The segments.
        split: Name of the split.
        tally: Where segments that are left out or changed are counted.
        corpus: Name of the corpus.
        source: Language that is spoken.

    Raises:
        UserError: If no talk of the split exists.
    """
    stretches = (_stretch(segment, tally, corpus, source) for segment in segments)
    yield from with_audio(stretches, split, tally, "Check the root, or unpack the audio.")


def _stretch(segment: Segment, tally: Tally, corpus: str, source: str) -> Stretch:
    early_s = min(0.0, segment.offset_s)
    if early_s:
        tally.changed["begins before the audio, and is cut there"] += 1
    utterance = Utterance(
        id=segment.id,
        audio=segment.audio,
        offset_s=segment.offset_s - early_s,
        duration_s=0.0,
        source_language=source,
        transcript=segment.transcript,
        translations=segment.translations,
        speaker=segment.speaker,
        corpus=corpus,
        channel=segment.channel,
    )
    return Stretch(f"segment {segment.id}", utterance, segment.duration_s + early_s, segment.file)
