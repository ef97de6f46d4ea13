"""Recipes by name: where those that come with the package lie, and what their headers say."""

import re
from pathlib import Path

from speechllm.errors import UserError, did_you_mean

CONFIG_OPTIONS = ("-c", "--config")
"""Options of the command line that take a recipe."""

_NAME = re.compile(r"[\w.-]+(/[\w.-]+)*")
_PACKAGED = Path(__file__).parent / "recipes"
_REPOSITORY = Path(__file__).parents[1] / "recipes"


def recipes() -> dict[str, Path]:
    """Return the packaged recipes by name: the path in their folder without its suffix, sorted.

    An installed package holds them itself; an editable one has them beside it. A file that bears the name of one in a
    deeper folder is that recipe under an older path, and is left out.
    """
    folder = _PACKAGED if _PACKAGED.is_dir() else _REPOSITORY
    by_stem = {path.stem: path for path in sorted(folder.rglob("*.yaml"), key=lambda path: len(path.parts))}
    return {name: path for name, path in sorted((_name(path, folder), path) for path in by_stem.values())}


def find_recipe(name: str) -> Path:
    """Return the packaged recipe called ``name``, with or without its folder.

    Raises:
        UserError: If there is none; the message gives the nearest name.
    """
    found = recipes()
    by_stem = {path.stem: path for path in found.values()}
    if name not in found and name not in by_stem:
        msg = (
            f"There is no file '{name}', and no packaged recipe of that name.{did_you_mean(name, [*by_stem, *found])} "
            f"`speechllm zoo recipes` lists them."
        )
        raise UserError(msg)
    return found.get(name) or by_stem[name]


def resolve_recipes(arguments: list[str]) -> list[str]:
    """Return a command line whose ``--config NAME`` is the path of that packaged recipe, unless there is such a file.

    Raises:
        UserError: If a name is neither.
    """
    resolved = list(arguments)
    for index, argument in enumerate(arguments):
        option, equals, value = argument.partition("=")
        if option in CONFIG_OPTIONS and equals:
            resolved[index] = f"{option}={_resolve(value)}"
        elif argument in CONFIG_OPTIONS and index + 1 < len(arguments):
            resolved[index + 1] = _resolve(arguments[index + 1])
    return resolved


def summary(recipe: Path) -> str:
    """Return the first line of a recipe's header: what it is."""
    with recipe.open(encoding="utf-8") as file:
        return file.readline().lstrip("# ").rstrip("\n")


def _resolve(value: str) -> str:
    is_name = _NAME.fullmatch(value) and Path(value).suffix not in (".yaml", ".yml", ".json")
    return str(find_recipe(value)) if is_name and not Path(value).is_file() else value


def _name(path: Path, folder: Path) -> str:
    return path.relative_to(folder).with_suffix("").as_posix()
