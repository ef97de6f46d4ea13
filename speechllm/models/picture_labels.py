"""Where the labels of a picture stand, so that none overlaps another, and the fonts they are written in."""

from dataclasses import dataclass
from functools import cache, lru_cache

from speechllm.batch import Spans

LABEL_STYLES = ((10.0, 1), (8.5, 1), (8.5, 2))
WORD_STYLES = ((10.0, 1), (10.0, 2), (8.5, 3))
"""Font sizes in points with rows of labels, tried in turn until all labels, or else all words, find a place."""

MAX_WORD = 24
"""Longest word that labels are joined to, in characters."""

OUTSIDE_PT = 14.0
"""How far a label may stick out of the plot at either side, in points."""

FONTS = ("DejaVu Sans", "Noto Sans", "Noto Sans CJK JP", "Noto Sans CJK SC", "Noto Sans Thai", "Noto Sans Tamil")
"""Fonts that are asked for a character in turn; those that are not installed are passed over."""


@dataclass(frozen=True)
class Labels:
    """Labels with their places.

    Attributes:
        size: Font size in points.
        placed: Middle in encoder frames, text, and row from 0 at the bottom, of each label that found a place.
        note: What was done to make them fit, where anything was.
    """

    size: float
    placed: list[tuple[float, str, int]]
    note: str = ""

    @property
    def rows(self) -> int:
        """Number of rows that hold a label."""
        return max((row + 1 for _, _, row in self.placed), default=0)


def label_places(spans: Spans, points_per_frame: float, width: float) -> Labels:
    """Place each label over the middle of its position, such that none overlaps another.

    Where the labels do not fit, those between two spaces are joined to words; where the words do not fit, some are left
    out.

    Args:
        spans: Positions, with labels or without.
        points_per_frame: Width of a frame on paper.
        width: Width of the plot in points; labels may stick out of it by :data:`OUTSIDE_PT`.
    """
    if spans.labels is None:
        return Labels(LABEL_STYLES[0][0], [])
    middles = ((spans.starts + spans.ends) / 2).tolist()
    single = [(middle, label) for middle, label in zip(middles, spans.labels, strict=True) if label]
    words = words_of(spans)
    if any(len(text) > MAX_WORD for _, text in words):  # the labels have no spaces
        words = single
    placed: list[tuple[float, str, int]] = []
    size = LABEL_STYLES[0][0]
    for given, styles in ((single, LABEL_STYLES), (words, WORD_STYLES)):
        for size, rows in styles:
            widths = [label_width(label, size) for _, label in given]
            centres = [
                _inside(middle * points_per_frame, own, width) for (middle, _), own in zip(given, widths, strict=True)
            ]
            found = place(centres, widths, rows, gap=0.25 * size)
            places = zip(centres, given, found, strict=True)
            placed = [(centre / points_per_frame, text, row) for centre, (_, text), row in places if row is not None]
            if len(placed) == len(given):
                return Labels(size, placed, "" if given is single else "labels joined to words")
    return Labels(size, placed, f"{len(words) - len(placed)} of {len(words)} labels left out")


def words_of(spans: Spans) -> list[tuple[float, str]]:
    """Return the middle, in frames, and the text of each stretch of labels between two spaces."""
    words: list[tuple[float, str]] = []
    first, last, text = 0.0, 0.0, ""
    for start, end, label in zip(spans.starts.tolist(), spans.ends.tolist(), spans.labels or [], strict=True):
        if label[:1].isspace() and text:
            words.append(((first + last) / 2, text))
            text = ""
        if label.strip():
            first = first if text else start
            last, text = end, text + label.strip()
        if label[-1:].isspace() and text:
            words.append(((first + last) / 2, text))
            text = ""
    return [*words, ((first + last) / 2, text)] if text else words


def place(middles: list[float], widths: list[float], rows: int, gap: float) -> list[int | None]:
    """Return the row of each label, the first in which it leaves a gap to the one before; None where there is none.

    Args:
        middles: Middle of each label, rising.
        widths: Width of each label.
        rows: Number of rows.
        gap: Least distance between two labels.
    """
    free = [float("-inf")] * rows
    found: list[int | None] = []
    for middle, width in zip(middles, widths, strict=True):
        row = next((row for row in range(rows) if free[row] <= middle - width / 2), None)
        if row is not None:
            free[row] = middle + width / 2 + gap
        found.append(row)
    return found


@cache
def fonts() -> tuple[str, ...]:
    """Return the installed ones of :data:`FONTS`."""
    from matplotlib.font_manager import fontManager

    installed = set(fontManager.get_font_names())
    return tuple(font for font in FONTS if font in installed) or ("sans-serif",)


def label_width(label: str, size: float) -> float:
    """Return the width of a label in points."""
    return size * _width_per_point(visible(label))


@lru_cache(maxsize=4096)  # a millisecond each
def _width_per_point(text: str) -> float:
    from matplotlib.font_manager import FontProperties
    from matplotlib.textpath import TextPath

    path = TextPath((0, 0), text, size=10, prop=FontProperties(family=list(fonts())), usetex=False)
    return float(path.get_extents().width) / 10


def _inside(centre: float, own: float, width: float) -> float:
    """Return the centre of a label of width ``own``, moved where the label would leave the page."""
    return max(min(centre, width + OUTSIDE_PT - own / 2), own / 2 - OUTSIDE_PT)


def visible(label: str) -> str:
    """Return a label with its spaces and line ends written out."""
    return printable(label.replace(" ", "␣").replace("\n", "⏎").replace("\t", "⇥"))


def printable(text: str) -> str:
    """Return a text with each character that has no shape replaced."""
    return "".join(character if character.isprintable() else "�" for character in text)
