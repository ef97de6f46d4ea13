"""The table in LaTeX, with booktabs."""

from collections.abc import Iterator

from speechllm.evaluation.comparison.table import Cell, Row, Table

ARROWS = {True: r" $\uparrow$", False: r" $\downarrow$", None: ""}

SIGNS = {
    "\\": r"\textbackslash{}",
    "&": r"\&",
    "%": r"\%",
    "$": r"\$",
    "#": r"\#",
    "_": r"\_",
    "{": r"\{",
    "}": r"\}",
    "[": "{[}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    "*": r"$^*$",
    "†": r"$^\dagger$",
    "≥": r"$\geq$",
    "→": r"$\rightarrow$",
}
"""Signs that mean something to LaTeX (``[`` does at the start of a row), or that its fonts do not have."""


END = r"\\"


def to_latex(table: Table) -> str:
    """Return a ``table*`` with a caption that explains the marks; signatures and notes are comments above it."""
    lines = [
        r"% Needs \usepackage{booktabs}.",
        *(f"% {title}: {signature}" for title, signature in table.signatures),
        *(f"% {' '.join(note.split())}" for note in table.notes),
        r"\begin{table*}",
        r"\centering",
        *_tabular(table),
        rf"\caption{{{' '.join(escape(line) for line in table.legend)}}}",
        r"\end{table*}",
    ]
    return "\n".join(lines) + "\n"


def escape(text: str) -> str:
    """Return text that LaTeX prints as it is."""
    return "".join(SIGNS.get(sign, sign) for sign in text)


def _tabular(table: Table) -> Iterator[str]:
    spec = "".join("r" * len(block.columns) for block in table.blocks)
    yield rf"\begin{{tabular}}{{l{spec}}}"
    yield r"\toprule"
    titles, rules, first = [""], [], 2
    for block in table.blocks:
        last = first + len(block.columns) - 1
        titles.append(
            rf"\multicolumn{{{len(block.columns)}}}{{c}}{{{escape(block.title)}{ARROWS[block.higher_is_better]}}}"
        )
        rules.append(rf"\cmidrule(lr){{{first}-{last}}}")
        first = last + 1
    yield f"{' & '.join(titles)} {END}"
    yield " ".join(rules)
    yield f"{' & '.join(['', *(escape(name) for block in table.blocks for name in block.columns)])} {END}"
    for group in table.groups:
        yield r"\midrule"
        if group[0].group:
            yield rf"\multicolumn{{{first - 1}}}{{l}}{{\textit{{{escape(group[0].group)}}}}} {END}"
        yield from (_line(row) for row in group)
    yield r"\bottomrule"
    yield r"\end{tabular}"


def _line(row: Row) -> str:
    return f"{' & '.join([escape(row.name), *map(_cell, row.cells)])} {END}"


def _cell(cell: Cell) -> str:
    if not cell.printed:
        return "--"
    text = rf"\underline{{{cell.printed}}}" if cell.best_of_group else cell.printed
    text = rf"\textbf{{{text}}}" if cell.best else text
    return text + ("$^*$" if cell.insignificant else "") + (r"$^\dagger$" if cell.doubtful else "")
