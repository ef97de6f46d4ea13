"""What the reference says about registered parts and modules, read from the package when the pages are built."""

import inspect
import pkgutil
import re
from types import ModuleType
from typing import Any

import docstring_parser

import speechllm
import speechllm.adapters
import speechllm.data
import speechllm.decoders
import speechllm.encoders
import speechllm.fusions
import speechllm.metrics
import speechllm.models
from speechllm.cli import COMMANDS
from speechllm.commands.zoo import as_yaml, catalogue, part_options, registries
from speechllm.registry import METRICS, Registry

REGISTRIES = registries() | {"metrics": METRICS}
PACKAGES = (
    speechllm.encoders,
    speechllm.fusions,
    speechllm.adapters,
    speechllm.decoders,
    speechllm.metrics,
    speechllm.models,
    speechllm.data,
)
BEHIND_SYNTHETIC = {"espeak", "grammar", "inflection", "lexicon", "sentence_patterns", "synthetic_voices"}
"""Modules that only the synthetic corpus uses."""


def part_tables() -> dict[str, str]:
    """Return, for each kind of part, a Markdown section a part with its options."""
    return {
        f"{kind}_table": "\n".join(_part(registry, name) for name in registry.names())
        for kind, registry in REGISTRIES.items()
    }


def command_table() -> dict[str, str]:
    """Return a table of the command line's commands."""
    rows = [
        f"| `{name}` | {text.replace('--ckpt_path last', '`--ckpt_path last`')} |" for name, text in COMMANDS.items()
    ]
    return {"commands_table": "\n".join(["| command | what it does |", "|---|---|", *rows])}


def recipe_tables() -> dict[str, str]:
    """Return a table of the recipes of each folder, and one of those in none, in the words of `speechllm zoo`."""
    folders: dict[str, list[str]] = {}
    for name, what in catalogue()["recipes"].items():
        folder = name.rpartition("/")[0] or "top"
        folders.setdefault(folder, ["| recipe | what it is |", "|---|---|"]).append(f"| `{name}` | {_markdown(what)} |")
    return {f"recipes_{folder}_table": "\n".join(lines) for folder, lines in folders.items()}


def module_list() -> dict[str, str]:
    """Return, for each package, the directives that document its modules."""
    return {f"{package.__name__.split('.')[-1]}_modules": _modules(package) for package in PACKAGES}


def _part(registry: Registry[Any], name: str) -> str:
    part = registry.get(name)
    options = part_options(registry, name)
    summary = docstring_parser.parse(part.__doc__ or "").short_description or ""
    lines = [f"### `{name}`", "", f"{_markdown(summary)} ({{py:class}}`~{part.__module__}.{part.__qualname__}`)", ""]
    if not options:
        return "\n".join([*lines, "No options.", ""])
    lines += ["| option | type | default | meaning |", "|---|---|---|---|"]
    for option in options:
        default = "required" if option.default is inspect.Parameter.empty else f"`{as_yaml(option.default)}`"
        kind = option.type.replace("|", "\\|")
        lines.append(f"| `{option.name}` | `{kind}` | {default} | {_markdown(option.meaning)} |")
    return "\n".join([*lines, ""])


def _markdown(text: str) -> str:
    """Return reStructuredText of one paragraph as Markdown of one table cell."""
    text = re.sub(r":\w+:`~?([^`]*)`", r"`\1`", text)
    return " ".join(text.replace("|", "\\|").split())


def _modules(package: ModuleType) -> str:
    names = [module.name for module in pkgutil.iter_modules(package.__path__) if module.name not in BEHIND_SYNTHETIC]
    sections = [
        f"### `{package.__name__}.{name}`\n\n```{{eval-rst}}\n.. automodule:: {package.__name__}.{name}\n```\n"
        for name in sorted(names, key=lambda name: (name != "base", name))
    ]
    own = f"```{{eval-rst}}\n.. automodule:: {package.__name__}\n   :no-members:\n```\n"
    return "\n".join([own, *sections])
