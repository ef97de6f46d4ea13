"""From predictions to a folder of results: figures, what they were computed from, and how."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, get_args

from speechllm.evaluation.breakdown import By, break_down
from speechllm.evaluation.run_record import RUN_FILE, Intervals, Run, make_record, write_record
from speechllm.evaluation.scoring import ScoredSet, averages, score, scores
from speechllm.evaluation.significance import intervals_of_metrics, resampling_units
from speechllm.evaluation.test_report import test_report
from speechllm.evaluation.test_sets import TestSet
from speechllm.predictions import Prediction, write_predictions

PREDICTIONS_FILE = "predictions.jsonl"
REPORT_FILE = "report.txt"
SEGMENTS_FILE = "segments.jsonl"
"""What was decoded of talks, where other segments are scored."""

DECIMALS = 9
"""Decimals of the statistics in files: counts come back as they were."""


@dataclass(frozen=True)
class Resampling:
    """How intervals come about.

    Attributes:
        by: What is drawn: ``utterance``, ``recording`` or ``speaker``.
        samples: Number of bootstrap samples; 0 for no intervals.
    """

    by: str = "utterance"
    samples: int = 1000


@dataclass(frozen=True)
class Results:
    """What predictions come to.

    Attributes:
        predictions: The predictions, with the statistics that metrics keep.
        scored_sets: Each test set under each metric.
        intervals: 95 % confidence intervals of its figures.
        report: Text for people.
    """

    predictions: list[Prediction]
    scored_sets: list[ScoredSet]
    intervals: Intervals
    report: str


def assess(
    predictions: Sequence[Prediction],
    specs: Sequence[Mapping[str, Any]],
    run: Run,
    resampling: Resampling = Resampling(),
) -> Results:
    """Score predictions.

    Args:
        predictions: The predictions.
        specs: Metric specs.
        run: How the predictions came about.
        resampling: How intervals come about.

    Raises:
        UserError: If a metric cannot score them, or the units to resample are not known.
    """
    resampled = range(len(predictions) if resampling.samples else 0)
    resampling_units(predictions, resampled, resampling.by)  # what cannot be is found before the work
    scored_sets = score(predictions, specs)
    intervals = _intervals(predictions, scored_sets, resampling) if resampling.samples else {}
    report = test_report(predictions, scored_sets, intervals, run)
    return Results(with_statistics(predictions, scored_sets), scored_sets, intervals, report)


def _intervals(
    predictions: Sequence[Prediction], scored_sets: Sequence[ScoredSet], resampling: Resampling
) -> Intervals:
    found = {}
    by_test_set: dict[TestSet, list[ScoredSet]] = {}
    for scored in scored_sets:
        by_test_set.setdefault(scored.test_set, []).append(scored)
    for test_set, members in by_test_set.items():
        units = None
        if resampling.by != "utterance":
            units = resampling_units(predictions, members[0].places.tolist(), resampling.by)
        for scored, intervals in zip(members, intervals_of_metrics(members, units, resampling.samples), strict=True):
            for figure, interval in zip(scored.metric.figures, intervals, strict=True):
                found[figure.name, test_set] = interval
    return found


def write_test_folder(
    folder: Path, predictions: Sequence[Prediction], specs: Sequence[Mapping[str, Any]], run: Run
) -> Results:
    """Score predictions, and write them with their statistics, ``run.json`` and ``report.txt``.

    The predictions are written before they are scored, so that a metric that fails does not lose them.

    Args:
        folder: Folder to write to; made where it is not there.
        predictions: The predictions.
        specs: Metric specs.
        run: How the predictions came about.

    Raises:
        UserError: If a metric cannot score them.
    """
    for name in (RUN_FILE, REPORT_FILE):  # those of a test before are not of these predictions
        (folder / name).unlink(missing_ok=True)
    write_predictions(folder / PREDICTIONS_FILE, predictions)
    results = assess(predictions, specs, run)
    write_results(folder, results, record_of(results, specs, run))
    return results


def write_results(folder: Path, results: Results, record: Mapping[str, Any]) -> None:
    """Write predictions with their statistics, report and record.

    Args:
        folder: Folder to write to; made where it is not there.
        results: The results.
        record: Contents of ``run.json``.
    """
    write_predictions(folder / PREDICTIONS_FILE, results.predictions)
    (folder / REPORT_FILE).write_text(results.report + "\n", encoding="utf-8", errors="backslashreplace")
    write_record(folder / RUN_FILE, record)


def record_of(results: Results, specs: Sequence[Mapping[str, Any]], run: Run) -> dict[str, Any]:
    """Return the contents of ``run.json``.

    Args:
        results: The results.
        specs: Metric specs that they were scored by.
        run: How the predictions came about.
    """
    scored_sets, predictions = results.scored_sets, results.predictions
    parts = [part for by in get_args(By) for part in break_down(scored_sets, predictions, by)]
    found = [*scores(scored_sets), *averages(scored_sets)]
    return make_record(run, predictions, found, results.intervals, parts) | {"metrics": [dict(spec) for spec in specs]}


def with_statistics(predictions: Sequence[Prediction], scored_sets: Sequence[ScoredSet]) -> list[Prediction]:
    """Return predictions that carry what metrics that keep it say of each utterance.

    The name is that of the metric's main figure, followed by the text where the metric scores several. Utterances that
    a metric has no figure for have no entry.
    """
    kept: list[dict[str, dict[str, float]]] = [{} for _ in predictions]
    for scored in scored_sets:
        metric = scored.metric
        if not metric.kept:
            continue
        name = metric.figures[0].name + (f"_{scored.test_set.text}" if len(metric.scores) > 1 else "")
        has_figure = metric.scored(scored.statistics).tolist()
        for place, row, holds in zip(scored.places.tolist(), scored.statistics.tolist(), has_figure, strict=True):
            if holds:
                values = (round(value, DECIMALS) for value in row)
                kept[place][name] = dict(zip(metric.columns, values, strict=True))
    return [
        replace(prediction, statistics=statistics) for prediction, statistics in zip(predictions, kept, strict=True)
    ]
