"""What the pictures of a comparison have in common: colours, marks, and labels that keep out of each other's way."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

INK, GREY, PALE = "#1a1a1a", "#595959", "#e2e2e2"
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#8a6d00", "#56b4e9", "#4a4a4a", "#e69f00")
"""Colours that any kind of colour vision tells apart (after Okabe and Ito); each comes with a mark of its own."""

MARKS = ("o", "s", "^", "D", "v", "P", "X", "*")
HATCHES = ("", "///", "...", "xxx")
DPI = 120
LEADER = {"arrowstyle": "-", "color": GREY, "linewidth": 0.6, "shrinkA": 0, "shrinkB": 3}
"""Line from a label to its point, where they lie apart."""

LEADER_PX = 16
"""Distance of a label, in pixels, from which on it has a line to its point."""

STEPS = (0.2, 0.4, 0.6, 0.8)
"""Where it is looked whether such a line crosses other labels, as shares of its length."""

LABEL_PT = 8.5

Box = tuple[float, float, float, float]
"""Left, bottom, right and top, in pixels."""


def new_figure(width: float, height: float) -> "Figure":
    """Return an empty figure of a size in inches."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), dpi=DPI, facecolor="white")


def save(figure: "Figure", path: Path) -> None:
    """Write a figure as PNG."""
    figure.savefig(path, format="png", dpi=DPI)


def looks(names: Sequence[str]) -> Mapping[str, tuple[str, str, str]]:
    """Return colour, mark and hatch by name; names beyond the colours have them again with other hatches."""
    return {
        name: (
            COLOURS[index % len(COLOURS)],
            MARKS[index % len(MARKS)],
            HATCHES[index // len(COLOURS) % len(HATCHES)],
        )
        for index, name in enumerate(names)
    }


def plain(axes: "Axes") -> None:
    """Take away what an axis does not need."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(GREY)
    axes.tick_params(colors=GREY, labelsize=9)


def better(higher_is_better: bool | None) -> str:
    """Return what to write behind the name of a quantity."""
    return {True: " (higher is better)", False: " (lower is better)", None: ""}[higher_is_better]


def short(name: str, most: int = 28) -> str:
    """Return a name that is not longer than a label may be."""
    return name if len(name) <= most else f"{name[: most - 1]}…"


def place_labels(
    axes: "Axes", points: Sequence[tuple[float, float]], labels: Sequence[str], colours: Sequence[str]
) -> None:
    """Write a label at each point such that none covers another label or point, as far as there is room.

    Args:
        axes: Axes whose limits are set.
        points: Where, in data coordinates.
        labels: What.
        colours: Colour of each point; its label has a darker one.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    renderer = FigureCanvasAgg(axes.figure).get_renderer()
    to_data = axes.transData.inverted()
    pixels = [tuple(map(float, axes.transData.transform(point))) for point in points]
    marks: list[Box] = [(x - 6, y - 6, x + 6, y + 6) for x, y in pixels]
    written: list[Box] = []
    inside = axes.get_window_extent()
    frame = (inside.x0, inside.y0, inside.x1 + 12, inside.y1 + 12)
    from_above = sorted(zip(pixels, labels, colours, strict=True), key=lambda entry: -entry[0][1])
    for (x, y), label, colour in from_above:
        text = axes.annotate(short(label), (x, y), xycoords="figure pixels", fontsize=LABEL_PT)
        extent = text.get_window_extent(renderer)
        text.remove()
        boxes = [
            (x + right, y + up, x + right + extent.width, y + up + extent.height)
            for right, up in _offsets(extent.width, extent.height)
        ]
        best = min(boxes, key=lambda box: _cost((x, y), box, marks, written, frame))
        far = _distance((x, y), best) > LEADER_PX
        axes.annotate(
            short(label),
            tuple(to_data.transform((x, y))),
            tuple(to_data.transform(best[:2])),
            textcoords="data",
            fontsize=LABEL_PT,
            color=darker(colour),
            arrowprops=LEADER if far else None,
            annotation_clip=False,
        )
        written.append(best)


def darker(colour: str) -> str:
    """Return a colour in which small text can be read on white."""
    parts = [int(colour[index : index + 2], 16) for index in (1, 3, 5)]
    return "#" + "".join(f"{round(0.62 * part):02x}" for part in parts)


def _offsets(width: float, height: float) -> list[tuple[float, float]]:
    """Return places of a label's lower left corner around a point, the most usual ones first."""
    found = []
    for gap in (11.0, 20.0, 30.0, 44.0, 60.0, 80.0):
        right, left, above, below, middle = gap, -gap - width, gap, -gap - height, -height / 2
        found += [(right, middle), (left, middle), (-width / 2, above), (-width / 2, below)]
        found += [(right, above), (left, above), (right, below), (left, below)]
    return found


def _cost(point: tuple[float, float], box: Box, marks: Sequence[Box], written: Sequence[Box], frame: Box) -> float:
    """Return how much of a label would be covered or outside, in square pixels; a little for its distance."""
    covered = sum(_overlap(box, other) for other in (*marks, *written))
    outside = (box[2] - box[0]) * (box[3] - box[1]) - _overlap(box, frame)
    middle = ((box[0] + box[2]) / 2, (box[1] + box[3]) / 2)
    line = [(point[0] + part * (middle[0] - point[0]), point[1] + part * (middle[1] - point[1])) for part in STEPS]
    others = [mark for mark in marks if not _overlap((*point, point[0] + 1, point[1] + 1), mark)]
    crossed = sum(1 for x, y in line for other in (*others, *written) if _overlap((x - 1, y - 1, x + 1, y + 1), other))
    away = abs(middle[0] - point[0]) + abs(middle[1] - point[1])
    return 10 * covered + 10 * outside + 100 * crossed + 0.05 * away


def _distance(point: tuple[float, float], box: Box) -> float:
    """Return how far a box begins from a point, along the axis on which it is farther."""
    right, up = max(box[0] - point[0], point[0] - box[2]), max(box[1] - point[1], point[1] - box[3])
    return max(right, up)


def _overlap(one: Box, other: Box) -> float:
    width = min(one[2], other[2]) - max(one[0], other[0])
    height = min(one[3], other[3]) - max(one[1], other[1])
    return width * height if width > 0 and height > 0 else 0.0
