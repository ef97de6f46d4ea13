"""What the page says of each utterance: its errors and words, its sentence-level score."""

from collections.abc import Container, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

import speechllm.metrics  # noqa: F401  # registers the metrics
from speechllm.evaluation.test_sets import group_by_test_set, to_sample
from speechllm.metrics.base import Metric, Text
from speechllm.predictions import Prediction
from speechllm.registry import METRICS

TEXTS: tuple[Text, ...] = ("transcript", "translation")
"""Texts that have rows on the page."""

EDITS = ("substitutions", "insertions", "deletions")
UNITS = "reference_units"

Place = tuple[int, Text]
"""Position of a prediction, and one of its texts."""

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Measure:
    """A figure that each utterance has.

    Attributes:
        name: Name of the figure, such as ``wer``.
        text: Text that it is of.
        unit: Its unit.
        higher_is_better: Its direction.
        counted: Whether utterances are pooled by their errors and units. If not, theirs have a mean.
    """

    name: str
    text: Text
    unit: str
    higher_is_better: bool
    counted: bool


Measured = dict[Measure, dict[Place, tuple[float, float]]]
"""Of each utterance that a measure can be computed for, numerator and denominator."""


def measure(predictions: Sequence[Prediction], specs: Sequence[Mapping[str, Any]]) -> Measured:
    """Measure each utterance of a system.

    These have a place on the page: metrics that count errors, ``chrf``, and metrics whose statistics the predictions
    keep, such as COMET's scores of segments, which are not computed anew. Transcripts that nothing counts the errors of
    get ``wer``, or ``cer`` where words make no sense. ``chrf`` is added to the specs, since it says something of a
    single sentence and BLEU hardly anything. A test set that a metric objects to has no figure of it.

    Args:
        predictions: What a system wrote.
        specs: Metric specs, ``{name: wer, …}``.

    Returns:
        For each measure a numerator and a denominator of each utterance that it can be computed for: errors and units
        of the reference, or the score and 1. Sums over utterances divided by each other are the pooled rate (without
        its factor of 100) or the mean.

    Raises:
        UserError: If a metric cannot be built.
    """
    found: Measured = {}
    for spec in specs:
        _add(found, predictions, spec)
    for name in ("wer", "cer"):
        _add(found, predictions, {"name": name}, without=_counted(found))
    if not any(spec["name"] == "chrf" for spec in specs):
        _add(found, predictions, {"name": "chrf"})
    return found


def _add(
    found: Measured, predictions: Sequence[Prediction], spec: Mapping[str, Any], without: Container[Place] = ()
) -> None:
    """Add what a metric says of all test sets but those that have a place in ``without``."""
    for test_set, places in group_by_test_set(predictions, METRICS.get(spec["name"]).scores).items():
        if test_set.text not in TEXTS or any((place, test_set.text) in without for place in places):
            continue
        metric = METRICS.build(spec, language=test_set.language)
        figure = metric.figures[0]
        counted = {*EDITS, UNITS} <= set(metric.columns)
        if figure.higher_is_better is None or not (counted or spec["name"] == "chrf" or _keeps(predictions, metric)):
            continue
        if metric.objection([to_sample(predictions[place], test_set.text) for place in places]):
            continue
        values = list(_fractions(predictions, places, test_set.text, metric, counted))
        key = Measure(figure.name, test_set.text, figure.unit, figure.higher_is_better, counted)
        found.setdefault(key, {}).update(((place, test_set.text), fraction) for place, fraction in values)


def _counted(found: Measured) -> set[Place]:
    return {place for key, values in found.items() if key.counted for place in values}


def _keeps(predictions: Sequence[Prediction], metric: Metric) -> bool:
    return any(_kept(prediction, metric) is not None for prediction in predictions)


def _kept(prediction: Prediction, metric: Metric) -> list[float] | None:
    """Return the statistics that a prediction keeps of a metric, in its order, or None."""
    found = prediction.statistics.get(metric.figures[0].name, {})
    return [found[name] for name in metric.columns] if set(metric.columns) <= found.keys() else None


def _fractions(
    predictions: Sequence[Prediction], places: Sequence[int], text: Text, metric: Metric, counted: bool
) -> Iterator[tuple[int, tuple[float, float]]]:
    kept = {place: _kept(predictions[place], metric) for place in places}
    if not counted and any(row is not None for row in kept.values()):
        places = [place for place in places if kept[place] is not None]
        statistics = np.array([kept[place] for place in places], dtype=np.float64)
    else:
        statistics = metric.statistics([to_sample(predictions[place], text) for place in places])
    scored = metric.scored(statistics)
    if counted:
        errors = statistics[:, [metric.columns.index(name) for name in EDITS]].sum(axis=1)
        fractions = np.stack([errors, statistics[:, metric.columns.index(UNITS)]], axis=1)
    else:
        values = metric.values(statistics)[:, 0]
        scored &= np.isfinite(values)
        fractions = np.stack([values, np.ones_like(values)], axis=1)
    for place, fraction, holds in zip(places, fractions.tolist(), scored.tolist(), strict=True):
        if holds and fraction[1]:
            yield place, (fraction[0], fraction[1])
