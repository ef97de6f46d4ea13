"""Systems and published figures from what a command line names."""

from collections.abc import Sequence
from pathlib import Path

from speechllm.errors import UserError
from speechllm.evaluation.comparison.published import Publication, read_published
from speechllm.evaluation.comparison.results import check_names, full_name
from speechllm.evaluation.comparison.table import Table, columns_of
from speechllm.evaluation.systems import System, check_same_utterances, read_system, split_by_task


def read_systems(arguments: Sequence[str], published: Sequence[str] = ()) -> tuple[list[System], list[Publication]]:
    """Read everything that is compared.

    Runs may come after the hypotheses of other systems, which take their references from the first run.

    Args:
        arguments: ``PATH``, ``NAME=PATH`` or ``GROUP/NAME=PATH``, as :func:`speechllm.evaluation.systems.read_system`
            takes them.
        published: Files of published figures.

    Raises:
        UserError: If there is nothing to compare, something cannot be read, two systems have one name, or systems were
            not tested on the same utterances.
    """
    if not arguments and not published:
        msg = (
            "No system to compare. Name run folders, predictions or files of hypotheses: "
            "`speechllm compare runs/a runs/b`; or published figures with `--published FILE.csv`."
        )
        raise UserError(msg)
    publications = [read_published(Path(path)) for path in published]
    systems = [part for system in _read_all(arguments) for part in split_by_task(system)]
    named = [((system.group, system.name), f"'{system.source}'") for system in systems]
    named += [(key, f"a row of '{found.path}'") for found in publications for key in found.systems]
    check_names(named)
    return check_same_utterances(systems) if systems else [], publications


def check_common(table: Table) -> None:
    """Check that there is something to compare: a column in which two systems have a value.

    Raises:
        UserError: If there is none; the message says which figures each system has.
    """
    counts = [sum(row.cells[index].value is not None for row in table.rows) for index in range(len(columns_of(table)))]
    if len(table.rows) > 1 and max(counts, default=0) < 2:
        titles = [f"{block.title} {name}" for block, name in columns_of(table)]
        listed = [
            f"{full_name((row.group, row.name))}: "
            + (", ".join(t for t, cell in zip(titles, row.cells, strict=True) if cell.value is not None) or "none")
            for row in table.rows
        ]
        msg = (
            f"The systems have no figure in common. {'; '.join(listed)}. Figures are the same where name, corpus and "
            "languages are."
        )
        raise UserError(msg)


def _read_all(arguments: Sequence[str]) -> list[System]:
    found: dict[int, System] = {}
    first_error: UserError | None = None
    for place, argument in enumerate(arguments):
        try:
            found[place] = read_system(argument)
        except UserError as error:
            first_error = first_error or error
    if arguments and not found:
        assert first_error is not None
        raise first_error
    like = next(iter(found.values())).predictions if found else None
    return [found[place] if place in found else read_system(argument, like) for place, argument in enumerate(arguments)]
