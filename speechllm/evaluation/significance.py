"""Is a difference more than chance? Confidence intervals by the bootstrap, and paired tests of two systems.

What is resampled are units: utterances, or the talks or speakers that they come from, whose utterances are not
independent of each other. All figures of one metric, and both systems of a pair, see the same draws.

Shapes: ``N`` utterances, ``U`` units, ``K`` statistics, ``R`` resamples, ``G`` figures.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from speechllm.errors import UserError, did_you_mean
from speechllm.evaluation.scoring import ScoredSet
from speechllm.metrics.base import Metric
from speechllm.predictions import Prediction

Floats = NDArray[np.float64]

UNITS = ("utterance", "recording", "speaker")
"""What can be resampled."""

LEVEL = 0.95
"""Probability with which an interval covers."""

CHUNK_NUMBERS = 8_000_000
"""Random numbers that are held at a time, which bounds memory at some hundred megabytes."""


@dataclass(frozen=True)
class Comparison:
    """A figure of two systems on the same utterances.

    Attributes:
        figure: Name of the figure.
        baseline: Value of the baseline.
        system: Value of the system.
        low: Lower end of the 95 % interval of the difference ``system - baseline``.
        high: Its upper end.
        p_bootstrap: p-value of the paired bootstrap, two-sided.
        p_randomization: p-value of approximate randomization, two-sided.
    """

    figure: str
    baseline: float
    system: float
    low: float
    high: float
    p_bootstrap: float
    p_randomization: float

    @property
    def difference(self) -> float:
        """How far the system lies above the baseline."""
        return self.system - self.baseline

    def p_value(self, test: Literal["bootstrap", "randomization"]) -> float:
        """Return the p-value of one of the tests."""
        return self.p_bootstrap if test == "bootstrap" else self.p_randomization


def resampling_units(predictions: Sequence[Prediction], places: Sequence[int], by: str = "utterance") -> list[str]:
    """Return the unit of each utterance.

    Args:
        predictions: Predictions of a system.
        places: (N,) positions of the utterances among them.
        by: One of :data:`UNITS`: the utterance itself, its audio file (a talk, where a corpus cuts talks), or its
            speaker.

    Raises:
        UserError: If ``by`` is not known, or an utterance has no recording or speaker.
    """
    if by not in UNITS:
        msg = f"Unknown unit '{by}' to resample by.{did_you_mean(by, UNITS)} Known: {', '.join(UNITS)}."
        raise UserError(msg)
    if by == "utterance":
        return [str(place) for place in places]
    units = [getattr(predictions[place], by) for place in places]
    if "" in units:
        name = predictions[places[units.index("")]].id
        msg = f"The utterance '{name}' has no {by}, so that it cannot be resampled by {by}. Resample by utterance."
        raise UserError(msg)
    return units


def confidence_intervals(
    scored: ScoredSet, units: Sequence[str] | None = None, samples: int = 1000, seed: int = 12345
) -> list[tuple[float, float]]:
    """Return the 95 % interval of each figure of a metric, by the percentiles of a bootstrap.

    Args:
        scored: A scored test set.
        units: Unit of each utterance, as :func:`resampling_units` gives them; each is its own where not given.
        samples: Number of bootstrap samples.
        seed: Seed of the draws.

    Returns:
        One (low, high) a figure; NaN where a figure has no value, or a single unit has one: it says nothing of others.
    """
    return intervals_of_metrics([scored], units, samples, seed)[0]


def intervals_of_metrics(
    scored_sets: Sequence[ScoredSet], units: Sequence[str] | None = None, samples: int = 1000, seed: int = 12345
) -> list[list[tuple[float, float]]]:
    """Return what :func:`confidence_intervals` says of each metric of the same utterances, which share the draws.

    Args:
        scored_sets: One test set under several metrics.
        units: Unit of each utterance.
        samples: Number of bootstrap samples.
        seed: Seed of the draws.
    """
    sums = _sum_by_unit(np.concatenate([scored.statistics for scored in scored_sets], axis=1), units)
    drawn = np.concatenate(list(_bootstrap(sums, samples, seed)))
    found, start = [], 0
    for scored in scored_sets:
        columns = slice(start, start := start + scored.statistics.shape[1])
        if _count(sums[:, columns]) < 2:
            found.append([(math.nan, math.nan)] * len(scored.metric.figures))
            continue
        values = _values(scored.metric, drawn[:, columns])
        found.append([_interval(values[:, figure]) for figure in range(values.shape[1])])
    return found


def compare(
    baseline: ScoredSet,
    system: ScoredSet,
    units: Sequence[str] | None = None,
    samples: int = 1000,
    seed: int = 12345,
) -> list[Comparison]:
    """Compare two systems on the same utterances, figure by figure.

    The paired bootstrap draws units with replacement, the same for both systems. Its p-value is the share of samples
    whose difference lies as far from the samples' mean as the observed one from zero, as sacreBLEU and multeval count
    it. Approximate randomization exchanges the two systems' outputs of each unit with probability one half; its p-value
    is the share of trials whose difference is at least the observed one. Both count the observation as one of the
    samples, so that no p-value is zero. A single unit gives neither interval nor p-values, which are NaN.

    Args:
        baseline: The system that is compared with.
        system: The other one, scored by the same metric, with its utterances in the same order.
        units: Unit of each utterance; each is its own where not given.
        samples: Number of bootstrap samples, and of trials.
        seed: Seed of the draws.

    Raises:
        ValueError: If the two do not have equally many utterances.
    """
    if baseline.statistics.shape != system.statistics.shape:
        msg = f"The baseline has statistics {baseline.statistics.shape}, the system {system.statistics.shape}."
        raise ValueError(msg)
    metric = baseline.metric
    width = baseline.statistics.shape[1]
    sums = _sum_by_unit(np.concatenate([baseline.statistics, system.statistics], axis=1), units)
    total = sums.sum(axis=0)
    left, right = metric.values(total[:width]), metric.values(total[width:])
    if _count(sums) < 2:
        figures = zip(metric.figures, left.tolist(), right.tolist(), strict=True)
        return [Comparison(figure.name, *values, *[math.nan] * 4) for figure, *values in figures]
    drawn = np.concatenate(list(_bootstrap(sums, samples, seed)))
    resampled = _values(metric, drawn[:, width:]) - _values(metric, drawn[:, :width])
    exchanged = np.concatenate(list(_exchange(sums[:, width:] - sums[:, :width], samples, seed)))
    shuffled = _values(metric, total[width:] - exchanged) - _values(metric, total[:width] + exchanged)
    found = []
    for index, figure in enumerate(metric.figures):
        difference = float(right[index] - left[index])
        low, high = _interval(resampled[:, index])
        centred = resampled[:, index] - np.nanmean(resampled[:, index]) if np.isfinite(difference) else np.empty(0)
        p_bootstrap, p_randomization = _p_value(centred, difference), _p_value(shuffled[:, index], difference)
        values = float(left[index]), float(right[index])
        found.append(Comparison(figure.name, *values, low, high, p_bootstrap, p_randomization))
    return found


def _sum_by_unit(statistics: Floats, units: Sequence[str] | None) -> Floats:
    """Return (U, K), the sums of the statistics of each unit, in the order of their first utterance."""
    if units is None:
        return statistics
    numbers = {unit: number for number, unit in enumerate(dict.fromkeys(units))}
    sums = np.zeros((len(numbers), statistics.shape[1]))
    np.add.at(sums, [numbers[unit] for unit in units], statistics)
    return sums


def _count(sums: Floats) -> int:
    """Return the number of units that have a figure; the statistics of one that has none are zeros."""
    return int(sums.any(axis=1).sum())


def _bootstrap(sums: Floats, samples: int, seed: int) -> Iterator[Floats]:
    """Yield (·, K), in all (R, K): sums over as many units as there are, drawn with replacement."""
    generator = np.random.default_rng(seed)
    units = len(sums)
    for rows in _chunks(samples, units):
        draws = generator.integers(0, units, size=(rows, units), dtype=np.int32)
        counts = np.stack([np.bincount(drawn, minlength=units) for drawn in draws])
        yield counts.astype(np.float64) @ sums


def _exchange(differences: Floats, samples: int, seed: int) -> Iterator[Floats]:
    """Yield (·, K), in all (R, K): sums of the differences of a random half of the units."""
    generator = np.random.default_rng(seed)
    units = len(differences)
    for rows in _chunks(samples, units):
        bits = np.unpackbits(np.frombuffer(generator.bytes(rows * -(-units // 8)), dtype=np.uint8)).reshape(rows, -1)
        yield bits[:, :units].astype(np.float64) @ differences


def _chunks(samples: int, units: int) -> Iterator[int]:
    """Yield numbers of resamples that add up to all of them."""
    most = max(1, CHUNK_NUMBERS // max(units, 1))
    for first in range(0, samples, most):
        yield min(most, samples - first)


def _values(metric: Metric, sums: Floats) -> Floats:
    """Return (R, G), the figures of each resample; rounding must not make a sum of nothing differ from zero."""
    return metric.values(np.where(np.abs(sums) < 1e-9, 0.0, sums))


def _interval(values: Floats) -> tuple[float, float]:
    values = values[np.isfinite(values)]
    if not len(values):
        return float("nan"), float("nan")
    low, high = np.quantile(values, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)


def _p_value(differences: Floats, observed: float) -> float:
    """Return the share of differences that are as large as the observed one, itself counted among them."""
    differences = differences[np.isfinite(differences)]
    if not len(differences):
        return float("nan")
    as_large = np.abs(differences) >= abs(observed) - 1e-9 * max(1.0, abs(observed))
    return float((as_large.sum() + 1) / (len(differences) + 1))
