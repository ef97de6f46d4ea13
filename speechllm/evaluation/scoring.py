"""From predictions to figures: every metric over each test set, and averages over test sets."""

import warnings
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

import speechllm.metrics  # noqa: F401  # registers the metrics
from speechllm.errors import UserError
from speechllm.evaluation.parts_of_sets import Workers
from speechllm.evaluation.test_sets import TestSet, group_by_test_set, short_names, to_sample
from speechllm.metrics.base import Figure, Metric, Text
from speechllm.predictions import Prediction
from speechllm.registry import METRICS


@dataclass(frozen=True)
class Score:
    """One figure of one test set.

    Attributes:
        figure: Name, such as ``wer`` or ``wer_macro``.
        test_set: The test set; of an average, fields in which its test sets differ are empty.
        value: The figure; NaN where there is nothing to compute it from.
        unit: Its unit, as :class:`speechllm.metrics.base.Figure` lists them.
        higher_is_better: Its direction; None where neither is better.
        signature: How it was computed.
        utterances: Number of utterances that it is computed from.
        skipped: Number of utterances that have no figure, for their reference is empty.
        sums: What the figure was computed from, by name, where the metric keeps it.
        kind: ``test set``, ``mean`` of test sets, or ``pooled`` over them.
    """

    figure: str
    test_set: TestSet
    value: float
    unit: str
    higher_is_better: bool | None
    signature: str
    utterances: int
    skipped: int = 0
    sums: Mapping[str, float] | None = None
    kind: str = "test set"


@dataclass(frozen=True)
class ScoredSet:
    """A test set under one metric, with the statistics of each utterance.

    Attributes:
        test_set: The test set.
        metric: The metric.
        places: (N,) int64, positions of its utterances among the predictions.
        statistics: (N, K) float64, what the metric says of each.
    """

    test_set: TestSet
    metric: Metric
    places: NDArray[np.int64]
    statistics: NDArray[np.float64]

    def scores(self) -> list[Score]:
        """Return each figure of the metric."""
        scored = self.metric.scored(self.statistics)
        sums = self.statistics.sum(axis=0)
        kept = dict(zip(self.metric.columns, sums.tolist(), strict=True)) if self.metric.kept else None
        count, skipped = int(scored.sum()), int((~scored).sum())
        signature, values = self.metric.signature(), self.metric.values(sums)
        return [
            _score(figure, self.test_set, value, signature, count, skipped, kept)
            for figure, value in zip(self.metric.figures, values.tolist(), strict=True)
        ]


def score(predictions: Sequence[Prediction], specs: Iterable[Mapping[str, Any]]) -> list[ScoredSet]:
    """Score predictions by every metric, each test set for itself.

    Args:
        predictions: Predictions of one or several splits.
        specs: Metric specs, ``{name: wer, …}``.

    Returns:
        One entry a metric and test set, by metric. A metric has none of the test sets whose task lacks the text that it
        scores, and none of those that it objects to, such as words of a language that does not divide them, or that
        have no reference: a warning says so.

    Raises:
        UserError: If a metric cannot run, two give figures of one name, or there is nothing that one can score.
    """
    found, objections = [], []
    pairs = list(_pair(specs, predictions))
    _check_names(pairs)
    with Workers() as workers:
        for spec, metric, test_set, places in pairs:
            samples = [to_sample(predictions[place], test_set.text) for place in places]
            where = f"{test_set.corpus} {test_set.split}, {test_set.languages}"
            if objection := metric.objection(samples):
                objections.append(f"{where}: no {objection}")
                continue
            if metric.compares and not any(sample.reference.strip() for sample in samples):
                objections.append(f"{where}: {metric.nothing_to_score()}")
                continue
            statistics = workers.statistics(spec, metric, samples)
            if not metric.scored(statistics).any():
                objections.append(f"{where}: {metric.nothing_to_score()}")
                continue
            found.append(ScoredSet(test_set, metric, np.array(places), statistics))
    if objections and not found:
        raise UserError("\n".join(objections))
    for objection in objections:
        warnings.warn(objection, stacklevel=2)
    return found


def check_metrics(predictions: Sequence[Prediction], specs: Iterable[Mapping[str, Any]]) -> list[str]:
    """Check before decoding that metrics can score what is to be decoded, and return what they will leave out.

    Args:
        predictions: Predictions without texts, at least one of each corpus, task and language.
        specs: Metric specs, ``{name: wer, …}``.

    Returns:
        A sentence for each figure that will not be given, since it would mislead.

    Raises:
        UserError: If a metric cannot run, as BLEU of Japanese where MeCab is not installed, or metrics object to all
            that they are to score.
    """
    pairs = list(_pair(specs, predictions))
    objections = list(dict.fromkeys(metric.objection([]) for _, metric, _, _ in pairs))
    found = [f"No {objection}" for objection in objections if objection]
    if found and "" not in objections:
        raise UserError("\n".join(found))
    return found


def _pair(
    specs: Iterable[Mapping[str, Any]], predictions: Sequence[Prediction]
) -> Iterator[tuple[Mapping[str, Any], Metric, TestSet, list[int]]]:
    """Yield each metric, with its spec, of each test set that has the text that it scores, and places in the latter."""
    for spec in specs:
        for test_set, places in group_by_test_set(predictions, METRICS.get(spec["name"]).scores).items():
            yield spec, METRICS.build(spec, language=test_set.language), test_set, places


def _check_names(pairs: Iterable[tuple[Mapping[str, Any], Metric, TestSet, list[int]]]) -> None:
    """Check that no two metrics give figures of one name, which tables and averages would take for the same.

    Raises:
        UserError: If two do.
    """
    taken: dict[tuple[str, TestSet], Mapping[str, Any]] = {}
    for spec, metric, test_set, _ in pairs:
        for figure in metric.figures:
            other = taken.setdefault((figure.name, test_set), spec)
            if other is not spec:
                msg = f"Two metrics give the figure '{figure.name}': {dict(other)} and {dict(spec)}. Leave one out."
                raise UserError(msg)


def scores(scored_sets: Iterable[ScoredSet]) -> list[Score]:
    """Return each figure of each test set."""
    return [item for scored in scored_sets for item in scored.scores()]


def averages(scored_sets: Sequence[ScoredSet]) -> list[Score]:
    """Return what test sets of one task have in common: the mean of each figure, and the pooled figure if it has one.

    The mean is that of paper A (spec 17.7), the pooled figure that of paper D (spec 17.5). Figures with one test set
    have no average. A test set whose figure is NaN has no part in the mean.
    """
    groups: dict[tuple[str, Text, str], list[ScoredSet]] = {}
    for scored in scored_sets:
        key = scored.metric.figures[0].name, scored.test_set.text, scored.test_set.task
        groups.setdefault(key, []).append(scored)
    found = []
    for (_, text, _), members in groups.items():
        if len(members) < 2:
            continue
        parts = [member.scores() for member in members]
        name = _shared([member.test_set for member in members], text)
        pooled = members[0].metric.values(np.sum([member.statistics.sum(axis=0) for member in members], axis=0))
        for index, figure in enumerate(members[0].metric.figures):
            same = [part[index] for part in parts]
            values = [item.value for item in same if not np.isnan(item.value)]
            utterances, skipped = sum(item.utterances for item in same), sum(item.skipped for item in same)
            signature = _shared_word(item.signature for item in same)
            value = sum(values) / len(values) if values else float("nan")
            found.append(_score(figure, name, value, signature, utterances, skipped, None, "mean"))
            if members[0].metric.pooled:
                value = float(pooled[index])
                found.append(_score(figure, name, value, signature, utterances, skipped, None, "pooled"))
    return found


def means(scored_sets: Iterable[ScoredSet]) -> dict[tuple[str, Text], float]:
    """Return one value a figure and text: that of the only test set, or the mean of all, whatever their tasks."""
    values: dict[tuple[str, Text], list[float]] = {}
    for item in scores(scored_sets):
        values.setdefault((item.figure, item.test_set.text), []).append(item.value)
    numbers = {key: [value for value in found if not np.isnan(value)] for key, found in values.items()}
    return {key: sum(found) / len(found) if found else float("nan") for key, found in numbers.items()}


def summarize(scored_sets: Iterable[ScoredSet]) -> dict[str, float]:
    """Return the values of :func:`means` by the name of the figure.

    Figures that score transcripts and translations alike carry the name of the text: ``empty_rate_transcript``.
    """
    found = means(scored_sets)
    texts = Counter(figure for figure, _ in found)
    return {f"{figure}_{text}" if texts[figure] > 1 else figure: value for (figure, text), value in found.items()}


def by_test_set(scored_sets: Sequence[ScoredSet]) -> dict[str, float]:
    """Return each figure of each test set by a name for logs: ``wer/must_c_en``."""
    found = scores(scored_sets)
    names = short_names(item.test_set for item in found)
    texts = {(item.figure, item.test_set.text) for item in found}
    several = {figure for figure, _ in texts if sum(figure == other for other, _ in texts) > 1}
    return {
        f"{item.figure}{f'_{item.test_set.text}' if item.figure in several else ''}/"
        f"{names[item.test_set].replace(' ', '_')}": item.value
        for item in found
    }


def _score(
    figure: Figure,
    test_set: TestSet,
    value: float,
    signature: str,
    utterances: int,
    skipped: int,
    sums: Mapping[str, float] | None,
    kind: str = "test set",
) -> Score:
    direction = figure.higher_is_better
    return Score(figure.name, test_set, value, figure.unit, direction, signature, utterances, skipped, sums, kind)


def _shared(test_sets: Sequence[TestSet], text: Text) -> TestSet:
    names = ("corpus", "split", "task", "source_language", "target_language")
    fields = {name: _shared_word(getattr(item, name) for item in test_sets) for name in names}
    return TestSet(**fields, text=text)


def _shared_word(words: Iterable[str]) -> str:
    """Return the one word that all are, or the empty word."""
    different = set(words)
    return different.pop() if len(different) == 1 else ""
