"""``speechllm compare``: systems side by side, as a table that a paper can print, with significance and pictures."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from speechllm.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from speechllm.evaluation.comparison.measured import DifferenceTest, Scored
    from speechllm.evaluation.comparison.published import Publication
    from speechllm.evaluation.comparison.results import Key
    from speechllm.evaluation.comparison.table import Table
    from speechllm.evaluation.systems import System

SEVERAL = ("systems", "published")
"""Parameters that take several words of the command line."""


def run(arguments: list[str]) -> None:
    """Parse a command line and compare.

    Args:
        arguments: Words after ``speechllm compare``.
    """
    from docstring_parser import parse
    from jsonargparse import ArgumentParser

    from speechllm.command_help import HelpFormatter

    documentation = parse(compare.__doc__ or "")
    said = {entry.arg_name: entry.description for entry in documentation.params}
    description = documentation.description
    parser = ArgumentParser(prog="speechllm compare", description=description, formatter_class=HelpFormatter)
    parser.add_argument("systems", nargs="*", default=[], help=said["systems"])
    parser.add_argument("--published", nargs="+", metavar="FILE.csv", help=said["published"])
    parser.add_function_arguments(compare, skip=set(SEVERAL), as_group=False)
    options = parser.parse_args(arguments).as_dict()
    compare(options.pop("systems"), **options)


def compare(
    systems: list[str],
    published: list[str] | None = None,
    baseline: str | None = None,
    metrics: list[str | dict[str, Any]] | str | None = None,
    figures: str | None = None,
    resample_by: Literal["utterance", "recording", "speaker"] = "utterance",
    samples: int = 1000,
    test: Literal["bootstrap", "randomization"] = "bootstrap",
    out: Path = Path("compare"),
    page: bool = True,
    copy_audio: bool = False,
) -> None:
    """Set systems side by side: print a table, and write it as Markdown, LaTeX, CSV and HTML, with pictures.

    Rows are systems, columns are languages or pairs, a block of them for each figure with its plain mean. The best of a
    column is bold, the best of a group underlined; an asterisk says that a difference to the baseline is not
    significant.

      speechllm compare runs/base runs/conv --baseline base

    Groups, each with a baseline of its own, and the output of another system beside them:

      speechllm compare W/Base=runs/wb W/Conv=runs/wc S/Base=runs/sb S/Conv=runs/sc --baseline Base
      speechllm compare ours=runs/conv NLLB=nllb.txt --baseline NLLB --metrics '[bleu, chrf]'

    Beside published figures:

      speechllm compare runs/conv --published table.csv

    Args:
        systems: Systems, each PATH, NAME=PATH or GROUP/NAME=PATH. A path is a run folder, a `predictions.jsonl`, or
            hypotheses: lines of text, or a .tsv, .csv or .jsonl with the columns id and hypothesis. Hypotheses take
            their references from the first run that is named.
        published: Tables of published figures, with the columns system, group, figure, languages and value; optional
            are significant (yes or no), corpus and compression. Rows whose languages are avg are printed averages, and
            are checked.
        baseline: Name of the system that others are tested against, looked for in each group; GROUP/NAME where one
            system is meant. A group without it takes the only one there is.
        metrics: Names of metrics, or specs with options: wer,bleu or '[bleu, {name: wer, normalizer: whisper}]'. Where
            not given, those that all runs were tested with, but for health and speed.
        figures: Figures to show, divided by commas, such as wer,bleu; the main one of each metric where not given.
        resample_by: What is drawn at random: utterances, recordings (talks, for instance) or speakers.
        samples: Number of bootstrap samples, and of random exchanges.
        test: Which test's p-value decides about asterisks; `comparison.json` has both.
        out: Folder to write to.
        page: Whether to write a page on which utterances are read side by side and heard.
        copy_audio: Whether the page has clips of its own beside it, so that it can be given to others; it plays the
            corpus's files otherwise.

    Raises:
        UserError: If something cannot be read or compared.
    """
    if samples < 1:
        msg = f"`samples` must be at least 1, but is {samples}. 1000 is usual."
        raise UserError(msg)
    from speechllm.evaluation.comparison.figures import choose_metrics
    from speechllm.evaluation.comparison.markdown import to_markdown
    from speechllm.evaluation.comparison.measured import DifferenceTest, score_systems
    from speechllm.evaluation.comparison.reading import read_systems
    from speechllm.evaluation.comparison.results import choose_baselines

    found, publications = read_systems(systems, published or [])
    keys = [(system.group, system.name) for system in found] + [key for p in publications for key in p.systems]
    baselines = choose_baselines(keys, baseline)
    how = DifferenceTest(resample_by, samples, test=test)
    specs, notes = choose_metrics(found, metrics) if found else ([], [])
    scored, more = score_systems(found, specs, strict=metrics is not None)
    chosen = None if figures is None else [name.strip() for name in figures.split(",") if name.strip()]
    table = _arrange(scored, publications, chosen, baselines, how)
    table.notes += [*notes, *more]
    compression, unknown = _compression(found, publications)
    out.mkdir(parents=True, exist_ok=True)
    pictures, reasons = _write_pictures(out, table, scored, compression, how)
    address = _write_page(out, found, specs, baseline, copy_audio) if page and found else None
    _write(out, table, how, compression, pictures, address)
    print(to_markdown(table))
    print(
        "\n".join(
            [*unknown, *reasons, f"Table, pictures and p-values: {out}"]
            + ([f"Page: {out / address}"] if address else [])
        )
    )


def _arrange(
    scored: "Sequence[Scored]",
    publications: "Sequence[Publication]",
    figures: "Sequence[str] | None",
    baselines: "dict[Key, Key | None]",
    how: "DifferenceTest",
) -> "Table":
    """Return the table of the figures that were asked for."""
    from dataclasses import replace

    from speechllm.evaluation.comparison.arrangement import arrange
    from speechllm.evaluation.comparison.figures import check_figures
    from speechllm.evaluation.comparison.measured import (
        all_figures,
        differing_signatures,
        few_units,
        measure,
        signatures_by_title,
        untested,
    )
    from speechllm.evaluation.comparison.reading import check_common

    if figures is not None:
        printed = [r.figure for publication in publications for r in publication.results]
        known = {name.lower(): name for name in [*printed, *all_figures(scored)]}
        figures = [known.get(name.lower(), name) for name in figures]
        check_figures(figures, list(known.values()))
        publications = [
            replace(
                publication,
                results=[r for r in publication.results if r.figure in figures],
                averages={key: value for key, value in publication.averages.items() if key[1] in figures},
                misprints=[item for item in publication.misprints if item.figure in figures],
            )
            for publication in publications
        ]
    results = measure(scored, figures, baselines, how)
    table = arrange(results, publications, baselines, [item.key for item in scored])
    check_common(table)
    table.notes += [*differing_signatures(results), *untested(results, baselines), *few_units(scored, results, how)]
    table.test = str(how) if any(r.comparison for r in results) else ""
    table.signatures = signatures_by_title(results)
    return table


def _compression(
    systems: "Sequence[System]", publications: "Sequence[Publication]"
) -> "tuple[dict[Key, float], list[str]]":
    """Return encoder frames for each position of the LLM where they are known without any weights, and what failed."""
    found = {key: ratio for publication in publications for key, ratio in publication.compression.items()}
    known: dict[str, float | None] = {}
    notes = []
    for system in systems:
        recipe: Any = system.run
        for name in ("recipe", "model", "init_args"):
            recipe = recipe.get(name) if isinstance(recipe, dict) else None
        if not isinstance(recipe, dict) or not {"encoder", "adapter", "decoder"} <= recipe.keys():
            continue
        parts = {name: recipe[name] for name in ("encoder", "adapter", "decoder")}
        word = json.dumps(parts, sort_keys=True, default=str)
        if word not in known:
            from speechllm.commands.zoo_figures import compression

            try:
                known[word] = compression(parts)
            except UserError as error:  # a recipe of another version
                known[word] = None
                notes.append(f"The compression of '{system.name}' is not known: {error}")
        ratio = known[word]
        if ratio is not None:
            found[system.group, system.name] = ratio
    return found, notes


def _write_pictures(
    out: Path, table: "Table", scored: "Sequence[Scored]", compression: "dict[Key, float]", how: "DifferenceTest"
) -> tuple[list[str], list[str]]:
    from speechllm.evaluation.comparison.pictures import write_pictures

    return write_pictures(out, table, scored, compression, how)


def _write_page(
    out: Path,
    systems: "Sequence[System]",
    specs: "Sequence[dict[str, Any]]",
    baseline: str | None,
    copy_audio: bool,
) -> str:
    """Write the page of utterances, and return its name within the folder."""
    from speechllm.evaluation.comparison.figures import can_build
    from speechllm.evaluation.page.page import write_page

    known = [spec for spec in specs if can_build(spec, systems)]
    return write_page(out, systems, known, baseline, copy_audio).relative_to(out).as_posix()


def _write(
    out: Path,
    table: "Table",
    how: "DifferenceTest",
    compression: "dict[Key, float]",
    pictures: "Sequence[str]",
    address: str | None,
) -> None:
    from speechllm.evaluation.comparison.csv_file import to_csv
    from speechllm.evaluation.comparison.html import to_html
    from speechllm.evaluation.comparison.json_file import to_json
    from speechllm.evaluation.comparison.latex import to_latex
    from speechllm.evaluation.comparison.markdown import to_markdown

    texts = {
        "compare.md": to_markdown(table),
        "compare.tex": to_latex(table),
        "compare.csv": to_csv(table),
        "compare.html": to_html(table, pictures, address),
        "comparison.json": to_json(table, how, compression),
    }
    for name, text in texts.items():
        (out / name).write_text(text, encoding="utf-8", newline="\n")
