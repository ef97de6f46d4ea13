"""Where a system is good and where not: its figures by duration, speaker, corpus and language pair."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal, get_args

import numpy as np

from speechllm.errors import UserError, did_you_mean
from speechllm.evaluation.scoring import ScoredSet, averages
from speechllm.evaluation.test_sets import TestSet
from speechllm.predictions import Prediction

By = Literal["duration", "speaker", "corpus", "languages"]
"""What utterances are told apart by."""

DURATION_BINS_S = (2.0, 5.0, 10.0, 20.0)
"""Edges of the bins of duration in seconds; an utterance at an edge belongs to the bin above."""

UNREADABLE = "unreadable"
"""Bin of utterances whose audio could not be read, and so has no duration."""


@dataclass(frozen=True)
class PartScore:
    """A figure of some utterances of a test set.

    Attributes:
        by: What the utterances have in common.
        part: Its value: a bin of duration, a speaker, a corpus, or a language or pair.
        figure: Name of the figure.
        test_set: The test set; fields in which several differ are empty.
        value: The figure.
        utterances: Number of utterances that it is computed from.
    """

    by: By
    part: str
    figure: str
    test_set: TestSet
    value: float
    utterances: int


def break_down(
    scored_sets: Sequence[ScoredSet], predictions: Sequence[Prediction], by: By, main_only: bool = True
) -> list[PartScore]:
    """Return figures by what utterances have in common; parts in which nothing has a figure are left out.

    By duration and speaker, each test set for itself. By corpus and languages, the plain mean over the test sets that
    share it.

    Args:
        scored_sets: Test sets under their metrics.
        predictions: The predictions that they were scored from.
        by: What utterances are told apart by. Those of no known speaker are left out by speaker.
        main_only: Whether only the first figure of each metric is given.

    Raises:
        UserError: If ``by`` is not known.
    """
    if by not in get_args(By):
        msg = f"Unknown breakdown '{by}'.{did_you_mean(by, get_args(By))} Known: {', '.join(get_args(By))}."
        raise UserError(msg)
    if by in ("corpus", "languages"):
        return _by_test_set(scored_sets, by, main_only)
    part_of = duration_bin if by == "duration" else _speaker
    return [part for scored in scored_sets for part in _within(scored, predictions, by, part_of, main_only)]


def duration_bin(prediction: Prediction) -> str:
    """Return the bin of an utterance's duration, such as ``2-5 s``."""
    if not prediction.readable:
        return UNREADABLE
    index = int(np.searchsorted(DURATION_BINS_S, prediction.duration_s, side="right"))
    return DURATION_BIN_NAMES[index]


def _bin_names() -> list[str]:
    edges = [f"{edge:g}" for edge in DURATION_BINS_S]
    between = [f"{low}-{high} s" for low, high in pairwise(edges)]
    return [f"< {edges[0]} s", *between, f">= {edges[-1]} s"]


DURATION_BIN_NAMES = _bin_names()
"""Names of the bins, from short to long."""


def _speaker(prediction: Prediction) -> str:
    return prediction.speaker


def _within(
    scored: ScoredSet, predictions: Sequence[Prediction], by: By, part_of: Callable[[Prediction], str], main_only: bool
) -> list[PartScore]:
    """Sum statistics by part and compute figures from each sum."""
    parts = [part_of(predictions[place]) for place in scored.places.tolist()]
    order = [*DURATION_BIN_NAMES, UNREADABLE] if by == "duration" else sorted(set(parts) - {""})
    rows = {part: row for row, part in enumerate(order)}
    kept = [index for index, part in enumerate(parts) if part in rows]
    target = np.array([rows[parts[index]] for index in kept], dtype=np.int64)
    sums = np.zeros((len(order), scored.statistics.shape[1]))
    np.add.at(sums, target, scored.statistics[kept])
    has_figure = scored.metric.scored(scored.statistics)[kept]
    counts = np.bincount(target[has_figure], minlength=len(order))
    values = scored.metric.values(sums)
    figures = scored.metric.figures[: 1 if main_only else None]
    return [
        PartScore(by, part, figure.name, scored.test_set, float(values[row, column]), int(counts[row]))
        for column, figure in enumerate(figures)
        for part, row in rows.items()
        if counts[row]
    ]


def _by_test_set(scored_sets: Sequence[ScoredSet], by: By, main_only: bool) -> list[PartScore]:
    groups: dict[tuple[str, str, str, str], list[ScoredSet]] = {}
    for scored in scored_sets:
        part = scored.test_set.corpus if by == "corpus" else scored.test_set.languages
        key = part, scored.metric.figures[0].name, scored.test_set.text, scored.test_set.task
        groups.setdefault(key, []).append(scored)
    found = []
    for (part, main, _, _), members in groups.items():
        several = [item for item in averages(members) if item.kind == "mean"]
        for item in several or members[0].scores():
            if item.figure == main or not main_only:
                found.append(PartScore(by, part, item.figure, item.test_set, item.value, item.utterances))
    return found
