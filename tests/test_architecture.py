"""The shape of the package: imports point down only, files stay short, and loading the command line stays light.

The checker reads source text alone, so it sees every import, also those inside functions and those of files that
nothing loads. It is itself tested on small packages that break each rule.
"""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[1] / "speechllm"

BOTTOM = {
    "attention_masks",
    "audio",
    "audio_levels",
    "batch",
    "command_help",
    "costs",
    "durable_files",
    "errors",
    "feature_cache",
    "known_checkpoints",
    "languages",
    "lora",
    "predictions",
    "quantization",
    "random_weights",
    "recipe_files",
    "registry",
    "report",
    "talk_references",
    "tuning",
    "worker_pool",
}
PARTS = {"adapters", "decoders", "encoders", "fusions", "metrics"}
MAY_IMPORT = {
    "__main__": {"cli"},
    "cli": {"lightning_cli", "commands", "models", "data", "evaluation"} | PARTS | BOTTOM,
    "lightning_cli": {"models", "data", "evaluation"} | PARTS | BOTTOM,
    "commands": {"recipe_parser", "models", "data", "evaluation"} | PARTS | BOTTOM,
    "recipe_parser": {"lightning_cli", "models", "data"} | PARTS | BOTTOM,
    "models": {"evaluation"} | PARTS | BOTTOM,
    "evaluation": {"metrics"} | BOTTOM,
    "data": BOTTOM,
    **dict.fromkeys(PARTS, BOTTOM),
    **dict.fromkeys(BOTTOM, BOTTOM),
    "__init__": set(),
}
"""Layers and what each may import beside itself. A new module at the top level must be given its place here."""

LIGHTNING = {"lightning", "lightning_fabric", "pytorch_lightning"}
MAY_IMPORT_LIGHTNING = {"cli", "lightning_cli", "recipe_parser", "commands", "models", "data"}
HEAVY = {"lhotse", "torch", "torchaudio", "transformers"} | LIGHTNING
LIGHT_TO_LOAD = {"__init__", "__main__", "cli", "commands"}
FORBIDDEN_NAMES = re.compile(r"_*(utils?|helpers?|common)")
MAX_FILE_LINES = 400
MAX_FUNCTION_LINES = 60


def check_architecture(package: Path) -> list[str]:
    """Return one ``path:line: what must not be`` for each broken rule in a package, sorted."""
    modules = {module_name(path, package): path for path in package.rglob("*.py")}
    trees = {name: ast.parse(path.read_text(encoding="utf-8")) for name, path in modules.items()}
    found = []
    for name, path in modules.items():
        checks = (
            check_layers(name, trees),
            check_siblings(name, trees),
            check_lightning(name, trees),
            check_loading(name, trees),
            check_size(path, trees[name]),
            check_name(path, package),
        )
        shown = path.relative_to(package.parent).as_posix()
        found += [(shown, line, message) for check in checks for line, message in check]
    return [f"{path}:{line}: {message}" for path, line, message in sorted(set(found))]


def check_layers(name, trees):
    """Imports point down only."""
    layer, package = layer_of(name), name.split(".")[0]
    if layer not in MAY_IMPORT:
        yield 1, f"'{layer}' has no place among the layers; give it one in tests/test_architecture.py"
        return
    for line, target in imports(ast.walk(trees[name]), trees):
        if target.startswith("."):
            yield line, f"imports must be absolute, not '{target}'"
        elif target.startswith(f"{package}.") and layer_of(target) not in MAY_IMPORT[layer] | {layer}:
            yield line, f"{layer} must not import {layer_of(target)}"


def check_siblings(name, trees):
    """A part never imports another part of its kind; it may import files that register nothing."""
    if layer_of(name) not in PARTS:
        return
    for line, target in imports(ast.walk(trees[name]), trees):
        same_kind = target in trees and target != name and layer_of(target) == layer_of(name)
        if same_kind and (registers_a_part(trees[target]) or target.count(".") == 1):
            yield line, f"{name} must not import {target}, which registers a part"


def check_lightning(name, trees):
    """Encoders, fusions, adapters, decoders and metrics know nothing of Lightning."""
    for line, target in imports(ast.walk(trees[name]), trees):
        if target.split(".")[0] in LIGHTNING and layer_of(name) not in MAY_IMPORT_LIGHTNING:
            yield line, f"{layer_of(name)} must not import {target.split('.')[0]}"


def check_loading(name, trees):
    """Loading the command line loads no heavy library, not even by way of another module: ``--help`` is quick."""
    if layer_of(name) not in LIGHT_TO_LOAD:
        return
    for line, target in imports(when_loaded(trees[name]), trees):
        for library, chain in heavy_libraries(target, trees):
            yield line, f"{layer_of(name)} must not import {library} when it is loaded{chain}"


def check_size(path, tree):
    """A file is at most 400 lines long, a function at most 60 without its docstring."""
    lines = len(path.read_text(encoding="utf-8").splitlines())
    if lines > MAX_FILE_LINES:
        yield lines, f"the file has {lines} lines, more than {MAX_FILE_LINES}"
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            length = node.end_lineno - node.lineno + 1
            if ast.get_docstring(node) is not None:
                length -= node.body[0].end_lineno - node.body[0].lineno + 1
            if length > MAX_FUNCTION_LINES:
                yield node.lineno, f"the function {node.name} has {length} lines, more than {MAX_FUNCTION_LINES}"


def check_name(path, package):
    """A name says what is inside."""
    for part in path.relative_to(package).with_suffix("").parts:
        if FORBIDDEN_NAMES.fullmatch(part):
            yield 1, f"'{part}' says nothing about what is inside; name it after that"


def module_name(path, package):
    parts = path.relative_to(package.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" and len(parts) > 2 else parts)


def layer_of(name):
    """Return the second name of ``package.layer.module``; the package's own is ``__init__``."""
    return [*name.split("."), "__init__"][1]


def imports(nodes, trees):
    """Yield line and full name of each imported module; a relative import keeps its dots."""
    for node in nodes:
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            module = "." * node.level + (node.module or "")
            submodules = [f"{module}.{alias.name}" for alias in node.names]
            inside = [name for name in submodules if name in trees]
            yield from (
                (node.lineno, name) for name in (inside if len(inside) == len(submodules) else [module, *inside])
            )


def when_loaded(tree) -> Iterator[ast.AST]:
    """Yield the nodes that run when a module is loaded: no bodies of functions, nothing for type checkers alone."""
    waiting = list(tree.body)
    while waiting:
        node = waiting.pop()
        yield node
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            waiting += node.orelse
        elif not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            waiting += ast.iter_child_nodes(node)


def heavy_libraries(target, trees):
    """Yield each heavy library that loading ``target`` loads, with the way that leads there."""
    waiting, seen = [(target, "")], {target}
    while waiting:
        name, chain = waiting.pop()
        if name.split(".")[0] in HEAVY:
            yield name.split(".")[0], chain
        loaded = []
        if name in trees:
            loaded = [imported for _, imported in imports(when_loaded(trees[name]), trees)]
            if "pkgutil" in loaded:  # the package loads every file beside it
                loaded += [module for module in trees if module.startswith(f"{name}.")]
        if name.count(".") > 1:
            loaded.append(name.rsplit(".", 1)[0])
        for module in loaded:
            if module not in seen:
                seen.add(module)
                waiting.append((module, f"{chain} by way of {name}" if name in trees and not chain else chain))


def registers_a_part(tree):
    """Return whether a file holds a class with a decorator such as ``@ADAPTERS.register("conv")``."""
    decorators = [item for node in ast.walk(tree) if isinstance(node, ast.ClassDef) for item in node.decorator_list]
    return any(re.search(r"\b[A-Z]+\.register\(", ast.unparse(item)) for item in decorators)


def test_package_keeps_its_shape():
    found = check_architecture(PACKAGE)
    assert not found, "\n" + "\n".join(found)


def test_the_checker_sees_the_package():
    names = {module_name(path, PACKAGE) for path in PACKAGE.rglob("*.py")}
    assert {"speechllm.__init__", "speechllm.batch", "speechllm.metrics", "speechllm.metrics.bleu"} <= names
    tree = ast.parse((PACKAGE / "metrics" / "bleu.py").read_text(encoding="utf-8"))
    assert "speechllm.metrics.base" in {target for _, target in imports(ast.walk(tree), {})}
    assert registers_a_part(tree)


PKGUTIL_INIT = "import importlib\nimport pkgutil\nfor module in pkgutil.iter_modules(__path__, __name__):\n    pass\n"
CONV = '@ADAPTERS.register("conv")\nclass ConvAdapter:\n    pass\n'
BODY = "    x = 1\n"


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        (
            {"adapters/conv.py": "import os\n\nimport speechllm.models\n"},
            "adapters/conv.py:3: adapters must not import models",
        ),
        (
            {"adapters/a.py": "def f():\n    from speechllm.data.x import y\n"},
            "adapters/a.py:2: adapters must not import data",
        ),
        ({"models/a.py": "from speechllm.data import x\n"}, "models/a.py:1: models must not import data"),
        ({"data/a.py": "from speechllm.models import x\n"}, "data/a.py:1: data must not import models"),
        (
            {"data/a.py": "from speechllm import encoders\n", "encoders/__init__.py": ""},
            "data/a.py:1: data must not import encoders",
        ),
        ({"encoders/a.py": "from speechllm.fusions.x import y\n"}, "encoders/a.py:1: encoders must not import fusions"),
        ({"batch.py": "from speechllm.metrics import base\n"}, "batch.py:1: batch must not import metrics"),
        ({"commands/a.py": "import speechllm.cli\n"}, "commands/a.py:1: commands must not import cli"),
        ({"__init__.py": "from speechllm.batch import B\n"}, "__init__.py:1: __init__ must not import batch"),
        ({"data/a.py": "from . import b\n"}, "data/a.py:1: imports must be absolute, not '.'"),
        ({"data/a.py": "from ..models import b\n"}, "data/a.py:1: imports must be absolute, not '..models'"),
        (
            {"extra.py": ""},
            "extra.py:1: 'extra' has no place among the layers; give it one in tests/test_architecture.py",
        ),
        (
            {"adapters/conv.py": CONV, "adapters/a.py": "from speechllm.adapters.conv import ConvAdapter\n"},
            "adapters/a.py:1: speechllm.adapters.a must not import speechllm.adapters.conv, which registers a part",
        ),
        (
            {
                "adapters/conv.py": CONV,
                "adapters/a.py": "from speechllm.adapters import base, conv\n",
                "adapters/base.py": "",
            },
            "adapters/a.py:1: speechllm.adapters.a must not import speechllm.adapters.conv, which registers a part",
        ),
        (
            {"encoders/a.py": "def f():\n    import lightning.pytorch\n"},
            "encoders/a.py:2: encoders must not import lightning",
        ),
        ({"batch.py": "from lightning import x\n"}, "batch.py:1: batch must not import lightning"),
        ({"__init__.py": "import torch\n"}, "__init__.py:1: __init__ must not import torch when it is loaded"),
        ({"cli.py": "import torch.nn\n"}, "cli.py:1: cli must not import torch when it is loaded"),
        (
            {"commands/a.py": "try:\n    import lhotse\nexcept E:\n    pass\n"},
            "commands/a.py:2: commands must not import lhotse when it is loaded",
        ),
        (
            {
                "cli.py": "from speechllm.report import r\n",
                "report.py": "import speechllm.batch\n",
                "batch.py": "import torch\n",
            },
            "cli.py:1: cli must not import torch when it is loaded by way of speechllm.report",
        ),
        (
            {"cli.py": "import speechllm.data\n", "data/__init__.py": PKGUTIL_INIT, "data/a.py": "import lhotse\n"},
            "cli.py:1: cli must not import lhotse when it is loaded by way of speechllm.data",
        ),
        (
            {"cli.py": "import speechllm.data.b\n", "data/__init__.py": "import lhotse\n", "data/b.py": ""},
            "cli.py:1: cli must not import lhotse when it is loaded by way of speechllm.data.b",
        ),
        ({"data/utils.py": ""}, "data/utils.py:1: 'utils' says nothing about what is inside; name it after that"),
        (
            {"data/helpers/a.py": ""},
            "data/helpers/a.py:1: 'helpers' says nothing about what is inside; name it after that",
        ),
        ({"data/_common.py": ""}, "data/_common.py:1: '_common' says nothing about what is inside; name it after that"),
        ({"data/a.py": "x = 1\n" * 401}, "data/a.py:401: the file has 401 lines, more than 400"),
        ({"data/a.py": "def f():\n" + BODY * 60}, "data/a.py:1: the function f has 61 lines, more than 60"),
    ],
)
def test_the_checker_finds_a_broken_rule(tmp_path, files, expected):
    write_package(tmp_path / "speechllm", files)
    assert check_architecture(tmp_path / "speechllm") == [f"speechllm/{expected}"]


@pytest.mark.parametrize(
    "files",
    [
        {
            "adapters/a.py": "import torch\nfrom speechllm.adapters import base, stages\nimport speechllm.batch\n",
            "adapters/base.py": "",
            "adapters/stages.py": "",
        },
        {
            "models/a.py": "import lightning\nimport speechllm.encoders\nfrom speechllm.models.b import c\n",
            "models/b.py": "",
        },
        {"commands/a.py": "def f():\n    import lightning\n    import speechllm.data\n    import speechllm.models\n"},
        {"cli.py": "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import torch\n"},
        {
            "cli.py": "from speechllm import __version__\nfrom speechllm.report import r\n",
            "report.py": "def f():\n    import torch\n",
        },
        {"__main__.py": "from speechllm.cli import main\n", "cli.py": ""},
        {"data/a.py": "x = 1\n" * 400},
        {"data/a.py": 'def f():\n    """A\n\n    b.\n    """\n' + BODY * 59},
        {"data/commonvoice.py": ""},
    ],
)
def test_the_checker_lets_good_code_pass(tmp_path, files):
    write_package(tmp_path / "speechllm", files)
    assert check_architecture(tmp_path / "speechllm") == []


def write_package(package, files):
    for name, text in ({"__init__.py": '__version__ = "0"\n'} | files).items():
        (package / name).parent.mkdir(parents=True, exist_ok=True)
        (package / name).write_text(text, encoding="utf-8")
