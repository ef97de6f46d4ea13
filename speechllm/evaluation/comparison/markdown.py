"""The table in Markdown: what the command prints."""

from collections.abc import Sequence

from speechllm.evaluation.comparison.table import Cell, Row, Table, columns_of
from speechllm.report import display_width

ARROWS = {True: " ↑", False: " ↓", None: ""}
"""What follows a figure's name: which way is better."""


def to_markdown(table: Table) -> str:
    """Return the table with its legend, signatures and notes.

    The first column of a block bears the block's title. Underlines are ``<u>``, which Markdown passes on to HTML.
    """
    grouped = any(row.group for row in table.rows)
    header = [*(["group"] if grouped else []), "system", *_headings(table)]
    lines = [header, *(_line(row, grouped) for row in table.rows)]
    widths = [max(3, *(display_width(line[index]) for line in lines)) for index in range(len(header))]
    texts = 2 if grouped else 1
    rule = ["-" * width if index < texts else "-" * (width - 1) + ":" for index, width in enumerate(widths)]
    rows = [_joined(line, widths, texts) for line in (lines[0], rule, *lines[1:])]
    parts = ["\n".join(rows)]
    if table.legend:
        parts.append("\n".join(f"- {escape(line)}" for line in table.legend))
    if table.signatures:
        parts.append("\n".join(f"- {escape(title)}: `{signature}`" for title, signature in table.signatures))
    if table.notes:
        parts.append("\n".join(["Notes:", "", *(f"- {escape(note)}" for note in table.notes)]))
    return "\n\n".join(parts) + "\n"


def escape(text: str) -> str:
    """Return text that Markdown shows as it is, also within a table."""
    for sign in "\\`*_[]<>|":
        text = text.replace(sign, f"\\{sign}")
    return text


def _headings(table: Table) -> list[str]:
    headings = []
    for block, name in columns_of(table):
        title = f"{block.title}{ARROWS[block.higher_is_better]} " if name == block.columns[0] else ""
        headings.append(escape(title + name))
    return headings


def _line(row: Row, grouped: bool) -> list[str]:
    return [*([escape(row.group)] if grouped else []), escape(row.name), *map(_cell, row.cells)]


def _cell(cell: Cell) -> str:
    if not cell.printed:
        return "–"
    text = f"<u>{cell.printed}</u>" if cell.best_of_group else cell.printed
    text = f"**{text}**" if cell.best else text
    return text + ("\\*" if cell.insignificant else "") + ("†" if cell.doubtful else "")


def _joined(cells: Sequence[str], widths: Sequence[int], texts: int) -> str:
    padded = []
    for index, (cell, width) in enumerate(zip(cells, widths, strict=True)):
        space = " " * (width - display_width(cell))
        padded.append(cell + space if index < texts else space + cell)
    return f"| {' | '.join(padded)} |"
