"""How ``speechllm bench`` prints its figures, and the section of a machine on the page of performance."""

import os
import platform
import re
import textwrap
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from speechllm.report import format_table

Figures = dict[str, Any]
WIDTH = 118
"""Columns of the text for a terminal."""

COLUMNS = (
    "recipe",
    "samples/s",
    "LLM tokens/s",
    "GFLOP/sample",
    "TFLOP/s",
    "MFU",
    "peak GiB",
    "loader",
    "encoder",
    "adapter",
    "LLM",
    "optimizer",
    "decode RTF",
    "decode tokens/s",
    "largest batch_seconds",
)


def rows_of(found: Sequence[Figures]) -> list[list[str]]:
    """Return a row of text for each recipe, in the order of :data:`COLUMNS`."""
    rows = []
    for figures in found:
        shares = figures["shares"]
        together = [
            shares["loader"],
            shares["encoder"] + shares["encoder backward"],
            shares["adapter"] + shares["adapter backward"],
            shares["llm forward"] + shares["llm backward"],
            shares["optimizer"],
        ]
        largest = figures["largest_batch_seconds"]
        rows.append(
            [
                figures["recipe"],
                f"{figures['samples_per_s']:.1f}",
                f"{figures['llm_positions_per_s']:,.0f}",
                f"{figures['gflop_per_sample']:,.1f}",
                f"{figures['tflop_per_s']:.3g}",
                "—" if figures["mfu"] is None else f"{figures['mfu']:.1%}",
                f"{figures['peak_gib']:.1f}",
                *(f"{share:.0%}" for share in together),
                f"{figures['decode_real_time_factor']:.3f}",
                f"{figures['decode_tokens_per_s']:,.0f}",
                "not searched" if largest is None else f"{largest:.0f}",
            ]
        )
    return rows


def table(found: Sequence[Figures]) -> str:
    """Return the figures as text for a terminal."""
    rows, cut = rows_of(found), COLUMNS.index("loader")
    rates = format_table([row[:cut] for row in rows], COLUMNS[:cut])
    shares = format_table([[row[0], *row[cut:]] for row in rows], [COLUMNS[0], *COLUMNS[cut:]])
    notes = (
        textwrap.fill(f"{figures['recipe']}: {_note(figures)}", WIDTH, subsequent_indent="  ") for figures in found
    )
    return "\n\n".join([rates, f"Share of the time, and decoding:\n\n{shares}", *notes])


def section(found: Sequence[Figures], command: str) -> str:
    """Return the section of this machine as Markdown.

    Args:
        found: Figures of each recipe.
        command: The command line that measured them.
    """
    lines = [
        f"### {machine(found)}",
        "",
        f"{datetime.now(UTC):%Y-%m-%d}; {versions()}.",
        "",
        "```bash",
        command,
        "```",
        "",
        f"| {' | '.join(COLUMNS)} |",
        "|" + "---|" * len(COLUMNS),
        *(f"| {' | '.join(row)} |" for row in rows_of(found)),
        "",
        *(f"- `{figures['recipe']}`: {_note(figures)}" for figures in found),
    ]
    return "\n".join(lines)


def write_section(page: Path, text: str) -> None:
    """Write the section of a machine to a page, in the place of an older one of the same machine and recipes.

    Args:
        page: The page; it is made where it is not there.
        text: The section; its first line is its heading.
    """
    heading = text.splitlines()[0]
    name = re.sub(r"\W+", "-", heading.lower()).strip("-")
    begin, end = f"<!-- bench: {name} -->", f"<!-- end of bench: {name} -->"
    block = f"{begin}\n{text}\n{end}"
    before = page.read_text(encoding="utf-8") if page.is_file() else "# Performance\n"
    if begin in before and end in before:
        head, rest = before.split(begin, 1)
        after = head + block + rest.split(end, 1)[1]
    else:
        after = f"{before.rstrip()}\n\n{block}\n"
    page.write_text(after, encoding="utf-8")


def machine(found: Sequence[Figures]) -> str:
    """Return the machine that figures are of: its GPU or its processor, and the sizes that were measured."""
    device = found[0]["device"]
    if device == "CPU":
        device = f"{_threads()} {'thread' if _threads() == 1 else 'threads'} of {_processor()}"
    scales = sorted({figures["scale"] for figures in found})
    return f"{device}: {' and '.join(scales)} sizes"


def versions() -> str:
    """Return the versions that figures depend on."""
    import lightning
    import torch
    import transformers

    from speechllm import __version__

    cuda = f" (CUDA {torch.version.cuda})" if torch.cuda.is_available() else ""
    return (
        f"speechllm {__version__}, Python {platform.python_version()}, torch {torch.__version__.split('+')[0]}{cuda}, "
        f"transformers {transformers.__version__}, lightning {lightning.__version__}"
    )


def _note(figures: Figures) -> str:
    """Return what was measured, in a sentence."""
    memory = "of tensors on the GPU" if figures["device"] != "CPU" else "of the whole process since it began"
    millions = [f"{figures[name] / 1e6:,.1f} M" for name in ("parameters", "trained")]
    return (
        f"{figures['scale']} sizes ({millions[0]} parameters, {millions[1]} trained, {figures['precision']}); "
        f"{figures['steps']} steps of {figures['utterances'] / figures['steps']:.1f} utterances at "
        f"`batch_seconds: {figures['batch_seconds']:g}`; durations: {figures['durations']}; noise for audio, made in "
        f"the main process; {figures['speech_positions_per_s_of_audio']:.3g} speech positions per second; peak memory "
        f"{memory}; decoding {figures['decode_utterances']} utterances at once, greedily."
    )


def _threads() -> int:
    import torch

    return torch.get_num_threads()


def _processor() -> str:
    path = Path("/proc/cpuinfo")
    if path.is_file():
        found = re.search(r"^model name\s*:\s*(.+)$", path.read_text(encoding="utf-8"), re.MULTILINE)
        if found:
            return found[1]
    return platform.processor() or f"a processor of {os.cpu_count()} cores"
