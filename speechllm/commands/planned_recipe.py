"""A recipe as ``speechllm plan`` and ``speechllm bench`` read it: its file, what is set over it, and its data."""

import copy
import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from speechllm.errors import UserError, did_you_mean

if TYPE_CHECKING:
    from jsonargparse import ArgumentParser

    from speechllm.models.sizing.planning import Workload

DATA_DEFAULTS = {"batch_seconds": 160.0, "max_utterances": 32}
SAMPLED_ROWS = 2000
"""Rows whose durations stand for all of them."""

LONGEST_S = 30.0
"""Longest utterance where no manifest says: the datamodules' `max_duration_s`."""


@dataclass(frozen=True)
class PlannedRecipe:
    """A recipe.

    Attributes:
        name: Its name: the path as it was given, without its suffix.
        model: Options of the model.
        data: The section about data; empty where there is none.
        trainer: Options of the trainer.
    """

    name: str
    model: dict[str, Any]
    data: dict[str, Any]
    trainer: dict[str, Any]


def recipe_parser(command: str, description: str) -> "ArgumentParser":
    """Return a parser of a command that takes recipes, with the options `--config` and `--json`.

    Args:
        command: Name of the command.
        description: What it does, for ``--help``.
    """
    from jsonargparse import ArgumentParser

    from speechllm.command_help import HelpFormatter

    parser = ArgumentParser(prog=f"speechllm {command}", description=description, formatter_class=HelpFormatter)
    parser.add_argument(
        "--config",
        type=str,
        nargs="+",
        action="append",
        required=True,
        help="Recipes, by path or name; a further --config names files that change them, as for fit",
    )
    parser.add_argument("--json", action="store_true", help="Print the figures as JSON")
    return parser


def split_overrides(arguments: list[str]) -> tuple[list[str], dict[str, Any]]:
    """Return a command line without options of model, data and trainer, and these by their dotted names."""
    import yaml

    rest: list[str] = []
    overrides: dict[str, Any] = {}
    waiting = iter(arguments)
    for argument in waiting:
        if not argument.startswith(("--model.", "--data.", "--trainer.")):
            rest.append(argument)
            continue
        name, equals, value = argument.removeprefix("--").partition("=")
        overrides[name] = yaml.safe_load(value if equals else next(waiting, ""))
    return rest, overrides


def layered(given: list[list[str]]) -> list[list[str]]:
    """Return the files of each recipe: those of the first `--config`, each changed by those of further ones."""
    changes = [file for files in given[1:] for file in files]
    return [[recipe, *changes] for recipe in given[0]]


def read_recipe(files: Sequence[str], overrides: dict[str, Any]) -> PlannedRecipe:
    """Read a recipe from files, or by the name of a packaged one.

    Args:
        files: Paths or names, of which each changes those before it, as for `fit`.
        overrides: Values by dotted name, ``model.adapter.layers``, that stand over those of the file.

    Raises:
        UserError: If there is no such recipe, it is none, or an option has no such name.
    """
    recipe: dict[str, Any] = {}
    for file in files:
        _change(recipe, _read_file(file))
    for name, value in overrides.items():
        section, *keys = [key for key in name.split(".") if key != "init_args"]
        place = recipe.setdefault(section, {})
        place = place if section == "trainer" or keys == ["class_path"] else place.setdefault("init_args", {})
        for key in keys[:-1]:
            place = place.setdefault(key, {})
        place[keys[-1]] = value
    names = [file.removesuffix(".yaml").removeprefix("recipes/") for file in files]
    data, trainer = recipe.get("data") or {}, recipe.get("trainer") or {}
    model = (recipe.get("model") or {}).get("init_args") or {}
    if missing := [part for part in ("encoder", "adapter", "decoder") if part not in model]:
        msg = (
            f"'{files[-1]}' is no whole recipe: its model has no {' and no '.join(missing)}. Where it changes another "
            f"one, give that first: `--config RECIPE --config {files[-1]}`."
        )
        raise UserError(msg)
    _check_names(model, trainer)
    return PlannedRecipe(" + ".join(names), model, data, trainer)


def _read_file(given: str) -> dict[str, Any]:
    """Return the sections of a recipe file."""
    import yaml

    from speechllm.recipe_files import resolve_recipes

    path = Path(resolve_recipes(["--config", given])[1])
    if not path.is_file():
        msg = f"There is no recipe '{given}'. `speechllm zoo recipes` lists those that come with the package."
        raise UserError(msg)
    try:
        recipe = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        msg = f"'{path}' is no recipe: {error}"
        raise UserError(msg) from None
    if not isinstance(recipe, dict) or not {"model", "data", "trainer"} & set(recipe):
        msg = f"'{path}' is no recipe: it has no `model` with `init_args`."
        raise UserError(msg)
    return recipe


def _change(recipe: dict[str, Any], later: dict[str, Any]) -> None:
    """Put the sections of a later file over those of a recipe; another class brings its own options alone."""
    for section, options in later.items():
        old = recipe.get(section)
        if not isinstance(old, dict) or not isinstance(options, dict):
            recipe[section] = options
        elif "init_args" not in options or old.get("class_path") != options.get("class_path", old.get("class_path")):
            recipe[section] = options if "class_path" in options else old | options
        else:
            recipe[section] = old | {"init_args": (old.get("init_args") or {}) | options["init_args"]}


def _check_names(model: dict[str, Any], trainer: dict[str, Any]) -> None:
    """Check that model and trainer have the options that are given; parts and data check theirs as they are built.

    Raises:
        UserError: If one is unknown.
    """
    import inspect

    from lightning.pytorch import Trainer

    from speechllm.models.base import SpeechToText
    from speechllm.models.speech_llm import SpeechLLM

    allowed = set(inspect.signature(SpeechToText).parameters) | set(inspect.signature(SpeechLLM).parameters)
    for section, options, known in (
        ("model", model, allowed - {"self", "options", "kwargs"}),
        ("trainer", trainer, set(inspect.signature(Trainer).parameters)),
    ):
        for name in options:
            if name not in known:
                msg = (
                    f"Unknown option '{section}.{name}'.{did_you_mean(name, known)} `speechllm fit --help` lists them."
                )
                raise UserError(msg)


def workload(recipe: PlannedRecipe) -> tuple["Workload", str]:
    """Return what a recipe trains on, and where that is known from."""
    from speechllm.models.sizing.planning import CLIP_S, Workload

    options = {**DATA_DEFAULTS, **recipe.data.get("init_args", {})}
    durations, hours, source = _durations(recipe.data)
    devices = recipe.trainer.get("devices", 1)
    parts = [options, *(part.get("init_args", {}) for part in options.get("parts", []))]
    longest = max(durations) if hours is not None else max(part.get("max_duration_s", 0.0) for part in parts)
    work = Workload(
        durations_s=durations or [CLIP_S],
        batch_seconds=float(options["batch_seconds"]),
        max_utterances=int(options["max_utterances"]),
        longest_s=float(longest or LONGEST_S),
        hours=hours,
        devices=devices if isinstance(devices, int) and devices > 0 else 1,
        accumulated=int(recipe.trainer.get("accumulate_grad_batches", 1)),
        steps=recipe.trainer.get("max_steps"),
    )
    return work, source


def _durations(data: dict[str, Any]) -> tuple[list[float], float | None, str]:
    """Return durations of training rows, their hours, and where both are from."""
    from speechllm.models.sizing.planning import CLIP_S

    assumed = f"utterances of {CLIP_S:g} s are assumed"
    if "class_path" not in data:
        return [], None, f"{assumed}: the recipe names no data"
    build = parse_data(data)
    if "://" in json.dumps(data):
        return [], None, f"{assumed}: the data is not on this machine"
    try:
        rows = build().train_rows().rows
    except (UserError, OSError, ValueError) as error:
        reason = str(error).split(". ")[0].rstrip(".")
        return [], None, f"{assumed}: {reason[:1].lower()}{reason[1:]}"
    every = max(1, len(rows) // SAMPLED_ROWS)
    sample = [float(duration_s) for duration_s in rows.durations_s[::every]]
    hours = float(rows.durations_s.sum()) / 3600
    return sample, hours, f"{len(rows):,} rows of the recipe's manifests"


def parse_data(data: dict[str, Any]) -> Callable[[], Any]:
    """Check the options of the datamodule that a recipe names, and return what builds it, without preparing anything.

    Raises:
        UserError: If there is no such datamodule, or it does not take an option or a value.
    """
    from argparse import ArgumentError

    from jsonargparse import ArgumentParser

    from speechllm.data import datamodules
    from speechllm.data.base import SpeechDataModule

    known, name = datamodules(), str(data["class_path"])
    if "." not in name and name not in known:
        msg = f"Unknown datamodule '{name}'.{did_you_mean(name, known)} Known: {', '.join(sorted(known))}."
        raise UserError(msg)
    parser = ArgumentParser(exit_on_error=False)
    parser.add_subclass_arguments(SpeechDataModule, "data")
    try:
        given = {"class_path": name, "init_args": copy.deepcopy(data.get("init_args") or {})}  # parsing writes into it
        parsed = parser.parse_object({"data": given})
    except ArgumentError as error:
        raise UserError(_what_is_wrong(str(error), name, known)) from None
    return lambda: parser.instantiate_classes(parsed).data


def _what_is_wrong(error: str, name: str, known: Mapping[str, type]) -> str:
    """Return the line that says it, out of the parser's account of all that it tried."""
    import inspect

    if unknown := re.search(r"Option '([\w.]+)' is not accepted", error):
        allowed = {option for kind in known.values() for option in inspect.signature(kind).parameters}
        return (
            f"Unknown option 'data.{unknown[1]}'.{did_you_mean(unknown[1], allowed)} `speechllm fit --help` lists them."
        )
    if wrong := re.search(r'Parser key "([\w.]+)":\s+(Expected [^\n]*)', error.partition("\n")[2]):
        return f"`data.{wrong[1]}` cannot be what is given. {wrong[2]}"
    return f"The options of {name} cannot be read: {error}"
