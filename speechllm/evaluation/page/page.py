"""The page itself: one HTML file with style, program and data inside, which asks nothing of a network."""

import base64
import hashlib
import html
import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from speechllm.errors import UserError, did_you_mean
from speechllm.evaluation.page.clips import copy_clips, link_clips
from speechllm.evaluation.page.rows import Content, make_content, match_rows
from speechllm.evaluation.systems import System

NAME = "utterances.html"
"""Name of the page."""

SCRIPTS = ("rows.js", "filters.js", "player.js", "draw.js", "page.js")
"""Parts of the program, in the order in which they build on each other."""

TEMPLATES = Path(__file__).parent


def write_page(
    folder: Path,
    systems: Sequence[System],
    specs: Sequence[Mapping[str, Any]],
    baseline: str | None = None,
    copy_audio: bool = False,
) -> Path:
    """Write the page on which utterances of several systems are read, compared and heard.

    Args:
        folder: Folder to write ``utterances.html`` to; made where it is missing.
        systems: Systems that were tested on the same utterances, matched by corpus, split, languages, text and id.
        specs: Metric specs; :func:`speechllm.evaluation.page.measures.measure` says which are shown.
        baseline: Name of the system that differences are to at first, with its group (``large/conv``) where several
            have the name; the first system where it is not given.
        copy_audio: Whether to cut the utterances out of their recordings into ``clips/`` beside the page, so that the
            folder can be sent. If not, the page plays the original files, by their way from the page.

    Returns:
        Path of the page. It appears when it is complete.

    Raises:
        UserError: If there is no system or no such baseline, or a metric cannot be built.
    """
    if not systems:
        msg = "A page needs at least one system to show."
        raise UserError(msg)
    names = _names(systems)
    first = _find_baseline(systems, names, baseline)
    folder.mkdir(parents=True, exist_ok=True)
    rows = match_rows(systems)
    clips = (copy_clips if copy_audio else link_clips)(folder, [row.prediction for row in rows])
    content = make_content(systems, specs, rows, clips)
    content.head |= {"systems": names, "baseline": first}
    path = folder / NAME
    partial = folder / f".{NAME}.{os.getpid()}.partial"
    try:
        # backslashreplace writes half a surrogate pair, which UTF-8 has no bytes for, as the JSON escape that it is.
        with partial.open("w", encoding="utf-8", errors="backslashreplace", newline="\n") as file:
            file.writelines(_page(content))
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
    return path


def _names(systems: Sequence[System]) -> list[str]:
    return [f"{system.group}/{system.name}" if system.group else system.name for system in systems]


def _find_baseline(systems: Sequence[System], names: Sequence[str], baseline: str | None) -> int:
    if baseline is None:
        return 0
    for known in (names, [system.name for system in systems]):
        if baseline in known:
            return known.index(baseline)
    hint = did_you_mean(baseline, names)
    msg = f"There is no system '{baseline}' to be the baseline.{hint} Systems: {', '.join(names)}."
    raise UserError(msg)


def _page(content: Content) -> Iterator[str]:
    """Yield the template, each place in it filled; what fills one is not searched for places again."""
    style = _read("page.css")
    script = "\n".join(_read(name) for name in SCRIPTS)
    policy = (
        f"default-src 'none'; style-src {_hash(style)}; script-src {_hash(script)}; "
        "media-src 'self' file:; base-uri 'none'; form-action 'none'"
    )
    title = f"Utterances of {', '.join(content.head['systems'])}"
    parts = re.split(r"\{\{(\w+)\}\}", _read("page.html"))
    for number, part in enumerate(parts):
        if number % 2 == 0:
            yield part
        elif part == "data":
            yield from _data(content)
        else:
            yield {"style": style, "script": script, "policy": policy, "title": html.escape(title)}[part]


def _read(name: str) -> str:
    return (TEMPLATES / name).read_text(encoding="utf-8")


def _hash(text: str) -> str:
    """Return the source expression of a content security policy that allows this text, and nothing else, to run."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def _data(content: Content) -> Iterator[str]:
    yield f'{{"head":{_json(content.head)},\n"rows":['
    for number, row in enumerate(content.rows):
        yield f"{',' if number else ''}\n{_json(row)}"
    yield "]}"


def _json(value: Any) -> str:
    """Return JSON that can stand inside an element ``script``: no text in it ends the element or begins a comment."""
    text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace("\u2028", "\\u2028").replace("\u2029", "\\u2029")
