"""Statistics that predictions carry: COMET takes minutes and a checkpoint, and was computed when the run was tested."""

import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from speechllm.errors import UserError
from speechllm.evaluation.comparison.figures import tested_with
from speechllm.evaluation.run_record import fingerprint, hypotheses_digest
from speechllm.evaluation.scoring import ScoredSet, score
from speechllm.evaluation.systems import System
from speechllm.evaluation.test_sets import TestSet, group_by_test_set, to_sample
from speechllm.metrics.base import Figure, Metric, Sample
from speechllm.metrics.comet import Comet
from speechllm.registry import METRICS

SLOW = ("comet",)
"""Metrics whose statistics are taken from the predictions where the same metric computed them."""


class RecordedComet(Comet):
    """COMET on a machine without its checkpoint: it says again what was computed elsewhere.

    Args:
        language: BCP-47 code of the translation.
        figure: Name of the figure.
        recorded: Its signature.
    """

    def __init__(self, language: str, figure: str, recorded: str) -> None:
        Metric.__init__(self, language)
        self._figure, self._recorded = figure, recorded

    @property
    def figures(self) -> tuple[Figure, ...]:
        """The figure under the name that it was recorded by."""
        return (Figure(self._figure, "points", True),)

    def signature(self) -> str:
        """Return the signature of what computed the scores."""
        return self._recorded

    def statistics(self, samples: Sequence[Sample]) -> NDArray[np.float64]:
        """Return zeros for samples without a reference.

        Raises:
            UserError: If a sample has a reference, whose score only the checkpoint can tell.
        """
        if any(sample.reference.strip() for sample in samples):
            msg = f"Some utterances have no score of {self._figure} in their predictions. Score them again."
            raise UserError(msg)
        return np.zeros((len(samples), len(self.columns)))


def score_with_kept(system: System, spec: Mapping[str, Any]) -> list[ScoredSet]:
    """Score a system by a metric, from the statistics in its predictions where they are those of the same metric.

    They are, if ``run.json`` has the signature that the metric has here, and is of these hypotheses and references.
    Where the metric cannot be built here, for its checkpoint is on another machine, they are taken if ``run.json`` says
    that the run was scored by it.

    Raises:
        UserError: If the metric has to be computed, and cannot be.
    """
    if spec["name"] not in SLOW:
        return score(system.predictions, [spec])
    found = []
    for test_set, places in group_by_test_set(system.predictions, METRICS.get(spec["name"]).scores).items():
        try:
            metric = METRICS.build(spec, language=test_set.language)
        except UserError:
            recorded = _recorded(system, spec, test_set)
            if recorded is None:
                raise
            metric = recorded
        statistics = _kept(system, metric, test_set, places)
        if statistics is None:
            return score(system.predictions, [spec])
        found.append(ScoredSet(test_set, metric, np.array(places), statistics))
        _warn_of_empty_sources(found[-1])
    return found


def _warn_of_empty_sources(scored: ScoredSet) -> None:
    """Warn, as COMET itself does, of utterances that were scored without their source text."""
    sums = dict(zip(scored.metric.columns, scored.statistics.sum(axis=0).tolist(), strict=True))
    if empty := int(sums.get("empty_source", 0)):
        figure, count = scored.metric.figures[0].name, int(scored.metric.scored(scored.statistics).sum())
        text = f"{figure} {scored.test_set.languages}: {empty} of {count} utterances were scored with an empty source."
        warnings.warn(text, stacklevel=3)


def _recorded(system: System, spec: Mapping[str, Any], test_set: TestSet) -> RecordedComet | None:
    """Return the metric that a run was scored by, if there is no doubt which it was."""
    named = [other for other in tested_with(system.run) or [] if other["name"] == spec["name"]]
    entries = [entry for entry in _entries(system, test_set) if str(entry.get("figure")).startswith(spec["name"])]
    if spec["name"] != "comet" or named != [spec] or len(entries) != 1:
        return None
    return RecordedComet(test_set.language, str(entries[0]["figure"]), str(entries[0]["signature"]))


def _kept(system: System, metric: Metric, test_set: TestSet, places: Sequence[int]) -> NDArray[np.float64] | None:
    """Return the statistics that predictions carry, if this very metric computed them."""
    main, signature = metric.figures[0].name, metric.signature()
    same = [(entry.get("figure"), entry.get("signature")) for entry in _entries(system, test_set)]
    if not metric.kept or (main, signature) not in same or _changed(system, test_set, places):
        return None
    name = main + (f"_{test_set.text}" if len(metric.scores) > 1 else "")
    statistics = np.zeros((len(places), len(metric.columns)))
    for row, place in enumerate(places):
        kept = system.predictions[place].statistics.get(name)
        if kept is not None:
            if set(kept) != set(metric.columns):
                return None
            statistics[row] = [kept[column] for column in metric.columns]
        elif metric.scored(metric.statistics([to_sample(system.predictions[place], test_set.text)])).any():
            return None
    return statistics


def _changed(system: System, test_set: TestSet, places: Sequence[int]) -> bool:
    """Return whether predictions are others than those that ``run.json`` was written with."""
    sets = system.run.get("test_sets")
    names = ("corpus", "split", "task", "source_language", "target_language")
    found = [entry for entry in sets if isinstance(entry, Mapping)] if isinstance(sets, list) else []
    known = [entry for entry in found if all(entry.get(name) == getattr(test_set, name) for name in names)]
    predictions = [system.predictions[place] for place in places]
    digests = {"hypotheses": hypotheses_digest(predictions), "fingerprint": fingerprint(predictions)}
    return any(entry.get(name, digest) != digest for entry in known for name, digest in digests.items())


def _entries(system: System, test_set: TestSet) -> list[Mapping[str, Any]]:
    """Return what ``run.json`` says of a test set's figures."""
    wanted = {name: getattr(test_set, name) for name in ("corpus", "split", "task", "text")}
    wanted |= {name: getattr(test_set, name) for name in ("source_language", "target_language")}
    entries = system.run.get("scores")
    found = [entry for entry in entries if isinstance(entry, Mapping)] if isinstance(entries, list) else []
    return [
        entry
        for entry in found
        if entry.get("kind") == "test set" and all(entry.get(name) == value for name, value in wanted.items())
    ]
