"""The table as a page that stands alone."""

import math
from collections.abc import Iterator, Sequence
from html import escape

from speechllm.evaluation.comparison.markdown import ARROWS
from speechllm.evaluation.comparison.results import full_name
from speechllm.evaluation.comparison.table import Cell, Row, Table, columns_of

STYLE = """
body { font: 15px/1.45 system-ui, sans-serif; color: #1a1a1a; background: #fff; margin: 2rem; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { padding: .2rem .7rem; text-align: right; white-space: nowrap; font-weight: normal; }
thead tr:last-child > *, tbody { border-bottom: 1px solid #8a8a8a; }
thead tr:first-child th { text-align: center; font-weight: 600; }
th[scope="row"], th[scope="rowgroup"] { text-align: left; }
th[scope="rowgroup"] { font-style: italic; color: #595959; }
sup { display: inline-block; width: 0; line-height: 0; }
.first { padding-left: 1.6rem; }
.average { color: #1a1a1a; background: #f4f4f4; }
ul { color: #404040; padding-left: 1.2rem; max-width: 60rem; }
img { max-width: 100%; height: auto; margin-top: 1rem; }
"""


def to_html(table: Table, pictures: Sequence[str] = (), page: str | None = None) -> str:
    """Return a page with the table, its legend and notes.

    A value that was measured says its interval and p-value when the pointer rests on it.

    Args:
        table: The table.
        pictures: Names of pictures beside the page, which it shows.
        page: Address of the page on which utterances can be looked through; none where not given.
    """
    lists = [f"<ul>{''.join(f'<li>{escape(line)}</li>' for line in lines)}</ul>" for lines in _lists(table)]
    link = [f'<p><a href="{escape(page)}">Utterances side by side</a></p>'] if page else []
    images = [f'<p><img src="{escape(name)}" alt="{escape(_alternative(name))}"></p>' for name in pictures]
    body = ["<h1>Comparison</h1>", '<div class="wide">', *_table(table), "</div>", *lists, *link, *images]
    head = '<meta charset="utf-8"><meta name="viewport" content="width=device-width">'
    return (
        f'<!DOCTYPE html>\n<html lang="en">\n<head>{head}<title>Comparison</title><style>{STYLE}</style></head>\n'
        f"<body>\n{chr(10).join(body)}\n</body>\n</html>\n"
    )


def _lists(table: Table) -> Iterator[list[str]]:
    signatures = [f"{title}: {signature}" for title, signature in table.signatures]
    yield from (lines for lines in (table.legend, signatures, table.notes) if lines)


def _alternative(picture: str) -> str:
    return picture.rpartition(".")[0].replace("_", " ")


def _table(table: Table) -> Iterator[str]:
    yield "<table>\n<thead>"
    titles = ""
    for block in table.blocks:
        title = escape(block.title + ARROWS[block.higher_is_better])
        titles += f'<th scope="colgroup" colspan="{len(block.columns)}">{title}</th>'
    yield f"<tr><td></td>{titles}</tr>"
    kinds = [_kind(block.columns, name) for block, name in columns_of(table)]
    names = "".join(
        f'<th scope="col"{kind}>{escape(name)}</th>' for kind, (_, name) in zip(kinds, columns_of(table), strict=True)
    )
    yield f"<tr><td></td>{names}</tr>\n</thead>"
    mixed = len({row.published for row in table.rows}) > 1
    for group in table.groups:
        yield "<tbody>"
        if group[0].group:
            yield f'<tr><th scope="rowgroup" colspan="{len(kinds) + 1}">{escape(group[0].group)}</th></tr>'
        for row in group:
            baseline = table.baselines.get((row.group, row.name))
            cells = "".join(
                f"<td{kind}{_title(cell, full_name(baseline) if baseline else '')}>{_cell(cell)}</td>"
                for kind, cell in zip(kinds, row.cells, strict=True)
            )
            yield f'<tr><th scope="row">{_name(row, mixed)}</th>{cells}</tr>'
        yield "</tbody>"
    yield "</table>"


def _kind(columns: Sequence[str], name: str) -> str:
    if name == columns[0]:
        return ' class="first"'
    return ' class="average"' if name == "avg" else ""


def _name(row: Row, mixed: bool) -> str:
    return escape(row.name) + (" <small>(published)</small>" if mixed and row.published else "")


def _title(cell: Cell, baseline: str) -> str:
    """Return what is known of a measured value, as an attribute."""
    if cell.result is None or cell.result.interval is None:
        return ""
    low, high = cell.result.interval
    said = [] if math.isnan(low) else [f"95 % interval {low:.2f} to {high:.2f}"]
    said.append(f"{cell.result.utterances} utterances")
    found = cell.result.comparison
    if found is not None and not math.isnan(found.p_bootstrap):
        said.append(f"{found.difference:+.2f} against {baseline} ({found.low:+.2f} to {found.high:+.2f})")
        said.append(f"p = {found.p_bootstrap:.3f} (bootstrap), {found.p_randomization:.3f} (randomization)")
    return f' title="{escape("; ".join([*said, cell.result.signature]))}"'


def _cell(cell: Cell) -> str:
    if not cell.printed:
        return "–"
    text = f"<u>{cell.printed}</u>" if cell.best_of_group else cell.printed
    text = f"<b>{text}</b>" if cell.best else text
    return text + ("<sup>*</sup>" if cell.insignificant else "") + ("<sup>†</sup>" if cell.doubtful else "")
