"""``speechllm plan``: what a recipe takes, before anything is loaded."""

import json
from typing import Any

from speechllm.errors import UserError

SHOWN_GPUS = ("A100-40GB", "A100-80GB", "H100", "H200", "GH200", "B200", "MI300X", "L40S")
"""GPUs of the table."""


def run(arguments: list[str]) -> None:
    """Parse a command line and print the plan.

    Args:
        arguments: The command line after ``plan``.
    """
    from speechllm.commands.planned_recipe import layered, recipe_parser, split_overrides

    rest, overrides = split_overrides(arguments)
    parser = recipe_parser(
        "plan",
        "Say what a recipe takes: parameters, memory of a GPU by part, operations of an utterance, time on "
        "several GPUs, sizes of cache and checkpoints, and what will not fit with what to change. Nothing is loaded "
        "or fetched. Options of the recipe may follow, as for fit: --model.adapter.name wlq, --data.batch_seconds 200.",
    )
    parser.add_argument("--gpu", type=str, default="H200", help="GPU to plan for")
    parser.add_argument(
        "--gpus", type=int | None, default=None, help="How many; as many as the recipe says if not given"
    )
    parser.add_argument(
        "--efficiency", type=float, default=0.5, help="Share of what matrix products can reach on that GPU, 0 to 1"
    )
    parser.add_argument(
        "--compression", type=float | None, default=None, help="Encoder frames per position of adapters such as ctc"
    )
    options = parser.parse_args(rest).as_dict()
    options["config"] = layered(options["config"])
    plan(overrides=overrides, as_json=options.pop("json"), **options)


def plan(
    config: list[list[str]],
    gpu: str = "H200",
    gpus: int | None = None,
    efficiency: float = 0.5,
    compression: float | None = None,
    as_json: bool = False,
    overrides: dict[str, Any] | None = None,
) -> None:
    """Print what recipes take.

    Args:
        config: Recipes, by path or name: of each its files, of which one changes those before it.
        gpu: GPU to plan for; see :data:`speechllm.costs.gpus.GPUS`.
        gpus: How many; as many as the recipe says if not given.
        efficiency: Share of what matrix products can reach on that GPU, above 0 and up to 1.
        compression: Encoder frames per position where the audio decides; what papers report if not given.
        as_json: Whether to print JSON.
        overrides: Options of the recipe by dotted name.

    Raises:
        UserError: If a recipe or GPU is not known, or an option cannot be.
    """
    from speechllm.commands.plan_report import figures, report
    from speechllm.commands.planned_recipe import read_recipe
    from speechllm.costs.gpus import find_gpu

    chosen = find_gpu(gpu)
    if not 0 < efficiency <= 1:
        msg = f"`--efficiency` is a share above 0 and up to 1, but is {efficiency:g}. Good training reaches about 0.5."
        raise UserError(msg)
    for name, value in (("gpus", gpus), ("compression", compression)):
        if value is not None and value < 1:
            msg = f"`--{name}` must be at least 1, but is {value:g}."
            raise UserError(msg)
    found = [
        figures(read_recipe(given, overrides or {}), chosen, gpus, efficiency, compression, SHOWN_GPUS)
        for given in config
    ]
    print(json.dumps(found, indent=2) if as_json else report(found))
