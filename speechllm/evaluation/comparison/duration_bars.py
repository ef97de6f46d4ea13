"""Quality by duration: bars of each system for each bin, with intervals."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from speechllm.evaluation.breakdown import DURATION_BIN_NAMES, duration_bin
from speechllm.evaluation.comparison.measured import DifferenceTest, Scored, units_of
from speechllm.evaluation.comparison.results import Key, full_name
from speechllm.evaluation.comparison.style import GREY, INK, better, looks, new_figure, plain, short
from speechllm.evaluation.comparison.table import Block
from speechllm.evaluation.scoring import ScoredSet
from speechllm.evaluation.significance import confidence_intervals

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Sizes are inches.
PANEL_HEIGHT, LEFT, RIGHT, LEGEND_LINE = 3.9, 0.9, 0.25, 0.3
NAMES_A_LINE = 4


@dataclass(frozen=True)
class Bin:
    """A figure of the utterances of one bin.

    Attributes:
        value: Plain mean over the block's languages that have utterances in the bin.
        low: Lower end of its 95 % interval.
        high: Upper end.
        utterances: Number of utterances.
    """

    value: float
    low: float
    high: float
    utterances: int


Bins = Mapping[Key, Mapping[str, Bin]]
"""Bins by system and name."""


def measure_bins(scored: Sequence[Scored], block: Block, how: DifferenceTest) -> dict[Key, dict[str, Bin]]:
    """Return figures by duration for the systems that have every language of a block.

    Systems are compared within a bin, not bins with each other: these differ in their languages. The interval of a mean
    joins those of the languages, which are independent.

    Args:
        scored: The systems.
        block: Block of the table.
        how: How intervals are resampled.
    """
    figure, corpus, split, text = block.place
    found = {}
    for system in scored:
        sets = [
            next((item for (_, place), item in system.sets.items() if place == column and _gives(item, figure)), None)
            for column in ((corpus, split, languages, text) for languages in block.languages)
        ]
        complete = [item for item in sets if item is not None]
        if len(complete) == len(sets) and any(p.duration_s > 0 for p in system.system.predictions):
            found[system.key] = _bins(system, complete, figure, how)
    return found


def draw(bins: Bins, block: Block) -> "Figure":
    """Draw bars by bin of duration, a colour a system.

    Args:
        bins: Figures by system and bin.
        block: Block of the table that they are of.
    """
    import matplotlib.style

    names = [name for name in DURATION_BIN_NAMES if any(name in own for own in bins.values())]
    lines = math.ceil(len(bins) / NAMES_A_LINE)
    head = 0.12 + lines * LEGEND_LINE
    width, height = min(16.0, max(7.0, 1.6 + len(names) * (0.6 + 0.22 * len(bins)))), PANEL_HEIGHT + head
    with matplotlib.style.context("default"):  # a notebook's own style would change colours and sizes
        figure = new_figure(width, height)
        place = (LEFT / width, 0.75 / height, 1 - (LEFT + RIGHT) / width, (PANEL_HEIGHT - 0.8) / height)
        axes = figure.add_axes(place, label="bins")
        bar = 0.82 / len(bins)
        styles = looks([full_name(key) for key in bins])
        for number, (key, own) in enumerate(bins.items()):
            colour, _, hatch = styles[full_name(key)]
            shown = [(index, own[name]) for index, name in enumerate(names) if name in own]
            places = [index + (number - (len(bins) - 1) / 2) * bar for index, _ in shown]
            values = np.array([item.value for _, item in shown])
            ends = np.array([[item.low for _, item in shown], [item.high for _, item in shown]])
            errors = np.nan_to_num(np.abs(ends - values))
            style: dict[str, Any] = {"ecolor": INK, "error_kw": {"elinewidth": 1, "capsize": min(3, 14 * bar)}}
            edge: dict[str, Any] = {"color": colour, "hatch": hatch, "edgecolor": "white", "linewidth": 0.6}
            axes.bar(places, values, 0.92 * bar, yerr=errors, label=short(full_name(key), 34), **edge, **style)
        counts = [max(own[name].utterances for own in bins.values() if name in own) for name in names]
        axes.set_xticks(range(len(names)), [f"{name}\n{count:,}" for name, count in zip(names, counts, strict=True)])
        axes.set_xlabel("duration; below it the number of utterances", color=GREY)
        mean = f"mean of {len(block.languages)}" if len(block.languages) > 1 else block.languages[0]
        axes.set_ylabel(f"{block.title}, {mean}{better(block.higher_is_better)}", color=GREY)
        plain(axes)
        axes.tick_params(axis="x", length=0)
        axes.set_ylim(0, axes.get_ylim()[1])
        handles, labels = axes.get_legend_handles_labels()
        figure.legend(
            handles,
            labels,
            loc="upper center",
            ncols=min(len(bins), NAMES_A_LINE),
            frameon=False,
            fontsize=9.5,
            labelcolor=INK,
            bbox_to_anchor=(0.5, 1 - 0.05 / height),
        )
    return figure


def _gives(item: ScoredSet, figure: str) -> bool:
    return any(found.name == figure for found in item.metric.figures)


def _bins(system: Scored, sets: Sequence[ScoredSet], figure: str, how: DifferenceTest) -> dict[str, Bin]:
    predictions = system.system.predictions
    found = {}
    for name in DURATION_BIN_NAMES:
        parts = []
        for item in sets:
            inside = np.array([duration_bin(predictions[place]) == name for place in item.places])
            part = replace(item, places=item.places[inside], statistics=item.statistics[inside])
            if part.metric.scored(part.statistics).any():
                parts.append(_part(system, part, figure, how))
        parts = [part for part in parts if math.isfinite(part.value)]
        if parts:
            found[name] = _mean(parts)
    return found


def _part(system: Scored, part: ScoredSet, figure: str, how: DifferenceTest) -> Bin:
    index = [item.name for item in part.metric.figures].index(figure)
    value = float(part.metric.values(part.statistics.sum(axis=0))[index])
    low, high = confidence_intervals(part, units_of(system.system, part, how.by), how.samples, how.seed)[index]
    return Bin(value, low, high, len(part.places))


def _mean(parts: Sequence[Bin]) -> Bin:
    value = sum(part.value for part in parts) / len(parts)
    below = math.sqrt(sum((part.value - part.low) ** 2 for part in parts)) / len(parts)
    above = math.sqrt(sum((part.high - part.value) ** 2 for part in parts)) / len(parts)
    return Bin(value, value - below, value + above, sum(part.utterances for part in parts))
