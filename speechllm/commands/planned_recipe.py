"""A recipe as ``speechllm plan`` and ``speechllm bench`` read it: its file, what is set over it, and its data."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from speechllm.errors import UserError

if TYPE_CHECKING:
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


def read_recipe(given: str, overrides: dict[str, Any]) -> PlannedRecipe:
    """Read a recipe by path or by the name of a packaged one.

    Args:
        given: Path or name.
        overrides: Values by dotted name, ``model.adapter.layers``, that stand over those of the file.

    Raises:
        UserError: If there is no such recipe, or it has no model.
    """
    import yaml

    from speechllm.recipe_files import resolve_recipes

    path = Path(resolve_recipes(["--config", given])[1])
    if not path.is_file():
        msg = f"There is no recipe '{given}'. `speechllm zoo recipes` lists those that come with the package."
        raise UserError(msg)
    recipe = yaml.safe_load(path.read_text(encoding="utf-8"))
    if not isinstance(recipe, dict) or "init_args" not in (recipe.get("model") or {}):
        msg = f"'{path}' is no recipe: it has no `model` with `init_args`."
        raise UserError(msg)
    for name, value in overrides.items():
        section, *keys = [key for key in name.split(".") if key != "init_args"]
        place = recipe.setdefault(section, {})
        place = place if section == "trainer" else place.setdefault("init_args", {})
        for key in keys[:-1]:
            place = place.setdefault(key, {})
        place[keys[-1]] = value
    name = given.removesuffix(".yaml").removeprefix("recipes/")
    return PlannedRecipe(name, recipe["model"]["init_args"], recipe.get("data") or {}, recipe.get("trainer") or {})


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

    assumed = f"assumed: utterances of {CLIP_S:g} s"
    if "class_path" not in data:
        return [], None, f"{assumed}; the recipe names no data"
    if "://" in json.dumps(data):
        return [], None, f"{assumed}; the data is not on this machine"
    try:
        rows = open_data(data).train_rows().rows
    except (UserError, OSError, ValueError) as error:
        return [], None, f"{assumed}; no manifests to read ({str(error).split('. ')[0].rstrip('.')})"
    every = max(1, len(rows) // SAMPLED_ROWS)
    sample = [float(duration_s) for duration_s in rows.durations_s[::every]]
    hours = float(rows.durations_s.sum()) / 3600
    return sample, hours, f"{len(rows):,} rows of the recipe's manifests"


def open_data(data: dict[str, Any]) -> Any:
    """Build the datamodule that a recipe names, without preparing anything."""
    from jsonargparse import ArgumentParser

    from speechllm.data import datamodules
    from speechllm.data.base import SpeechDataModule

    datamodules()
    parser = ArgumentParser(exit_on_error=False)
    parser.add_subclass_arguments(SpeechDataModule, "data")
    parsed = parser.parse_object({"data": {"class_path": data["class_path"], "init_args": data.get("init_args", {})}})
    return parser.instantiate_classes(parsed).data
