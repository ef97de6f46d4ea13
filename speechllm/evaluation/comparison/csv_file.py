"""The table as CSV: plain numbers, and beside each column one with its marks."""

import csv
import io

from speechllm.evaluation.comparison.table import Cell, Table, columns_of

MARKS = ("best", "best_of_group", "insignificant", "doubtful")
"""Words in the columns of marks: what holds of a :class:`speechllm.evaluation.comparison.table.Cell`."""


def to_csv(table: Table) -> str:
    """Return the table; a missing value is an empty cell, and notes are not in it."""
    file = io.StringIO(newline="")
    writer = csv.writer(file, lineterminator="\n")
    names = [f"{block.title} {name}" for block, name in columns_of(table)]
    writer.writerow(["group", "system", *(column for name in names for column in (name, f"{name} marks"))])
    for row in table.rows:
        writer.writerow([row.group, row.name, *(text for cell in row.cells for text in (cell.printed, marks_of(cell)))])
    return file.getvalue()


def marks_of(cell: Cell) -> str:
    """Return the marks of a cell as words."""
    return " ".join(mark for mark in MARKS if getattr(cell, mark))
