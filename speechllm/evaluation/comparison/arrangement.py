"""From values to the table: which block each belongs to, what the averages are, and what is marked."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from speechllm.errors import UserError
from speechllm.evaluation.comparison.published import AVERAGE, Publication
from speechllm.evaluation.comparison.results import Key, Result, full_name, in_groups
from speechllm.evaluation.comparison.table import (
    Block,
    Cell,
    Place,
    Row,
    Table,
    columns_of,
    figure_title,
    format_value,
)


def arrange(
    results: Sequence[Result],
    publications: Sequence[Publication] = (),
    baselines: Mapping[Key, Key | None] | None = None,
    systems: Sequence[Key] = (),
) -> Table:
    """Arrange values into a table and mark the best.

    Measured values are compared unrounded, published ones as they are printed; equals are all marked. Nothing is marked
    where there is nothing to compare: in a column with a single value, and no group's best where there is one group.

    Args:
        results: What was measured.
        publications: Published figures.
        baselines: By system, the one that it is compared with.
        systems: Systems that get a row in this order even without values.

    Raises:
        UserError: If a published figure fits the test sets of several corpora, and its file does not say which.
    """
    measured = [(r, (r.figure, r.corpus, r.split, r.text)) for r in results]
    homes = {
        (number, figure, corpus): _find_home(publication, figure, corpus, measured)
        for number, publication in enumerate(publications)
        for figure, corpus in _headings(publication)
    }
    placed = [*measured]
    for number, publication in enumerate(publications):
        placed += [(r, homes[number, r.figure, r.corpus]) for r in publication.results]
    values = {(r.system, place, r.languages): r for r, place in placed}
    averages = {
        (key, homes[number, figure, corpus]): _Printed(text, (key, figure, corpus) in _misprinted(publication))
        for number, publication in enumerate(publications)
        for (key, figure, corpus), text in publication.averages.items()
    }
    keys = in_groups([*systems, *(r.system for r in results), *(key for p in publications for key in p.systems)])
    published = {key for publication in publications for key in publication.systems}
    blocks = _blocks(values)
    rows = [Row(*key, key in published, [Cell() for block in blocks for _ in block.columns]) for key in keys]
    table = Table(blocks, rows, baselines=dict(baselines or {}))
    for row, key in zip(rows, keys, strict=True):
        cells = iter(row.cells)
        for block in blocks:
            own = [next(cells) for _ in block.columns]
            for cell, languages in zip(own, block.languages, strict=False):
                _fill(cell, values.get((key, block.place, languages)))
            note = _average(own, averages.pop((key, block.place), None), block)
            table.notes += [f"{full_name(key)}, {block.title}: {note}"] if note else []
    for (key, place), printed in averages.items():
        table.notes.append(f"{full_name(key)}, {figure_title(place[0])}: no values beside the average {printed.text}.")
    table.notes += [f"{item}." for publication in publications for item in publication.misprints]
    _mark(table)
    return table


@dataclass(frozen=True)
class _Printed:
    """An average as a publication prints it, and whether its row gives another."""

    text: str
    doubtful: bool


def _headings(publication: Publication) -> list[tuple[str, str]]:
    """Return figures and corpora of a publication."""
    found = [(r.figure, r.corpus) for r in publication.results]
    return list(dict.fromkeys(found + [(figure, corpus) for _, figure, corpus in publication.averages]))


def _misprinted(publication: Publication) -> set[tuple[Key, str, str]]:
    return {(item.system, item.figure, item.corpus) for item in publication.misprints}


def _find_home(publication: Publication, figure: str, corpus: str, measured: Sequence[tuple[Result, Place]]) -> Place:
    """Return the block of what was measured that a published figure belongs to, or a block of its own."""
    languages = {r.languages for r in publication.results if (r.figure, r.corpus) == (figure, corpus)}
    found: dict[Place, set[str]] = {}
    for r, place in measured:
        if r.figure == figure and corpus in ("", r.corpus):
            found.setdefault(place, set()).add(r.languages)
    fitting = [place for place, names in found.items() if languages & names]
    best = [place for place in fitting if languages <= found[place]] if len(fitting) > 1 else fitting
    if len(found) == 1 and (corpus or fitting):
        return next(iter(found))
    if len(best) == 1:
        return best[0]
    if fitting:
        names = ", ".join(" ".join(part for part in place[1:] if part) for place in fitting)
        msg = (
            f"{publication.path}: {figure} for {', '.join(sorted(languages))} was measured on several test sets: "
            f"{names}. Say in a column 'corpus' which of them the published figures are of."
        )
        raise UserError(msg)
    return figure, corpus, "", ""


def _blocks(values: Mapping[tuple[Key, Place, str], Result]) -> list[Block]:
    """Return the blocks, those of one figure side by side, columns in the order in which they first occur."""
    languages: dict[Place, dict[str, None]] = {}
    first: dict[Place, Result] = {}
    for (_, place, name), result in values.items():
        languages.setdefault(place, {})[name] = None
        if place not in first or not first[place].unit:
            first[place] = result
    figures = list(dict.fromkeys(place[0] for place in languages))
    blocks = []
    for place in sorted(languages, key=lambda place: figures.index(place[0])):
        columns = tuple(languages[place])
        averaged = (*columns, AVERAGE) if len(columns) > 1 else columns
        title = _title(place, list(languages))
        blocks.append(Block(place, title, first[place].unit, first[place].higher_is_better, averaged))
    return blocks


def _title(place: Place, places: Sequence[Place]) -> str:
    """Return the figure, and of corpus, split and text what it takes to tell blocks of one figure apart."""
    same = [other for other in places if other[0] == place[0]]
    words = [figure_title(place[0])]
    words += [part for index, part in enumerate(place) if index and len({other[index] for other in same}) > 1]
    return " ".join(word for word in words if word)


def _fill(cell: Cell, result: Result | None) -> None:
    if result is not None and math.isfinite(result.value):
        cell.value, cell.result = result.value, result
        cell.printed = result.printed or format_value(result.value, result.unit)


def _average(cells: Sequence[Cell], printed: _Printed | None, block: Block) -> str:
    """Fill the last cell with the mean of the others, or what is printed; return why it stays empty, if it does."""
    own = cells[: len(block.languages)]
    lacking = [name for cell, name in zip(own, block.languages, strict=True) if cell.value is None]
    if lacking:
        said = f" (printed: {printed.text})" if printed else ""
        absent = len(lacking) == len(own) and not printed
        return "" if absent else f"no average{said}, for there is no value for {', '.join(lacking)}."
    if len(own) == len(cells):
        return ""
    average, values = cells[-1], [cell.value for cell in own if cell.value is not None]
    if printed:
        average.value, average.printed, average.doubtful = float(printed.text), printed.text, printed.doubtful
        return ""
    average.value = sum(values) / len(values)
    decimals = {len(cell.result.printed.partition(".")[2]) for cell in own if cell.result and cell.result.printed}
    average.printed = f"{average.value:.{max(decimals)}f}" if decimals else format_value(average.value, block.unit)
    return ""


def _mark(table: Table) -> None:
    groups = table.groups
    for index, (block, _) in enumerate(columns_of(table)):
        if block.higher_is_better is None:
            continue
        for cell in _best([row.cells[index] for row in table.rows], block.higher_is_better):
            cell.best = True
        if len(groups) > 1:
            for group in groups:
                for cell in _best([row.cells[index] for row in group], block.higher_is_better):
                    cell.best_of_group = True


def _best(cells: Sequence[Cell], higher_is_better: bool) -> Iterator[Cell]:
    """Yield the cells that no other beats, where there is another to beat."""
    known = [(cell, cell.value) for cell in cells if cell.value is not None]
    if len(known) < 2:
        return
    best = (max if higher_is_better else min)(value for _, value in known)
    yield from (cell for cell, value in known if math.isclose(value, best, rel_tol=1e-9))
