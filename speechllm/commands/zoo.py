"""``speechllm zoo``: the catalogue of parts, metrics, prompt styles and recipes."""

import inspect
import json
import re
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from speechllm.errors import UserError, did_you_mean

WIDTH = 120


@dataclass(frozen=True)
class Option:
    """An option of a part, as a recipe may give it.

    Attributes:
        name: Its name.
        type: Its annotation.
        default: Its default; ``inspect.Parameter.empty`` where it must be given.
        meaning: What the docstring says about it, in reStructuredText.
    """

    name: str
    type: str
    default: Any
    meaning: str


def zoo(name: str | None = None, copy: str | None = None, out: Path | None = None) -> None:
    """List encoders, fusions, adapters, decoders, metrics, prompt styles and recipes, or describe one of them.

    Args:
        name: A kind (encoders, fusions, adapters, decoders, metrics, prompts, recipes) to list, or the name of a part
            or recipe to describe with its options, defaults and figures; everything is listed where not given.
        copy: Recipe to write out as a file of your own to edit.
        out: File or folder that the copy is written to; <name>.yaml where not given.

    Raises:
        UserError: If nothing has that name, or the copy's file exists.
    """
    if copy is not None:
        print(f"Wrote {copy_recipe(copy, out)}")
        return
    if out is not None:
        msg = "`--out` says where a copy goes: give `--copy` the name of a recipe as well."
        raise UserError(msg)
    entries = catalogue()
    if name is None or name in entries:
        print(_listing({name: entries[name]} if name else entries))
        return
    found = [(kind, known) for kind, names in entries.items() for known in names if name in (known, Path(known).name)]
    if not found:
        names = [alias for names in entries.values() for known in names for alias in (known, Path(known).name)]
        msg = (
            f"The zoo has no '{name}'.{did_you_mean(name, [*entries, *names])} `speechllm zoo` lists everything; "
            f"its kinds are: {', '.join(entries)}."
        )
        raise UserError(msg)
    print("\n\n".join(_description(kind, known) for kind, known in found))


def copy_recipe(name: str, out: Path | None = None) -> Path:
    """Write a packaged recipe out as a file to edit, and return its path.

    Args:
        name: Name of the recipe.
        out: File, or folder to write into; the working folder where not given.

    Raises:
        UserError: If there is no such recipe, or the file exists.
    """
    from speechllm.recipe_files import find_recipe

    recipe = find_recipe(name)
    path = Path(recipe.name) if out is None else out / recipe.name if out.is_dir() else out
    if path.exists():
        msg = f"'{path}' exists and is not overwritten. Name another file with `--out`."
        raise UserError(msg)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(recipe.read_text(encoding="utf-8"), encoding="utf-8")
    return path


def catalogue() -> dict[str, dict[str, str]]:
    """Return, for each kind, the names and what each is in a line."""
    from docstring_parser import parse

    from speechllm.decoders.prompt_styles import STYLES
    from speechllm.recipe_files import recipes, summary

    entries = {
        kind: {name: _plain(parse(registry.get(name).__doc__ or "").short_description) for name in registry.names()}
        for kind, registry in registries().items()
    }
    entries["prompts"] = {name: _around(style) for name, style in STYLES.items()}
    entries["recipes"] = {name: summary(path) for name, path in recipes().items()}
    return entries


def registries() -> dict[str, Any]:
    """Return the registries of what stands between audio and text, and of metrics, by kind, with all registered."""
    import speechllm.adapters
    import speechllm.decoders
    import speechllm.encoders
    import speechllm.fusions
    import speechllm.metrics  # noqa: F401  # the five imports register the parts
    from speechllm.registry import ADAPTERS, DECODERS, ENCODERS, FUSIONS, METRICS

    return {
        "encoders": ENCODERS,
        "fusions": FUSIONS,
        "adapters": ADAPTERS,
        "decoders": DECODERS,
        "metrics": METRICS,
    }


def part_options(registry: Any, name: str) -> list[Option]:
    """Return the options of a registered part; a class that says nothing about one has its parent's words."""
    from docstring_parser import parse

    part = registry.get(name)
    meanings: dict[str, str] = {option: shared.meaning for option, shared in registry.shared.items()}
    for owner in part.__mro__:
        if owner.__module__.startswith("speechllm."):
            for entry in parse(owner.__doc__ or "").params:
                meanings.setdefault(entry.arg_name, entry.description or "")
    return [
        Option(
            option,
            inspect.formatannotation(parameter.annotation).replace("typing.", ""),
            parameter.default,
            meanings.get(option, ""),
        )
        for option, parameter in registry.options(name).items()
    ]


def as_yaml(value: Any) -> str:
    """Return a default as a recipe writes it."""
    import yaml

    return yaml.safe_dump(value, default_flow_style=True).removesuffix("\n").removesuffix("\n...")


def _listing(entries: dict[str, dict[str, str]]) -> str:
    width = max(len(name) for names in entries.values() for name in names)
    blocks = [
        "\n".join([kind, *(f"  {name:<{width}}  {what}" for name, what in names.items())])
        for kind, names in entries.items()
    ]
    return "\n\n".join(blocks)


def _description(kind: str, name: str) -> str:
    if kind == "recipes":
        from speechllm.recipe_files import recipes

        path = recipes()[name]
        return f"recipe {name} ({path})\n\n{path.read_text(encoding='utf-8')}".rstrip("\n")
    if kind == "prompts":
        return _describe_prompt(name)
    registry = registries()[kind]
    from docstring_parser import parse

    documentation = parse(registry.get(name).__doc__ or "")
    head = f"{registry.kind} {name}: {_plain(documentation.short_description)}"
    blocks = [head, _fill(documentation.long_description or ""), *_describe_options(registry, name)]
    blocks += _describe_figures(kind, name) if kind != "metrics" else ()
    return "\n\n".join(block for block in blocks if block)


def _describe_options(registry: Any, name: str) -> Iterator[str]:
    options = part_options(registry, name)
    if not options:
        yield "No options."
        return
    lines = ["options"]
    for option in options:
        required = option.default is inspect.Parameter.empty
        lines.append(f"  {option.name}: {'required' if required else as_yaml(option.default)}")
        lines.append(textwrap.indent(_fill(option.meaning, WIDTH - 6), "      "))
    yield "\n".join(lines)


def _describe_prompt(name: str) -> str:
    from speechllm.decoders.prompt_styles import STYLES

    style = STYLES[name]
    lines = [f"prompt style {name}: {_around(style)}", "", "instructions"]
    lines += [f"  {task}: {json.dumps(text)}" for task, text in style.instructions.items()]
    lines += ["", f"options: {', '.join(style.options) or 'none'}"]
    tokens = [("adds to the vocabulary", style.adds), ("needs in the vocabulary", style.needs)]
    lines += [f"{what}: {' '.join(names)}" for what, names in tokens if names]
    return "\n".join(lines)


def _describe_figures(kind: str, name: str) -> Iterator[str]:
    """Yield a table of what a part costs at the sizes of the recipes that name it."""
    from speechllm.commands.zoo_figures import figures
    from speechllm.report import format_table

    columns, rows = figures(kind, name)
    if rows:
        yield "at the sizes of the recipes\n\n" + textwrap.indent(format_table(rows, columns), "  ")


def _around(style: Any) -> str:
    """Return in a line what a prompt style puts around the speech."""
    if style.template is None:
        return "the tokenizer's chat template around {speech}, newline, {instruction}"
    return f"{style.bos or ''}{style.template}".replace("\n", "\\n")


def _plain(text: str | None) -> str:
    """Return reStructuredText of one paragraph as a line of plain text."""
    text = re.sub(r":\w+:`~?([^`]*)`", lambda role: role[1].rsplit(".", 1)[-1], text or "")
    return " ".join(text.replace("``", "").split())


def _fill(text: str, width: int = WIDTH) -> str:
    paragraphs = [_plain(paragraph) for paragraph in text.split("\n\n")]
    return "\n\n".join(textwrap.fill(paragraph, width) for paragraph in paragraphs)
