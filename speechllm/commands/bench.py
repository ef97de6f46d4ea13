"""``speechllm bench``: measure recipes with random weights at the sizes of their checkpoints."""

import json
from pathlib import Path
from typing import Any

from speechllm.errors import UserError

SCALES = ("full", "tiny")
"""Sizes that can be asked for: those of the recipe, or such as a CPU can train."""

CPU_PARAMETERS = 300_000_000
"""Parameters above which a CPU takes the tiny sizes by itself."""


def run(arguments: list[str]) -> None:
    """Parse a command line and measure.

    Args:
        arguments: The command line after ``bench``.
    """
    import shlex

    from speechllm.commands.planned_recipe import layered, recipe_parser, split_overrides

    rest, overrides = split_overrides(arguments)
    parser = recipe_parser(
        "bench",
        "Measure the training steps and the decoding of recipes, with random weights at the sizes of their "
        "checkpoints and durations as their data has them: samples/s, LLM tokens/s, MFU, memory, where the time goes, "
        "and the largest batch that fits the GPU. Nothing is fetched. On a CPU, large recipes are measured at tiny "
        "sizes, and it is said so. Options of a recipe may follow, as for fit: --data.batch_seconds 200.",
    )
    parser.add_argument("--steps", type=int, default=20, help="Steps that are measured")
    parser.add_argument("--warmup", type=int, default=3, help="Steps before these")
    parser.add_argument("--scale", type=str | None, default=None, help="Sizes: full, or tiny")
    parser.add_argument(
        "--layers", type=int | None, default=None, help="Most layers of encoder and LLM; all if not given"
    )
    parser.add_argument("--device", type=str | None, default=None, help="cpu or cuda; a GPU where there is one")
    parser.add_argument("--new_tokens", type=int, default=32, help="Tokens that each utterance is decoded to")
    parser.add_argument("--search", type=bool, default=True, help="Whether to look for the largest batch, on a GPU")
    parser.add_argument("--write", type=Path | None, default=None, help="Page to write the section of this machine to")
    options = parser.parse_args(rest).as_dict()
    options["config"] = layered(options["config"])
    command = shlex.join(["speechllm", "bench", *arguments])
    bench(overrides=overrides, command=command, as_json=options.pop("json"), **options)


def bench(
    config: list[list[str]],
    steps: int = 20,
    warmup: int = 3,
    scale: str | None = None,
    layers: int | None = None,
    device: str | None = None,
    new_tokens: int = 32,
    search: bool = True,
    write: Path | None = None,
    as_json: bool = False,
    overrides: dict[str, Any] | None = None,
    command: str = "speechllm bench",
) -> None:
    """Measure recipes and print a table.

    Args:
        config: Recipes, by path or name: of each its files, of which one changes those before it.
        steps: Steps that are measured.
        warmup: Steps before these.
        scale: One of :data:`SCALES`; full where not given, but tiny for large recipes on a CPU.
        layers: Most layers of encoder and LLM; all if not given.
        device: ``cpu`` or ``cuda``; a GPU where there is one.
        new_tokens: Tokens that each utterance is decoded to.
        search: Whether to look for the largest batch that fits; on a GPU only.
        write: Page to write the section of this machine to.
        as_json: Whether to print JSON.
        overrides: Options of the recipes by dotted name.
        command: The command line, for the page.

    Raises:
        UserError: If a recipe is not known or an option cannot be.
    """
    from speechllm.commands.bench_measure import measure
    from speechllm.commands.bench_page import section, table, write_section
    from speechllm.commands.planned_recipe import read_recipe

    if scale is not None and scale not in SCALES:
        msg = f"`--scale` must be one of {', '.join(SCALES)}, but is '{scale}'."
        raise UserError(msg)
    if device is not None and device.partition(":")[0] not in ("cpu", "cuda"):
        msg = f"`--device` must be cpu or cuda, but is '{device}'."
        raise UserError(msg)
    for name, value, least in (
        ("steps", steps, 1),
        ("warmup", warmup, 0),
        ("layers", layers, 1),
        ("new_tokens", new_tokens, 1),
    ):
        if value is not None and value < least:
            msg = f"`--{name}` must be at least {least}, but is {value}."
            raise UserError(msg)
    if write is not None and not write.parent.is_dir():
        msg = f"The folder of `--write {write}` does not exist."
        raise UserError(msg)
    recipes = [read_recipe(given, overrides or {}) for given in config]
    found = [
        measure(recipe, steps, warmup, scale, layers, device, new_tokens, search, CPU_PARAMETERS) for recipe in recipes
    ]
    print(json.dumps(found, indent=2) if as_json else table(found))
    if write is not None:
        write_section(write, section(found, command))
        print(f"\nWrote the section of this machine: {write}")
