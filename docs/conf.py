"""Sphinx configuration: Markdown pages by MyST, an executed tutorial, and a reference read from the package."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

from docutils import nodes
from package_tables import (
    check_tables,
    cleaner_table,
    command_table,
    corpus_tables,
    module_list,
    part_tables,
    recipe_tables,
)
from sphinx.addnodes import pending_xref
from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment

from speechllm import __version__

project = "speechllm"
author = "The speechllm authors"
version = release = __version__

extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
exclude_patterns = ["_build", "jupyter_execute"]
nitpicky = True
nitpick_ignore_regex = [
    # Types of other libraries: their inventories are on the network, which a build does not touch.
    (
        r"py:.*",
        r"(abc|array|collections|datetime|decimal|enum|fractions|inspect|os|pathlib|socket|threading|time)(\..*)?",
    ),
    (r"py:.*", r"(jsonargparse|lhotse|lightning|np|npt|numpy|sacrebleu|soundfile|tokenizers|torch)\..*"),
    # Type variables and aliases, which stand in signatures by their name alone.
    (
        r"py:.*",
        r"(speechllm\..*\.)?T|(speechllm\.registry\.)?Spec|Audio|Axes|DeviceMesh|Figure|MonoCut|NDArray|Tokenizer|(speechllm\..*\.)?(Item|Job|Result)",
    ),
    # Private names and constants without a docstring: docstrings may mention them, the reference does not list them.
    (r"py:.*", r"(.*\.)?_\w+"),
    (r"py:data", r"[A-Z_]+"),
]

myst_enable_extensions = ["colon_fence", "substitution"]
myst_heading_anchors = 3
myst_substitutions = part_tables() | module_list() | command_table() | recipe_tables()
myst_substitutions |= corpus_tables() | cleaner_table() | check_tables()

nb_execution_mode = "force"
nb_execution_timeout = 120
nb_execution_raise_on_error = True
nb_execution_in_temp = True
nb_output_stderr = "remove"  # progress bars and warnings of libraries; an exception still ends the build

autodoc_default_options = {"members": True, "show-inheritance": True, "member-order": "bysource"}
autodoc_typehints_format = "short"
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_use_ivar = False

html_theme = "furo"
html_title = f"speechllm {__version__}"
html_show_sourcelink = False


def resolve_short_name(
    app: Sphinx, env: BuildEnvironment, node: pending_xref, content: nodes.TextElement
) -> nodes.reference | None:
    """Resolve ``Adapter.forward`` to the one object of the package whose full name ends so, one of the module first."""
    if node.get("refdomain") != "py":
        return None
    domain = env.domains["py"]
    target = node["reftarget"]
    found = [name for name in domain.objects if name.endswith(f".{target}")]
    found = [name for name in found if name.startswith(f"{node.get('py:module')}.")] or found
    if len(found) != 1:
        return None
    node["reftarget"] = found[0]
    return domain.resolve_xref(env, node["refdoc"], app.builder, node["reftype"], found[0], node, content)


def keep_prose_whole(app: Sphinx, what: str, name: str, obj: object, options: object, lines: list[str]) -> None:
    """Keep napoleon from reading the words before a colon as a type: in this package types stand in annotations.

    It looks for one in the first line of a Returns section and of a variable's docstring, so that line is given an
    escaped space, which prints as nothing.
    """
    if "Returns:" in lines:
        lines.insert(lines.index("Returns:") + 1, "    \\ ")
    if what in ("data", "attribute", "property"):
        lines.insert(0, "\\ ")


def escape_types(app: Sphinx, what: str, name: str, obj: object, options: object, lines: list[str]) -> None:
    """Keep the underscore of ``numpy.str_`` from being read as a reference, where napoleon wrote it as a type."""
    lines[:] = [line.replace("numpy.str_]", "numpy.str\\_]") for line in lines]


def leave_out_tuple_fields(app: Sphinx, what: str, name: str, obj: object, skip: bool, options: object) -> bool | None:
    """Leave out the fields of named tuples: what ``Attributes`` says of them is there, and Python's own is a number."""
    return True if type(obj).__name__ == "_tuplegetter" else None


def show_factories(
    app: Sphinx, what: str, name: str, obj: object, options: object, signature: str | None, returns: str | None
) -> tuple[str | None, str | None]:
    """Write the default of a dataclass field with a factory as ``...``: ``<factory>`` is no Python."""
    return signature and signature.replace("<factory>", "..."), returns


def setup(app: Sphinx) -> None:
    """Register the resolver of short names and what is done to docstrings and signatures first."""
    app.connect("autodoc-skip-member", leave_out_tuple_fields)
    app.connect("autodoc-process-signature", show_factories)
    app.connect("autodoc-process-docstring", keep_prose_whole, priority=400)  # napoleon has 500
    app.connect("autodoc-process-docstring", escape_types, priority=600)
    app.connect("missing-reference", resolve_short_name)
