"""What the reference says about registered parts and modules, read from the package when the pages are built."""

import inspect
import pkgutil
import re
from dataclasses import fields
from types import ModuleType
from typing import Any

import docstring_parser

import speechllm
import speechllm.adapters
import speechllm.data
import speechllm.data.augmentation
import speechllm.data.corpora
import speechllm.data.doctor
import speechllm.data.reading
import speechllm.decoders
import speechllm.encoders
import speechllm.evaluation
import speechllm.evaluation.comparison
import speechllm.evaluation.page
import speechllm.feature_cache
import speechllm.fusions
import speechllm.metrics
import speechllm.models
import speechllm.models.publishing
import speechllm.models.resuming
import speechllm.models.sizing
import speechllm.models.watching
from speechllm.cli import COMMANDS
from speechllm.commands.prepare import corpora, corpus_options
from speechllm.commands.zoo import as_yaml, catalogue, part_options, registries
from speechllm.data.doctor.rules import REASONS, Thresholds
from speechllm.data.reading.text import CLEANERS
from speechllm.registry import Registry

REGISTRIES = registries()
PACKAGES = (
    speechllm.encoders,
    speechllm.feature_cache,
    speechllm.fusions,
    speechllm.adapters,
    speechllm.decoders,
    speechllm.metrics,
    speechllm.evaluation,
    speechllm.evaluation.comparison,
    speechllm.evaluation.page,
    speechllm.models,
    speechllm.models.publishing,
    speechllm.models.resuming,
    speechllm.models.sizing,
    speechllm.models.watching,
    speechllm.data,
    speechllm.data.corpora,
    speechllm.data.reading,
    speechllm.data.doctor,
    speechllm.data.augmentation,
)


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


def corpus_tables() -> dict[str, str]:
    """Return a Markdown section a corpus with its options, one's own table first."""
    by_module = {found.__module__.rpartition(".")[2]: found for found in speechllm.data.datamodules().values()}
    names = sorted(corpora(), key=lambda name: (name != "table", name))
    return {"corpora_table": "\n".join(_corpus(name, by_module[name]) for name in names)}


def cleaner_table() -> dict[str, str]:
    """Return a table of the cleaners of transcripts, in the order in which they are applied."""
    rows = [
        f"| `{name}` | {_markdown((cleaner.__doc__ or '').split(chr(10))[0])} |" for name, cleaner in CLEANERS.items()
    ]
    return {"cleaners_table": "\n".join(["| cleaner | what it does |", "|---|---|", *rows])}


def check_tables() -> dict[str, str]:
    """Return a table of what `speechllm prepare --check` finds, and one of its limits."""
    reasons = [f"| {reason} | {severity} | {_markdown(meaning)} |" for reason, (severity, meaning) in REASONS.items()]
    meanings = _meanings(Thresholds)
    limits = [
        f"| `{limit.name}` | {limit.default} | {_markdown(meanings[limit.name])} |" for limit in fields(Thresholds)
    ]
    return {
        "check_reasons_table": "\n".join(["| reason | severity in `train` | meaning |", "|---|---|---|", *reasons]),
        "check_limits_table": "\n".join(["| limit | default | meaning |", "|---|---|---|", *limits]),
    }


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


def _corpus(name: str, datamodule: type[Any]) -> str:
    meanings, settles = _meanings(datamodule), corpus_options(datamodule)
    heading = f"{_markdown(corpora()[name])} ({{py:mod}}`speechllm.data.corpora.{name}`)"
    lines = [f"### `{name}`", "", f"`{datamodule.__name__}`. {heading}", ""]
    lines += ["| option | type | default | meaning |", "|---|---|---|---|"]
    for option in inspect.signature(datamodule).parameters.values():
        if option.name in meanings and option.kind is not option.VAR_KEYWORD:
            default = "required" if option.default is option.empty else f"`{as_yaml(option.default)}`"
            kind = inspect.formatannotation(option.annotation).replace("|", "\\|")
            shown = f"`{option.name}`" if option.name in ("root", *settles) else f"`{option.name}` (recipes)"
            lines.append(f"| {shown} | `{kind}` | {default} | {_markdown(meanings[option.name])} |")
    return "\n".join([*lines, ""])


def _meanings(described: type[Any]) -> dict[str, str]:
    """Return what a class's docstring says of each argument or attribute."""
    return {entry.arg_name: entry.description or "" for entry in docstring_parser.parse(described.__doc__ or "").params}


def _markdown(text: str) -> str:
    """Return reStructuredText of one paragraph as Markdown of one table cell."""
    text = re.sub(r":\w+:`~?([^`]*)`", r"`\1`", text)
    return " ".join(text.replace("|", "\\|").split())


def _modules(package: ModuleType) -> str:
    names = [module.name for module in pkgutil.iter_modules(package.__path__) if not module.ispkg]
    sections = [
        f"### `{package.__name__}.{name}`\n\n```{{eval-rst}}\n.. automodule:: {package.__name__}.{name}\n```\n"
        for name in sorted(names, key=lambda name: (name != "base", name))
    ]
    own = f"```{{eval-rst}}\n.. automodule:: {package.__name__}\n   :no-members:\n```\n"
    return "\n".join([own, *sections])
