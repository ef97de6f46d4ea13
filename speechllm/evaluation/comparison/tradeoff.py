"""Quality against what it costs: a panel a figure, a point a system."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from speechllm.evaluation.comparison.results import Key
from speechllm.evaluation.comparison.style import GREY, INK, better, looks, new_figure, place_labels, plain
from speechllm.evaluation.comparison.table import Block, Table

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Sizes are inches.
PANEL_WIDTH, PANEL_HEIGHT, HEAD = 6.4, 4.6, 0.55
PANELS_A_ROW = 2


@dataclass(frozen=True)
class Cost:
    """What quality is drawn against.

    Attributes:
        label: Its name and unit, for the axis.
        values: Its value by system; a system without one is not drawn.
        lower_is_better: Whether the axis says so.
    """

    label: str
    values: Mapping[Key, float]
    lower_is_better: bool = False


def drawable(table: Table, cost: Cost) -> list[tuple[Block, list[tuple[Key, float, float]]]]:
    """Return the blocks that have two systems or more with quality and cost: system, cost and quality of each."""
    found, first = [], 0
    for block in table.blocks:
        last = first + len(block.columns) - 1
        points = [
            ((row.group, row.name), cost.values[row.group, row.name], value)
            for row in table.rows
            if (row.group, row.name) in cost.values and (value := row.cells[last].value) is not None
        ]
        first = last + 1
        if len(points) > 1 and block.higher_is_better is not None:
            found.append((block, points))
    return found


def draw(table: Table, cost: Cost) -> "Figure":
    """Draw the average of each block against a cost.

    Args:
        table: The table.
        cost: The cost, on a logarithmic axis where it spans more than one order of magnitude.

    Raises:
        ValueError: If no block has two systems with quality and cost.
    """
    panels = drawable(table, cost)
    if not panels:
        msg = f"Nothing to draw against {cost.label}."
        raise ValueError(msg)
    groups = list(dict.fromkeys(row.group for row in table.rows))
    columns = min(PANELS_A_ROW, len(panels))
    rows = math.ceil(len(panels) / columns)
    import matplotlib.style

    with matplotlib.style.context("default"):  # a notebook's own style would change colours and sizes
        width, height = columns * PANEL_WIDTH, rows * PANEL_HEIGHT + HEAD
        figure = new_figure(width, height)
        for number, (block, points) in enumerate(panels):
            left = (number % columns * PANEL_WIDTH + 0.85) / width
            bottom = (height - HEAD - (number // columns + 1) * PANEL_HEIGHT + 0.6) / height
            place = (left, bottom, (PANEL_WIDTH - 1.15) / width, (PANEL_HEIGHT - 0.85) / height)
            _panel(figure.add_axes(place, label=block.title), block, points, cost, groups)
        if len(groups) > 1:
            handles, labels = figure.axes[0].get_legend_handles_labels()
            for axes in figure.axes[1:]:
                more = zip(*axes.get_legend_handles_labels(), strict=True)
                new = [(handle, label) for handle, label in more if label not in labels]
                handles, labels = handles + [h for h, _ in new], labels + [label for _, label in new]
            figure.legend(
                handles,
                labels,
                loc="upper center",
                ncols=min(len(labels), 5),
                frameon=False,
                fontsize=10,
                labelcolor=INK,
                bbox_to_anchor=(0.5, 1 - 0.08 / height),
            )
    return figure


def _panel(
    axes: "Axes", block: Block, points: Sequence[tuple[Key, float, float]], cost: Cost, groups: Sequence[str]
) -> None:
    for group, (colour, mark, _) in looks(groups).items():
        own = [(x, y) for (name, _), x, y in points if name == group]
        if own:
            axes.plot(*zip(*own, strict=True), mark, color=colour, markersize=8, label=group or "(no group)")
    costs = [x for _, x, _ in points]
    if max(costs) > 10 * min(costs):
        from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

        axes.set_xscale("log")
        axes.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
        axes.xaxis.set_minor_locator(NullLocator())
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.margins(0.12, 0.12)
    axes.set_xlabel(cost.label + (better(False) if cost.lower_is_better else ""), color=GREY)
    name = block.columns[-1] if len(block.columns) == 1 else "average"
    axes.set_ylabel(f"{block.title}, {name}{better(block.higher_is_better)}", color=GREY)
    plain(axes)
    axes.grid(color="#efefef", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.set_xlim(axes.get_xlim())
    axes.set_ylim(axes.get_ylim())
    colours = [looks(groups)[key[0]][0] for key, _, _ in points]
    place_labels(axes, [(x, y) for _, x, y in points], [key[1] for key, _, _ in points], colours)
