"""The picture of a check: durations and levels by split, characters a second by language, and the limits."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from speechllm.data.doctor.corpus import Columns, Limits
from speechllm.data.doctor.rules import TRAIN, Thresholds

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# All sizes are inches on a page as wide as a slide; its height follows from the number of languages.
WIDTH, LEFT, GAP, RIGHT = 12.8, 0.75, 0.95, 0.3
HISTOGRAMS_TOP, HISTOGRAM, XLABEL = 0.95, 2.5, 0.6
RIDGES_LEFT, RIDGES_RIGHT, RIDGES_GAP, RIDGE = 2.0, 2.5, 0.55, 0.42
DPI = 120

INK, GREY, PALE, LIMIT = "#1a1a1a", "#595959", "#ececec", "#c23b00"
COLOURS = ("#2f6fab", "#e09f1f", "#3d8f5f", "#8c5fa8", "#7a6a58")
KINDS = {"transcript": "#2f6fab", "translation": "#3d8f5f"}
DASHED = (0, (4, 3))

MAX_RIDGES = 30
"""Languages that are drawn, the most frequent ones."""

MAX_MARKS = 300
"""Outliers of a language that are marked one by one."""

SLOWEST, FASTEST = 0.2, 100.0
"""Ends of the axis of characters a second; what is beyond stands at its end."""


def draw(columns: Columns, limits: Mapping[tuple[str, str], Limits], thresholds: Thresholds, title: str) -> "Figure":
    """Draw what a check measured.

    Args:
        columns: Utterances of the corpus.
        limits: Limits of characters a second by ``transcript`` or ``translation`` and language.
        thresholds: Limits of durations and levels.
        title: What was checked.

    Returns:
        A figure with axes labelled ``durations``, ``levels`` and, where there are texts, ``characters``.
    """
    import matplotlib.style
    from matplotlib.figure import Figure

    ridges = sorted(limits, key=lambda key: (-limits[key].texts, key))[:MAX_RIDGES]
    ridges.sort(key=lambda key: (list(KINDS).index(key[0]), -limits[key].texts, key))
    ridges_top = HISTOGRAMS_TOP + HISTOGRAM + XLABEL + RIDGES_GAP
    height = ridges_top + len(ridges) * RIDGE + XLABEL if ridges else HISTOGRAMS_TOP + HISTOGRAM + XLABEL
    with matplotlib.style.context("default"):  # a notebook's own style would change colours and sizes
        figure = Figure(figsize=(WIDTH, height), dpi=DPI)

        def axes(label: str, left: float, top: float, width: float, tall: float) -> "Axes":
            place = (left / WIDTH, 1 - (top + tall) / height, width / WIDTH, tall / height)
            return figure.add_axes(place, label=label)

        figure.text(LEFT / WIDTH, 1 - 0.3 / height, title, fontsize=13, color=INK, va="center")
        half = (WIDTH - LEFT - GAP - RIGHT) / 2
        groups = _groups(columns)
        _durations(axes("durations", LEFT, HISTOGRAMS_TOP, half, HISTOGRAM), columns, groups, thresholds)
        _levels(axes("levels", LEFT + half + GAP, HISTOGRAMS_TOP, half, HISTOGRAM), columns, groups, thresholds)
        if ridges:
            width = WIDTH - RIDGES_LEFT - RIDGES_RIGHT
            characters = axes("characters", RIDGES_LEFT, ridges_top, width, len(ridges) * RIDGE)
            _characters(characters, columns, {key: limits[key] for key in ridges}, len(limits) - len(ridges))
    return figure


def save(figure: "Figure", path: Path) -> None:
    """Write a figure as PNG, whatever the file is called."""
    figure.savefig(path, format="png", dpi=DPI)


def _groups(columns: Columns) -> dict[str, list[str]]:
    """Return splits by their name in the legend; where there are many, the last ones are one."""
    splits = [split for split, kept in columns.splits.items() if len(kept)]
    if len(splits) <= len(COLOURS):
        return {split: [split] for split in splits}
    first, rest = splits[: len(COLOURS) - 1], splits[len(COLOURS) - 1 :]
    return {split: [split] for split in first} | {f"{len(rest)} other splits": rest}


def _values(columns: Columns, groups: Mapping[str, list[str]], name: str) -> dict[str, NDArray[np.float32]]:
    return {
        group: np.concatenate(
            [np.frombuffer(getattr(columns.splits[split], name), dtype=np.float32) for split in splits]
        )
        for group, splits in groups.items()
    }


def _durations(axes: "Axes", columns: Columns, groups: Mapping[str, list[str]], thresholds: Thresholds) -> None:
    values = _values(columns, groups, "duration_s")
    longest = max((float(np.quantile(value, 0.999)) for value in values.values()), default=1.0)
    end = max(0.1, 1.05 * longest)
    _histograms(axes, values, np.linspace(0, end, 61))
    if thresholds.max_duration_s < end:
        _limit(axes, thresholds.max_duration_s, "over-long", "left")
    beyond = sum(int((value > end).sum()) for value in values.values())
    axes.set_xlabel("seconds" + (f" ({beyond:,} longer)" if beyond else ""), color=GREY)
    axes.set_title("Durations", loc="left", fontsize=11, color=INK)


def _levels(axes: "Axes", columns: Columns, groups: Mapping[str, list[str]], thresholds: Thresholds) -> None:
    values = {group: value[np.isfinite(value)] for group, value in _values(columns, groups, "rms_dbfs").items()}
    lowest = min(thresholds.silent_rms_dbfs, thresholds.quiet_rms_dbfs) - 10
    _histograms(axes, values, np.linspace(lowest, 0, 61))
    _limit(axes, thresholds.silent_rms_dbfs, "silent", "right")
    _limit(axes, thresholds.quiet_rms_dbfs, "quiet", "right")
    below = sum(int((value < lowest).sum()) for value in values.values())
    axes.set_xlabel("RMS in dBFS" + (f" ({below:,} lower)" if below else ""), color=GREY)
    axes.set_title("Levels", loc="left", fontsize=11, color=INK)


def _histograms(axes: "Axes", values: Mapping[str, NDArray[np.float32]], edges: NDArray[np.float64]) -> None:
    """Draw the share of each split's utterances in each bin, so that small splits show beside large ones."""
    for (name, value), colour in zip(values.items(), COLOURS, strict=False):
        share = 100 * np.histogram(value, edges)[0] / max(1, len(value))
        if name == TRAIN:
            axes.stairs(share, edges, fill=True, color=colour, alpha=0.25)
        axes.stairs(share, edges, color=colour, linewidth=1.4, label=f"{name} ({len(value):,})")
    axes.set_xlim(edges[0], edges[-1])
    axes.set_ylim(0, 1.25 * axes.get_ylim()[1])  # room for the legend
    axes.set_ylabel("% of the split", color=GREY)
    if values:
        axes.legend(frameon=False, fontsize=9, labelcolor=INK, ncols=len(values), loc="upper right", borderpad=0)
    _plain(axes)


def _limit(axes: "Axes", value: float, name: str, side: str) -> None:
    """Draw a limit, with its name at one side of it."""
    axes.axvline(value, ymax=0.86, color=LIMIT, linewidth=1, linestyle=DASHED)
    right = side == "right"
    axes.annotate(
        name,
        (value, 0.86),
        (-4 if right else 4, 0),
        xycoords=("data", "axes fraction"),
        textcoords="offset points",
        ha=side,
        va="top",
        color=LIMIT,
        fontsize=9,
    )


def _characters(axes: "Axes", columns: Columns, ridges: Mapping[tuple[str, str], Limits], left_out: int) -> None:
    """Draw a ridge for each language over the range that is expected, and mark what is outside."""
    edges = np.geomspace(SLOWEST, FASTEST, 141)
    for base, ((kind, language), limits) in zip(reversed(range(len(ridges))), ridges.items(), strict=True):
        values = np.frombuffer(columns.chars_per_s[kind, language].values, dtype=np.float32)
        shown = np.clip(values, SLOWEST, FASTEST)
        counts = np.histogram(shown, edges)[0]
        axes.fill_between((max(SLOWEST, limits.low), limits.high), base, base + 0.88, color=PALE, linewidth=0)
        axes.stairs(base + 0.8 * counts / max(1, counts.max()), edges, baseline=base, fill=True, color=KINDS[kind])
        axes.plot((limits.median, limits.median), (base, base + 0.88), color=INK, linewidth=1.2)
        outside = shown[(values < limits.low) | (values > limits.high)][:MAX_MARKS]
        axes.plot(outside, np.full(len(outside), base + 0.2), "|", color=LIMIT, markersize=6, clip_on=False)
        counted = {"below": int((values < limits.low).sum()), "above": int((values > limits.high).sum())}
        for text, place, colour in (
            (f"{limits.median:.1f}", 8, INK),
            (", ".join(f"{count:,} {side}" for side, count in counted.items() if count), 48, LIMIT),
        ):
            axes.annotate(
                text,
                (1, base + 0.4),
                (place, 0),
                xycoords=("axes fraction", "data"),
                textcoords="offset points",
                va="center",
                color=colour,
                fontsize=9,
            )
    axes.set_yticks([len(ridges) - 1 - number + 0.4 for number in range(len(ridges))])
    axes.set_yticklabels([f"{kind} {language} ({limits.texts:,})" for (kind, language), limits in ridges.items()])
    axes.set_xscale("log")
    axes.set_xlim(SLOWEST, FASTEST)
    ticks = (0.2, 0.5, 1, 2, 5, 10, 20, 50, 100)
    axes.set_xticks(ticks, labels=[f"{tick:g}" for tick in ticks])
    axes.minorticks_off()
    axes.set_ylim(0, len(ridges))
    more = f"; {left_out} rarer languages are not drawn" if left_out else ""
    axes.set_xlabel(f"characters a second, without spaces (grey: expected, line and number: median{more})", color=GREY)
    axes.set_title("Characters a second", loc="left", fontsize=11, color=INK)
    _plain(axes)
    axes.spines["left"].set_visible(False)
    axes.tick_params(axis="y", length=0)


def _plain(axes: "Axes") -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(GREY)
    axes.tick_params(colors=GREY, labelsize=9)
