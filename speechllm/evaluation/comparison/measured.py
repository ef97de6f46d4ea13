"""Values of systems whose predictions are at hand: figures, intervals, and tests against the baselines."""

import math
import warnings
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from speechllm.errors import UserError
from speechllm.evaluation.comparison.kept_statistics import score_with_kept
from speechllm.evaluation.comparison.results import Key, Result, full_name, is_significant
from speechllm.evaluation.comparison.table import figure_title
from speechllm.evaluation.scoring import ScoredSet
from speechllm.evaluation.significance import Comparison, compare, confidence_intervals, resampling_units
from speechllm.evaluation.systems import System
from speechllm.evaluation.test_sets import TestSet

Column = tuple[str, str, str, str]
"""Corpus, split, languages and text."""


FEW_UNITS = 15
"""Units from which the bootstrap keeps its level, about."""


@dataclass(frozen=True)
class DifferenceTest:
    """How differences are tested.

    Attributes:
        by: What is resampled, one of :data:`speechllm.evaluation.significance.UNITS`.
        samples: Number of resamples.
        seed: Seed of the draws.
        test: Which p-value decides.
    """

    by: str = "utterance"
    samples: int = 1000
    seed: int = 12345
    test: Literal["bootstrap", "randomization"] = "bootstrap"

    def __str__(self) -> str:
        """Return what a caption says: ``paired bootstrap, 1,000 samples of utterances``."""
        if self.test == "bootstrap":
            return f"paired bootstrap, {self.samples:,} samples of {self.by}s"
        return f"approximate randomization, {self.samples:,} exchanges of {self.by}s"


@dataclass
class Scored:
    """A system with its test sets under every metric.

    Attributes:
        system: The system.
        sets: Its scored test sets, by the metric's main figure and the column of the table.
    """

    system: System
    sets: dict[tuple[str, Column], ScoredSet] = field(default_factory=dict)

    @property
    def key(self) -> Key:
        """Group and name of the system."""
        return self.system.group, self.system.name


def score_systems(
    systems: Sequence[System], specs: Sequence[Mapping[str, Any]], strict: bool = True
) -> tuple[list[Scored], list[str]]:
    """Score systems by metrics.

    Args:
        systems: The systems.
        specs: Metric specs.
        strict: Whether each metric must be able to score some system. If not, one must.

    Returns:
        The systems, and a sentence for each metric that has nothing to say of a system or test set.

    Raises:
        UserError: If a metric, or every one, cannot score any system, or two give figures of one name.
    """
    found = [Scored(system) for system in systems]
    said: dict[str, list[str]] = {}
    all_errors: list[UserError] = []
    for spec in specs:
        errors: list[UserError] = []
        for scored in found:
            name = full_name(scored.key)
            try:
                with warnings.catch_warnings(record=True) as caught:
                    warnings.simplefilter("always")
                    sets = score_with_kept(scored.system, spec)
            except UserError as error:
                errors.append(error)
                said.setdefault(f"{spec['name']} is left out: {error}", []).append(name)
                continue
            for warning in caught:
                said.setdefault(str(warning.message), []).append(name)
            columns = _columns([item.test_set for item in sets])
            own = {(item.metric.figures[0].name, columns[item.test_set]): item for item in sets}
            if twice := own.keys() & scored.sets.keys():
                msg = f"Two metrics give the figure '{min(twice)[0]}', one of them {dict(spec)}. Leave one out."
                raise UserError(msg)
            scored.sets |= own
        if strict and len(errors) == len(found):
            raise errors[0]
        all_errors += errors
    if all_errors and not any(scored.sets for scored in found):
        raise all_errors[0]
    return found, [text if len(names) == len(found) else f"{', '.join(names)}: {text}" for text, names in said.items()]


def measure(
    scored: Sequence[Scored], figures: Sequence[str] | None, baselines: Mapping[Key, Key | None], how: DifferenceTest
) -> list[Result]:
    """Return figures with intervals, and tests against the baselines.

    Args:
        scored: The systems.
        figures: Names of figures, in the order of the table; the main figure of each metric where not given.
        baselines: By system, the one that it is compared with.
        how: What is resampled, and how often.
    """
    by_key = {item.key: item for item in scored}
    found = []
    for system in scored:
        baseline = by_key.get(baselines.get(system.key) or ("", ""))
        for (main, column), item in system.sets.items():
            names = [main] if figures is None else [f.name for f in item.metric.figures if f.name in figures]
            if names:
                other = baseline.sets.get((main, column)) if baseline else None
                found += [r for r in _results(system, column, item, other, how) if r.figure in names]
    order = list(figures) if figures is not None else list(dict.fromkeys(r.figure for r in found))
    return sorted(found, key=lambda result: order.index(result.figure))


def signatures_by_title(results: Sequence[Result]) -> list[tuple[str, str]]:
    """Return title and signature of each figure, and of which languages where it has several signatures."""
    languages: dict[str, dict[str, dict[str, None]]] = {}
    for r in results:
        languages.setdefault(r.figure, {}).setdefault(r.signature, {})[r.languages] = None
    return [
        (figure_title(figure) + (f" {', '.join(where)}" if len(found) > 1 else ""), signature)
        for figure, found in languages.items()
        for signature, where in found.items()
    ]


def differing_signatures(results: Sequence[Result]) -> list[str]:
    """Return a sentence for each figure that was not computed alike for all systems on a test set."""
    signatures: dict[str, dict[str, dict[Key, None]]] = {}
    places: dict[tuple[str, ...], set[str]] = {}
    for r in results:
        places.setdefault((r.figure, r.corpus, r.split, r.languages, r.text), set()).add(r.signature)
        signatures.setdefault(r.figure, {}).setdefault(r.signature, {})[r.system] = None
    differing = dict.fromkeys(place[0] for place, found in places.items() if len(found) > 1)
    return [
        f"{figure} was not computed alike, so that differences may be those of programs: "
        + "; ".join(
            f"{signature} ({', '.join(map(full_name, keys))})" for signature, keys in signatures[figure].items()
        )
        for figure in differing
    ]


def untested(results: Sequence[Result], baselines: Mapping[Key, Key | None]) -> list[str]:
    """Return a sentence for each system with values that were not tested, which no asterisk could tell from others.

    The baseline may have no predictions or lack a test set, or there may be a single unit to resample.

    Args:
        results: What was measured.
        baselines: By system, the one that it is compared with.
    """
    names = {key[1] for key in baselines.values() if key is not None}
    found: dict[Key, dict[str, None]] = {}
    for r in results if names else ():
        is_baseline = baselines.get(r.system) is None and r.system[1] in names
        if r.significant is None and not is_baseline and r.higher_is_better is not None and math.isfinite(r.value):
            found.setdefault(r.system, {})[f"{r.figure} {r.languages}"] = None
    return [
        f"{full_name(key)}: not tested against a baseline, and so without asterisk: {', '.join(places)}."
        for key, places in found.items()
    ]


def few_units(scored: Sequence[Scored], results: Sequence[Result], how: DifferenceTest) -> list[str]:
    """Return a sentence for each number of units that is too small for the bootstrap, where it decides.

    Of two systems that are equally good, it finds a difference in half of the cases with 2 units, in 12 % with 8 and in
    7 % with 15, since it knows no other values than those of the units. Approximate randomization stays below 5 %.

    Args:
        scored: The systems.
        results: What was measured.
        how: How differences were tested.
    """
    tested = {r.system for r in results if r.significant is not None}
    if how.test != "bootstrap":
        return []
    counts: dict[int, dict[str, None]] = {}
    for system in (item for item in scored if item.key in tested):
        for (_, column), item in system.sets.items():
            units = units_of(system.system, item, how.by)
            count = len(item.places) if units is None else len(set(units))
            if 1 < count < FEW_UNITS:
                counts.setdefault(count, {})[" ".join(column[:3])] = None
    return [
        f"{', '.join(places)}: with {count} {how.by}s, the bootstrap takes chance for a difference more often than "
        "p-values say. `--test randomization` does not."
        for count, places in counts.items()
    ]


def all_figures(scored: Sequence[Scored]) -> list[str]:
    """Return the names of all figures that the metrics give, main figures first."""
    metrics = [item.metric for system in scored for item in system.sets.values()]
    names = [metric.figures[0].name for metric in metrics] + [f.name for metric in metrics for f in metric.figures]
    return list(dict.fromkeys(names))


def units_of(system: System, item: ScoredSet, by: str) -> list[str] | None:
    """Return what each utterance of a test set is resampled with; None where each is its own."""
    return None if by == "utterance" else resampling_units(system.predictions, item.places.tolist(), by)


def _columns(test_sets: Sequence[TestSet]) -> dict[TestSet, Column]:
    """Return the column of each test set; a transcript that comes with several translations names its target."""
    sets = list(dict.fromkeys(test_sets))
    plain = {item: (item.corpus, item.split, item.languages, item.text) for item in sets}
    counts = Counter(plain.values())
    return {item: column if counts[column] == 1 else _with_target(item, column) for item, column in plain.items()}


def _with_target(item: TestSet, column: Column) -> Column:
    return (*column[:2], f"{item.languages} (to {item.target_language})", column[3])


def _results(
    system: Scored, column: Column, item: ScoredSet, baseline: ScoredSet | None, how: DifferenceTest
) -> list[Result]:
    units = units_of(system.system, item, how.by)
    intervals = confidence_intervals(item, units, how.samples, how.seed)
    comparisons: Sequence[Comparison | None] = [None] * len(intervals)
    if baseline is not None:
        comparisons = compare(baseline, item, units, how.samples, how.seed)
    corpus, split, languages, text = column
    return [
        Result(
            system.key,
            found.figure,
            languages,
            found.value,
            found.unit,
            found.higher_is_better,
            corpus,
            split,
            text,
            signature=found.signature,
            utterances=found.utterances,
            interval=interval,
            comparison=comparison,
            significant=is_significant(comparison, how.test) if comparison else None,
        )
        for found, interval, comparison in zip(item.scores(), intervals, comparisons, strict=True)
    ]
