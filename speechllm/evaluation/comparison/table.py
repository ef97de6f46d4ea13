"""The table: systems in groups as rows, test sets in blocks as columns, and what is marked."""

from dataclasses import dataclass, field

from speechllm.evaluation.comparison.published import AVERAGE
from speechllm.evaluation.comparison.results import Key, Result

DECIMALS = {"ratio": 4}
"""Decimals of a figure by its unit, where they are not two."""

Place = tuple[str, str, str, str]
"""Figure, corpus, split and text: what makes a block."""


@dataclass(frozen=True)
class Block:
    """Columns of one figure on one corpus.

    Attributes:
        place: Figure, corpus, split and text.
        title: The figure as people write it, with the corpus where there are several.
        unit: Unit of its values.
        higher_is_better: Its direction; None where neither is better.
        columns: Languages, and ``avg`` where there are several.
    """

    place: Place
    title: str
    unit: str
    higher_is_better: bool | None
    columns: tuple[str, ...]

    @property
    def languages(self) -> tuple[str, ...]:
        """The columns without the average."""
        return tuple(name for name in self.columns if name != AVERAGE)


@dataclass
class Cell:
    """A value in the table.

    Attributes:
        value: The value that is compared; None where there is none.
        printed: What is shown; empty where there is no value.
        best: Whether no system has a better one.
        best_of_group: Whether no system of its group has a better one.
        doubtful: Whether it is a printed average that its row does not give.
        result: Where it comes from; None for averages.
    """

    value: float | None = None
    printed: str = ""
    best: bool = False
    best_of_group: bool = False
    doubtful: bool = False
    result: Result | None = None

    @property
    def insignificant(self) -> bool:
        """Whether the difference to the baseline was tested and may be chance."""
        return self.result is not None and self.result.significant is False


@dataclass
class Row:
    """A system.

    Attributes:
        group: Its group; may be empty.
        name: Its name.
        published: Whether its values are published ones.
        cells: One for each column of each block.
    """

    group: str
    name: str
    published: bool
    cells: list[Cell]


@dataclass
class Table:
    """Systems side by side.

    Attributes:
        blocks: Blocks of columns.
        rows: Systems, group by group.
        notes: What a reader must know: averages that do not fit, what was left out, what was not tested.
        baselines: By system, the one that it is compared with.
        signatures: Title and signature of each figure that was measured.
        test: How differences were tested; empty where publications say.
    """

    blocks: list[Block]
    rows: list[Row]
    notes: list[str] = field(default_factory=list)
    baselines: dict[Key, Key | None] = field(default_factory=dict)
    signatures: list[tuple[str, str]] = field(default_factory=list)
    test: str = ""

    @property
    def groups(self) -> list[list[Row]]:
        """The rows of each group."""
        names = dict.fromkeys(row.group for row in self.rows)
        return [[row for row in self.rows if row.group == name] for name in names]

    @property
    def legend(self) -> list[str]:
        """What the marks mean, for those that occur."""
        cells = [cell for row in self.rows for cell in row.cells]
        lines = []
        if any(cell.best for cell in cells):
            lines.append("Bold: best of a column.")
        if any(cell.best_of_group for cell in cells):
            lines.append("Underlined: best of a group.")
        if any(cell.insignificant for cell in cells):
            test = f"; {self.test}" if self.test else ""
            lines.append(f"*: the difference to the baseline is not significant (p ≥ 0.05{test}).")
        if any(cell.doubtful for cell in cells):
            lines.append("†: printed so, but the row gives another average.")
        if any(block.columns[-1] == AVERAGE for block in self.blocks):
            lines.append("avg: plain mean of a block's columns; left out where a system lacks one, and never tested.")
        return lines


def columns_of(table: Table) -> list[tuple[Block, str]]:
    """Return the columns of a table, in the order of its cells."""
    return [(block, name) for block in table.blocks for name in block.columns]


def format_value(value: float, unit: str) -> str:
    """Return a measured value as tables print it."""
    return f"{value:.{DECIMALS.get(unit, 2)}f}"


def figure_title(figure: str) -> str:
    """Return a figure as people write it: ``WER``, ``chrF``, ``WER (whisper)``."""
    known = {"chrf": "chrF", "wer": "WER", "cer": "CER", "mer": "MER", "ter": "TER", "bleu": "BLEU", "comet": "COMET"}
    name, _, options = figure.partition("_")
    return figure if name not in known else f"{known[name]} ({options})" if options else known[name]
