"""What all systems wrote about each utterance, brought together: the rows of the page, as plain data."""

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from speechllm.evaluation.page.clips import Clips
from speechllm.evaluation.page.differences import find_differences
from speechllm.evaluation.page.measures import TEXTS, Measure, Measured, Place, measure
from speechllm.evaluation.systems import System
from speechllm.evaluation.test_sets import TestSet, group_by_test_set
from speechllm.metrics.base import Text
from speechllm.metrics.text import collapse_spaces, counted_by_characters
from speechllm.predictions import Prediction

FLAGS = ("hit limit", "empty", "missing separator", "unreadable")
"""What can be wrong with an answer; the page has a bit for each, in this order."""

SAME = 0
"""Stands for a hypothesis that is its reference to the letter, which saves half of a good system's page."""

Key = tuple[str, str, str, Text, str, int]
"""Corpus, split, languages, text, id, and how many of the same came before: systems may differ in their tasks."""


@dataclass
class Row:
    """A text of an utterance.

    Attributes:
        test_set: Its test set, as the first system that has it says.
        prediction: That system's prediction, for all that does not depend on a system.
        places: Where each system has it, by the number of the system.
    """

    test_set: TestSet
    prediction: Prediction
    places: dict[int, Place] = field(default_factory=dict)

    @property
    def reference(self) -> str:
        """What is right."""
        return collapse_spaces(getattr(self.prediction, f"reference_{self.test_set.text}"))


def match_rows(systems: Sequence[System]) -> list[Row]:
    """Return a row for each text of each utterance, in the order of the first system that has it.

    Systems need not have the same test sets, nor the same tasks: transcripts of ``asr`` and ``asr+st`` share a row.
    """
    rows: dict[Key, Row] = {}
    for number, system in enumerate(systems):
        for key, place, test_set in _keys(system.predictions):
            row = rows.setdefault(key, Row(test_set, system.predictions[place]))
            row.places[number] = (place, test_set.text)
    return list(rows.values())


def _keys(predictions: Sequence[Prediction]) -> Iterator[tuple[Key, int, TestSet]]:
    """Yield the texts of predictions by utterance, transcripts first."""
    found = [
        (place, TEXTS.index(test_set.text), test_set)
        for test_set, places in group_by_test_set(predictions, TEXTS).items()
        for place in places
    ]
    seen: Counter[tuple[str, str, str, Text, str]] = Counter()
    keys = {}
    # Where a joint task has a transcript for each target language, they are told apart by the order of these.
    for place, _, s in sorted(found, key=lambda item: (item[2].task, item[2].target_language)):
        name = (s.corpus, s.split, s.languages, s.text, predictions[place].id)
        keys[place, s.text] = (*name, seen[name])
        seen[name] += 1
    for place, _, test_set in sorted(found, key=lambda item: item[:2]):
        yield keys[place, test_set.text], place, test_set


class Table:
    """Values that many rows have in common, each once; rows hold their numbers."""

    def __init__(self) -> None:
        self._numbers: dict[Any, int] = {}

    def number(self, value: Any) -> int:
        """Return the number of a value, a new one where it was not seen before."""
        return self._numbers.setdefault(value, len(self._numbers))

    @property
    def values(self) -> list[Any]:
        """All values in the order of their numbers."""
        return list(self._numbers)


@dataclass
class Content:
    """All that the page shows.

    Attributes:
        head: Systems, measures, test sets, speakers and audio files, which rows refer to by number.
        rows: Row by row: id, test set, speaker, duration in seconds, audio (number of a file, or why there is none),
            its start in seconds, reference, source; then for each system its hypothesis (:data:`SAME`, or None where
            the system was not tested on it), the code of its differences, its flags as bits, and its measures, each a
            pair of errors and units, a value, or None.
    """

    head: dict[str, Any]
    rows: Iterator[list[Any]]


def make_content(
    systems: Sequence[System], specs: Sequence[Mapping[str, Any]], rows: list[Row], clips: Clips
) -> Content:
    """Bring together what systems wrote, how it differs from the references and how it is measured.

    Args:
        systems: The systems.
        specs: Metric specs.
        rows: Rows of :func:`match_rows`.
        clips: The audio of each row.
    """
    measured = [measure(system.predictions, specs) for system in systems]
    measures = sorted(dict.fromkeys(key for found in measured for key in found), key=lambda m: TEXTS.index(m.text))
    differences = [_differences(system.predictions, rows, number) for number, system in enumerate(systems)]
    own = _measures_of_sets(rows, measured, measures)
    sets, speakers, sources = Table(), Table(), Table()
    lines = []
    for place, (row, clip) in enumerate(zip(rows, clips.found, strict=True)):
        found = row.prediction
        texts = [_hypothesis(systems[n], row.places.get(n)) for n in range(len(systems))]
        lines.append(
            [
                found.id,
                sets.number(row.test_set),
                speakers.number(found.speaker),
                _finite(found.duration_s, 3),
                clip if isinstance(clip, str) else sources.number(clip.source),
                0 if isinstance(clip, str) else clip.start_s,
                row.reference,
                collapse_spaces(found.reference_transcript) if row.test_set.text == "translation" else "",
                [SAME if text == row.reference else text for text in texts],
                [codes.get(place, "") for codes in differences],
                [_flags(systems[n], row.places.get(n)) for n in range(len(systems))],
                [[_cell(measured[n], m, row.places.get(n)) for m in own[row.test_set]] for n in range(len(systems))],
            ]
        )
    head = {
        "measures": [_measure(m) for m in measures],
        "sets": [_test_set(item, [measures.index(m) for m in own[item]]) for item in sets.values],
        "speakers": speakers.values,
        "audio": sources.values,
        "flags": list(FLAGS),
        "missing_audio": dict(clips.missing),
    }
    return Content(head, iter(lines))


def _differences(predictions: Sequence[Prediction], rows: Sequence[Row], number: int) -> dict[int, str]:
    """Return the code of each row that a system has, aligned language by language."""
    languages: dict[str, list[int]] = {}
    for place, row in enumerate(rows):
        if number in row.places:
            languages.setdefault(row.test_set.language, []).append(place)
    codes: dict[int, str] = {}
    for language, places in languages.items():
        references = [rows[place].reference for place in places]
        hypotheses = [_text(predictions, rows[place].places[number]) for place in places]
        codes.update(zip(places, find_differences(references, hypotheses, language), strict=True))
    return codes


def _text(predictions: Sequence[Prediction], place: Place) -> str:
    return collapse_spaces(getattr(predictions[place[0]], f"hypothesis_{place[1]}"))


def _hypothesis(system: System, place: Place | None) -> str | None:
    return None if place is None else _text(system.predictions, place)


def _flags(system: System, place: Place | None) -> int:
    if place is None:
        return 0
    found = system.predictions[place[0]]
    holds = (found.hit_limit, not _text(system.predictions, place), found.missing_separator, not found.readable)
    return sum(1 << bit for bit, flag in enumerate(holds) if flag)


def _cell(measured: Measured, key: Measure, place: Place | None) -> Any:
    fraction = measured.get(key, {}).get(place) if place else None
    if fraction is None:
        return None
    return [round(number) for number in fraction] if key.counted else _finite(fraction[0], 4)


def _measure(item: Measure) -> dict[str, Any]:
    return {
        "name": item.name,
        "text": item.text,
        "unit": item.unit,
        "higher": item.higher_is_better,
        "counted": item.counted,
    }


def _test_set(item: TestSet, measures: list[int]) -> dict[str, Any]:
    return {
        "corpus": item.corpus,
        "split": item.split,
        "task": item.task,
        "languages": item.languages,
        "source": item.source_language,
        "language": item.language,
        "text": item.text,
        "characters": counted_by_characters(item.language),
        "measures": measures,
    }


def _measures_of_sets(
    rows: Sequence[Row], measured: Sequence[Measured], measures: Sequence[Measure]
) -> dict[TestSet, list[Measure]]:
    """Return the measures that a test set has; where characters are counted, words come last."""
    found: dict[TestSet, set[Measure]] = {}
    for row in rows:
        present = found.setdefault(row.test_set, set())
        for key in measures:
            if key not in present and any(place in measured[n].get(key, ()) for n, place in row.places.items()):
                present.add(key)
    return {
        item: sorted(
            (key for key in measures if key in present),
            key=lambda key: counted_by_characters(item.language) and key.name.startswith("wer"),
        )
        for item, present in found.items()
    }


def _finite(number: float, digits: int) -> float:
    return round(number, digits) if math.isfinite(number) else 0.0
