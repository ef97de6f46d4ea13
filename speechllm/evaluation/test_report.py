"""What a test says on one page of a terminal; all of it stands in ``run.json`` too."""

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from statistics import median

import numpy as np

from speechllm.evaluation.breakdown import DURATION_BIN_NAMES, UNREADABLE, break_down
from speechllm.evaluation.run_record import Intervals, Run
from speechllm.evaluation.scoring import Score, ScoredSet, averages, means
from speechllm.evaluation.test_sets import TestSet, short_names
from speechllm.metrics.base import Text
from speechllm.metrics.error_rate import ErrorRate
from speechllm.metrics.health import Health
from speechllm.metrics.speed import Speed
from speechllm.predictions import Prediction
from speechllm.report import format_examples, format_table

EXAMPLES = 3
"""Number of utterances that are shown."""

PACE = {
    "real_time_factor": "real-time factor {:.4f}",
    "tokens_per_second": "{:.1f} tokens/s",
    "time_to_first_token_s": "{:.3f} s to the first token",
}
"""Figures of speed that are shown, and how."""


def test_report(
    predictions: Sequence[Prediction], scored_sets: Sequence[ScoredSet], intervals: Intervals, run: Run
) -> str:
    """Return the main figures, what stands behind them, what went wrong, and a few utterances.

    Args:
        predictions: The predictions.
        scored_sets: Each test set under each metric.
        intervals: 95 % confidence intervals of its figures.
        run: How the predictions came about.
    """
    quality = [scored for scored in scored_sets if not isinstance(scored.metric, Health | Speed)]
    merged = _merged(quality)
    figures = quality or scored_sets  # sentences say what health and speed find, unless nothing else was asked for
    sections = [
        _main_figures(figures, intervals),
        _further_figures(figures),
        _edits(merged),
        _by_duration(merged, predictions),
        _by_speaker(merged, predictions),
        "\n".join([*_problems(predictions), *_health(scored_sets), *_skipped(merged)]),
        _pace(predictions, run, [scored for scored in scored_sets if isinstance(scored.metric, Speed)]),
        format_examples(predictions, EXAMPLES),
    ]
    return "\n\n".join(section for section in sections if section)


def _main_figures(scored_sets: Sequence[ScoredSet], intervals: Intervals) -> str:
    """Return a row a figure for one test set, and a row a test set for several."""
    if not scored_sets:
        return "No metric scores a text of these utterances."
    sets = list(dict.fromkeys(_whole(scored.test_set) for scored in scored_sets))
    found = [scored.scores()[0] for scored in scored_sets]
    labels = _labels(found)
    if len(sets) > 1:
        return _matrix(sets, found, labels, scored_sets)
    rows = []
    for item in found:
        low, high = intervals.get((item.figure, item.test_set), (math.nan, math.nan))
        interval = "" if math.isnan(low) else f"{low:.2f} to {high:.2f}"
        rows.append((labels[_column(item)], item.value, item.unit, interval, item.signature))
    names = short_names(sets)
    head = "".join(f"{names[item]}, {item.split}, {item.task}" for item in sets)
    table = format_table(rows, ["metric", "value", "unit", "95 % interval", "signature"])
    return f"{table}\n\n{head}: {_count(found)} utterances."


def _matrix(
    sets: Sequence[TestSet], found: Sequence[Score], labels: Mapping[tuple[str, Text], str], scored: Sequence[ScoredSet]
) -> str:
    averaged = [item for item in averages(scored) if _column(item) in labels]
    names = short_names(sets)
    lines = [
        (names[item], {_column(score): score for score in found if _whole(score.test_set) == item}) for item in sets
    ]
    tasks = list(dict.fromkeys(item.test_set.task for item in averaged))
    for task in tasks:
        for kind in ("mean", "pooled"):
            same = [item for item in averaged if (item.kind, item.test_set.task) == (kind, task)]
            lines.append((kind if len(tasks) == 1 else f"{kind}, {task}", {_column(item): item for item in same}))
    rows = [
        (
            name,
            _count(cells.values()) if name in names.values() else "",
            *(cells[key].value if key in cells else "" for key in labels),
        )
        for name, cells in lines
        if cells
    ]
    table = format_table(rows, ["test set", "utterances", *labels.values()])
    computed: dict[tuple[str, str], dict[str, list[str]]] = {}
    for item in found:
        ways = computed.setdefault((labels[_column(item)], item.unit), {})
        ways.setdefault(item.signature, []).append(names[_whole(item.test_set)])
    rows = [  # of which test sets a signature is, where a figure has several
        (*metric, signature, ", ".join(where) if len(ways) > 1 else "")
        for metric, ways in computed.items()
        for signature, where in ways.items()
    ]
    header = ["metric", "unit", "signature", "of"]
    shown = 4 if any(row[3] for row in rows) else 3
    return f"{table}\n\n{format_table([row[:shown] for row in rows], header[:shown])}"


def _further_figures(scored_sets: Sequence[ScoredSet]) -> str:
    """Return the other figures of each metric in a line, of the only test set or the mean of several."""
    main = {scored.metric.figures[0].name for scored in scored_sets}
    found = {_column(item): item for scored in scored_sets for item in scored.scores()}
    labels, values = _labels(found.values()), means(scored_sets)
    texts = [
        f"{labels[key]} {values[key]:.2f}{' %' if item.unit == '%' else ''}"
        for key, item in found.items()
        if item.figure not in main and not math.isnan(values[key])
    ]
    lines: list[str] = []
    for text in texts:
        if lines and len(lines[-1]) + len(text) < 110:
            lines[-1] += f", {text}"
        else:
            lines.append(text)
    return "\n".join(lines)


def _edits(merged: Sequence[ScoredSet]) -> str:
    """Return substitutions, insertions and deletions of the error rates."""
    rows: list[tuple[str | int, ...]] = []
    for scored in merged:
        if isinstance(scored.metric, ErrorRate):
            sums = dict(zip(scored.metric.columns, scored.statistics.sum(axis=0).tolist(), strict=True))
            names = ("substitutions", "insertions", "deletions", "reference_units")
            rows.append((scored.metric.figures[0].name, *(round(sums[name]) for name in names)))
    columns = ["errors of", "substitutions", "insertions", "deletions", "reference units"]
    return format_table(rows, columns) if rows else ""


def _by_duration(merged: Sequence[ScoredSet], predictions: Sequence[Prediction]) -> str:
    parts = break_down(merged, predictions, "duration")
    columns = list(dict.fromkeys((part.figure, part.test_set.text) for part in parts))
    bins = [name for name in (*DURATION_BIN_NAMES, UNREADABLE) if any(part.part == name for part in parts)]
    if len(bins) < 2:
        return ""
    cells = {(part.part, part.figure, part.test_set.text): part for part in parts}
    rows: list[tuple[str | int | float, ...]] = []
    for name in bins:
        found = [cells.get((name, *column)) for column in columns]
        utterances = max(part.utterances for part in found if part is not None)
        rows.append((name, utterances, *("" if part is None else part.value for part in found)))
    texts = {figure: {text for other, text in columns if other == figure} for figure, _ in columns}
    names = [f"{figure} {text}" if len(texts[figure]) > 1 else figure for figure, text in columns]
    return format_table(rows, ["duration", "utterances", *names])


def _by_speaker(merged: Sequence[ScoredSet], predictions: Sequence[Prediction]) -> str:
    """Return the best, the middle and the worst speaker by the first figure that has a direction."""
    if len({p.corpus for p in predictions}) > 1:  # each corpus has names of its own
        predictions = [replace(p, speaker=p.speaker and f"{p.corpus} {p.speaker}") for p in predictions]
    for scored in merged:
        figure = scored.metric.figures[0]
        parts = break_down([scored], predictions, "speaker")
        if figure.higher_is_better is not None and len(parts) > 1:
            ranked = sorted(parts, key=lambda part: part.value, reverse=figure.higher_is_better)
            middle = median(part.value for part in ranked)
            best, worst = ranked[0], ranked[-1]
            return (
                f"{figure.name} of {len(ranked)} speakers: best {best.value:.2f} ({best.part}), median {middle:.2f}, "
                f"worst {worst.value:.2f} ({worst.part})."
            )
    return ""


def _problems(predictions: Sequence[Prediction]) -> list[str]:
    counts = {
        "clips could not be read and are scored as empty output": sum(not p.readable for p in predictions),
        "answers lack the separator: their translation counts as empty": sum(p.missing_separator for p in predictions),
        "answers were cut off at the limit of new tokens": sum(p.hit_limit for p in predictions),
        "answers are empty": sum(not p.text.strip() for p in predictions),
    }
    return [f"{count} of {len(predictions)} {text}." for text, count in counts.items() if count]


def _health(scored_sets: Sequence[ScoredSet]) -> list[str]:
    """Return what is wrong with texts and cannot be seen from the predictions alone."""
    sums: dict[str, Counter[str]] = {}
    for scored in scored_sets:
        if isinstance(scored.metric, Health):
            found = dict(zip(scored.metric.columns, scored.statistics.sum(axis=0).astype(int).tolist(), strict=True))
            sums.setdefault(f"{scored.test_set.text}s", Counter()).update(found)
    lines = []
    for texts, count in sums.items():
        lines += [
            (count["loops"], f"of {count['utterances']} {texts} repeat a passage over and over."),
            (count["copies"], f"of {count['with_source']} {texts} are nearly the source text."),
            (count["hallucinations"], f"of {count['silent']} clips in which nothing is said have {texts}."),
        ]
    return [f"{number} {text}" for number, text in lines if number]


def _skipped(merged: Sequence[ScoredSet]) -> list[str]:
    """Return how many utterances have no reference, and by which figures."""
    skipped = {
        scored.metric.figures[0].name: int((~scored.metric.scored(scored.statistics)).sum()) for scored in merged
    }
    names = {count: [name for name, other in skipped.items() if other == count] for count in skipped.values() if count}
    return [
        f"{count} utterance{'s have' if count > 1 else ' has'} no reference to score and no part in {', '.join(same)}."
        for count, same in names.items()
    ]


def _pace(predictions: Sequence[Prediction], run: Run, speed: Sequence[ScoredSet]) -> str:
    """Return how fast decoding was: by the clock of all processes, and by the metric."""
    lines = [_wall(predictions, run)] if run.wall_s else []
    for scored in speed[:1]:
        sums = np.sum([item.statistics.sum(axis=0) for item in speed], axis=0)
        values = zip(scored.metric.figures, scored.metric.values(sums).tolist(), strict=True)
        found = {figure.name: value for figure, value in values if not math.isnan(value)}
        shown = [text.format(found[name]) for name, text in PACE.items() if name in found]
        lines += [f"By the time of each batch: {', '.join(shown)}."] if shown else []
    return "\n".join(lines)


def _wall(predictions: Sequence[Prediction], run: Run) -> str:
    assert run.wall_s is not None
    decoded = (len(predictions) if run.decoded is None else run.decoded) - run.taken_over
    text = (
        f"{decoded} utterances decoded in {run.wall_s:.1f} s by {run.processes} "
        f"process{'es' if run.processes > 1 else ''}: {decoded / run.wall_s:.2f} hypotheses/s."
    )
    return text if not run.taken_over else f"{text} {run.taken_over} were decoded before."


def _merged(scored_sets: Sequence[ScoredSet]) -> list[ScoredSet]:
    """Return test sets as one for each metric that pools; those of the others only where they are alone."""
    groups: dict[tuple[str, str], list[ScoredSet]] = {}
    for scored in scored_sets:
        groups.setdefault((scored.metric.figures[0].name, scored.test_set.text), []).append(scored)
    return [
        replace(
            members[0],
            places=np.concatenate([scored.places for scored in members]),
            statistics=np.concatenate([scored.statistics for scored in members]),
        )
        for members in groups.values()
        if len(members) == 1 or members[0].metric.pooled
    ]


def _labels(scores: Iterable[Score]) -> dict[tuple[str, Text], str]:
    """Return a name for each figure and text; the text stands in it where several have the figure."""
    columns = list(dict.fromkeys(_column(item) for item in scores))
    texts = {figure: sum(other == figure for other, _ in columns) for figure, _ in columns}
    return {(figure, text): f"{figure} {text}" if texts[figure] > 1 else figure for figure, text in columns}


def _column(score: Score) -> tuple[str, Text]:
    return score.figure, score.test_set.text


def _whole(test_set: TestSet) -> TestSet:
    """Return a test set whichever of its texts is scored."""
    return replace(test_set, text="answer")


def _count(scores: Iterable[Score]) -> int:
    return max(item.utterances + item.skipped for item in scores)
