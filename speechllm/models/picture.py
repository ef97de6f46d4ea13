"""The picture of an utterance: spectrogram, the adapter's positions over it, what they weigh and read, and the text."""

import textwrap
import unicodedata
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from speechllm.batch import Spans
from speechllm.models.picture_labels import Labels, fonts, label_places, printable, visible

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from speechllm.models.inspection import Inspection

# All sizes are inches on a page as wide as a slide; its height follows from what it holds.
WIDTH, LEFT, RIGHT, MARGIN = 12.8, 0.95, 0.25, 0.15
PLOT = WIDTH - LEFT - RIGHT
CAPTION_LINE, LABEL_ROW, LANE, SPECTROGRAM, GAP, WEIGHTS, TIME_AXIS = 0.3, 0.2, 0.17, 2.7, 0.12, 0.9, 0.6
TEXT_LINE, TEXT_INDENT, TEXT_COLUMNS, MAX_TEXT_LINES = 0.27, 1.5, 105, 4
POINTS = 72

INK, GREY, LINE = "#1a1a1a", "#595959", "#c23b00"
BLOCKS, BLANK = ("#2f6fab", "#8fbbe3"), "#e4e4e4"

AIRY_PT = 16.0
"""Boundaries closer than this, in points, are drawn half transparent."""
DENSE_PT = 4.0
"""Boundaries closer than this, in points, would hide the spectrogram, and are drawn as ticks at its foot."""


def draw(inspection: "Inspection") -> "Figure":
    """Draw an utterance.

    Args:
        inspection: What the model did with it.

    Returns:
        A figure with axes labelled ``positions``, ``spectrogram`` and, where the adapter weighs frames, ``weights``.
    """
    import matplotlib.style

    spans, rate = inspection.spans, inspection.frame_rate
    end_s = max(inspection.duration_s, inspection.frames / rate)
    points_per_frame = PLOT * POINTS / (end_s * rate)
    weighed = tells_more_than_spans(spans)
    with matplotlib.style.context("default"):  # a notebook's own style would change colours and sizes
        lanes = lanes_of(spans)
        labels = label_places(spans, points_per_frame, PLOT * POINTS)
        texts = [(kind, _wrapped(text)) for kind, text in inspection.texts]
        page = _Page(
            {
                "caption": 2 * CAPTION_LINE + 0.1,
                "labels": labels.rows * LABEL_ROW,
                "positions": (max(lanes) + 1) * LANE + 0.05,
                "spectrogram": SPECTROGRAM,
                "weights": GAP + WEIGHTS if weighed else 0.0,
                "time": TIME_AXIS,
                "texts": sum(len(lines) * TEXT_LINE + 0.08 for _, lines in texts),
            }
        )
        _caption(page, inspection)
        spectrogram = page.axes("spectrogram", page.tops["spectrogram"], SPECTROGRAM)
        _spectrogram(spectrogram, inspection, end_s, points_per_frame)
        strip = page.heights["positions"]
        height = strip + page.heights["labels"]
        positions = page.axes("positions", page.tops["labels"], height, sharex=spectrogram)
        _positions(positions, spans, rate, lanes, strip, height)
        _labels(positions, labels, rate, strip)
        last = spectrogram
        if weighed:
            last = page.axes("weights", page.tops["weights"] - GAP, WEIGHTS, sharex=spectrogram)
            _weights(last, spans, rate, points_per_frame)
            spectrogram.tick_params(labelbottom=False)
        last.set_xlabel("seconds", color=GREY, fontsize=10)
        _texts(page, texts)
    return page.figure


def boundaries(spans: Spans) -> Tensor:
    """Return where positions begin and end (N,), in frames, each once; only beginnings where positions overlap."""
    overlap = bool((spans.starts[1:] < spans.ends[:-1] - 1e-3).any())
    found = torch.cat([spans.starts, spans.ends[-1:] if overlap else spans.ends])
    return torch.tensor(sorted(set(found.tolist())))


def lanes_of(spans: Spans) -> list[int]:
    """Return a lane from 0 on for each position, so that those of one lane do not overlap."""
    ends: list[float] = []
    lanes = []
    for start, end in zip(spans.starts.tolist(), spans.ends.tolist(), strict=True):
        lane = next((lane for lane, last in enumerate(ends) if last <= start + 1e-3), len(ends))
        ends[lane : lane + 1] = [end]
        lanes.append(lane)
    return lanes


def tells_more_than_spans(spans: Spans) -> bool:
    """Return whether the adapter weighs the frames of some position differently; equal shares need no picture."""
    if spans.weights is None:
        return False
    for start, end in zip(spans.starts.tolist(), spans.ends.tolist(), strict=True):
        own = spans.weights[int(start) : max(int(start) + 1, round(end))]
        if len(own) and float(own.max() - own.min()) > 1e-4:
            return True
    return False


class _Page:
    """A figure whose parts stand one below the other.

    Args:
        heights: Height of each part in inches, from the top down.

    Attributes:
        tops: Top of each part in inches, from the bottom of the page.
    """

    def __init__(self, heights: dict[str, float]) -> None:
        from matplotlib.figure import Figure

        self.heights = heights
        self.height = sum(heights.values()) + 2 * MARGIN
        self.figure = Figure(figsize=(WIDTH, self.height), dpi=100, facecolor="white")
        self.tops: dict[str, float] = {}
        top = self.height - MARGIN
        for name, height in heights.items():
            self.tops[name] = top
            top -= height

    def axes(self, name: str, top: float, height: float, **options: Any) -> "Axes":
        """Return new axes over the width of the plot."""
        box = (LEFT / WIDTH, (top - height) / self.height, PLOT / WIDTH, height / self.height)
        axes = self.figure.add_axes(box, label=name, facecolor="white", **options)
        axes.tick_params(colors=GREY, labelsize=9)
        axes.spines[["top", "right"]].set_visible(False)
        return axes

    def write(self, left: float, top: float, text: str, size: float, **options: Any) -> None:
        """Write a line of text whose upper left corner is at ``left`` and ``top`` in inches."""
        _write(self.figure, left / WIDTH, top / self.height, text, size, va="top", **options)


def _caption(page: _Page, inspection: "Inspection") -> None:
    name, facts = inspection.caption()
    page.write(LEFT, page.tops["caption"], _shortened(name, 100), 13, color=INK, fontweight="bold")
    page.write(LEFT, page.tops["caption"] - CAPTION_LINE, _shortened(facts, 130), 11, color=GREY)


def _spectrogram(axes: "Axes", inspection: "Inspection", end_s: float, points_per_frame: float) -> None:
    log_mel, spans, rate = inspection.log_mel, inspection.spans, inspection.frame_rate
    bins, columns = log_mel.shape
    highest = float(log_mel.max())
    axes.imshow(
        log_mel.numpy(),
        origin="lower",
        aspect="auto",
        extent=(0, columns / 100, 0, bins),
        cmap="Greys",
        vmin=highest - 1.5,  # 60 dB below
        vmax=highest + 0.35,  # the loudest is not black, so that lines are seen on it
        interpolation="nearest",
    )
    found = boundaries(spans)
    width_pt = points_per_frame * inspection.frames / max(1, len(found) - 1)
    foot = bins if width_pt >= DENSE_PT else 0.08 * bins
    style = {"linewidth": _thin(width_pt), "alpha": 1.0 if width_pt >= AIRY_PT else 0.45}  # formants shine through
    axes.vlines((found / rate).tolist(), 0, foot, colors=LINE, label="boundaries", **style)
    gaps = bool((spans.starts[1:] > spans.ends[:-1] + 1e-3).any())
    if gaps and width_pt >= DENSE_PT:  # which of two neighbouring lines is a beginning
        stretches = zip((spans.starts / rate).tolist(), ((spans.ends - spans.starts) / rate).tolist(), strict=True)
        axes.broken_barh(list(stretches), (0, bins), facecolors=LINE, alpha=0.1, label="stretches")
    axes.set_xlim(0, end_s)
    axes.set_ylim(0, bins)
    axes.set_yticks(range(0, bins, 20))
    axes.set_ylabel("mel bin", color=GREY, fontsize=10)


def _positions(axes: "Axes", spans: Spans, rate: float, lanes: list[int], strip: float, height: float) -> None:
    """Draw each position as a block in its lane, in a strip at the foot of axes whose unit is an inch."""
    from matplotlib.collections import PolyCollection

    corners, colors, drawn = [], [], [0] * (max(lanes) + 1)
    texts = spans.labels or ["·"] * len(lanes)
    times = zip((spans.starts / rate).tolist(), (spans.ends / rate).tolist(), strict=True)
    for (start, end), lane, text in zip(times, lanes, texts, strict=True):
        bottom, top = strip - (lane + 1) * LANE + 0.02, strip - lane * LANE - 0.02
        corners.append([(start, bottom), (start, top), (end, top), (end, bottom)])
        colors.append(BLOCKS[drawn[lane] % 2] if text else BLANK)
        drawn[lane] += 1
    axes.add_collection(PolyCollection(corners, facecolors=colors, edgecolors="none", label="positions"))
    axes.set_ylim(0, height)
    axes.set_ylabel("positions", color=GREY, fontsize=10, rotation=0, ha="right", va="center")
    axes.yaxis.set_label_coords(-0.008, strip / 2 / height)
    axes.tick_params(left=False, bottom=False, labelleft=False, labelbottom=False)
    axes.spines[:].set_visible(False)


def _labels(axes: "Axes", labels: Labels, rate: float, strip: float) -> None:
    for middle, label, row in labels.placed:
        y = strip + (row + 0.1) * LABEL_ROW
        _write(axes, middle / rate, y, visible(label), labels.size, color=INK, ha="center", va="bottom")
    if labels.note:
        corner: dict[str, Any] = {"ha": "right", "va": "bottom", "transform": axes.transAxes}
        _write(axes, 1, 1.02, labels.note, 9, color=GREY, style="italic", **corner)


def _weights(axes: "Axes", spans: Spans, rate: float, points_per_frame: float) -> None:
    weights = [] if spans.weights is None else spans.weights.tolist()
    times = [frame / rate for frame in range(len(weights) + 1)]
    axes.stairs(weights, times, fill=True, color=BLOCKS[1], label="weights")
    axes.stairs(weights, times, color=BLOCKS[0], linewidth=0.8)
    width_pt = points_per_frame * len(weights) / len(spans.ends)
    transform = axes.get_xaxis_transform()
    fires = (spans.ends / rate).tolist()
    axes.vlines(fires, 0, 1, colors=LINE, linewidth=_thin(width_pt), transform=transform, label="fires")
    axes.set_ylim(0, 1.1 * max(*weights, 1e-6))
    axes.set_ylabel("weight", color=GREY, fontsize=10)


def _texts(page: _Page, texts: list[tuple[str, list[str]]]) -> None:
    top = page.tops["texts"]
    for kind, lines in texts:
        page.write(LEFT, top - 0.02, kind, 10, color=GREY)
        for line in lines:
            page.write(LEFT + TEXT_INDENT, top, line, 12, color=INK)
            top -= TEXT_LINE
        top -= 0.08


def _write(where: "Axes | Figure", x: float, y: float, text: str, size: float, **options: Any) -> None:
    """Write a text that is not mathematics, whatever dollar signs it holds."""
    where.text(x, y, text, fontsize=size, family=list(fonts()), parse_math=False, **options)


def _thin(width_pt: float) -> float:
    """Return the width of the lines between positions of a mean width, both in points."""
    return min(1.1, max(0.45, width_pt / 8))


def _wrapped(text: str) -> list[str]:
    """Return the lines of a generated text, cut where it is long."""
    wide = sum(unicodedata.east_asian_width(character) in "WF" for character in text)
    columns = TEXT_COLUMNS // 2 if wide > len(text) / 2 else TEXT_COLUMNS
    text = printable(" ".join(text.split()))
    return textwrap.wrap(text, columns, max_lines=MAX_TEXT_LINES, placeholder=" …") or ["(nothing)"]


def _shortened(text: str, size: int) -> str:
    """Return a text with its middle left out where it is long."""
    return text if len(text) <= size else f"{text[: size // 2 - 1]} … {text[-size // 2 + 2 :]}"
