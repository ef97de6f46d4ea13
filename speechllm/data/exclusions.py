"""The list of utterances that training leaves out: a tab-separated file of split, id and reason.

``speechllm prepare --check`` writes one. It can be edited, and lists can be joined as they are: a second header is
passed over, and an utterance may be named twice. Only ``train`` loses utterances: scores of a smaller test set would
not compare with others.
"""

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from speechllm.data.index import id_hash
from speechllm.data.manifest import open_manifest, replacing
from speechllm.data.reading.text_files import read_lines
from speechllm.errors import UserError, did_you_mean

EXCLUSIONS = "exclude.tsv"
"""Name of the list beside the manifests that it belongs to."""

COLUMNS = ("split", "id", "reason")

EXCLUDABLE = ("train",)
"""Splits that a list may name."""

Exclusions = dict[tuple[str, str], str]
"""Reason by split and id."""


def read_exclusions(path: Path) -> Exclusions:
    """Return the reason of each split and id in a list, in the list's order; of one named twice, the first.

    A file of the header alone is an empty list.

    Raises:
        UserError: If the file cannot be read, its header is another one, or a row has not three fields, no id, or a
            split that keeps its size; the message names the file and the line.
    """
    header, *rows = [line.rstrip("\r").removeprefix("\ufeff") for line in read_lines(Path(path))] or [""]
    if header.split("\t") != list(COLUMNS):
        msg = (
            f"{path}, line 1: a list of exclusions begins with the columns {', '.join(COLUMNS)}, divided by tabs, and "
            f"not with '{header[:80]}'. `speechllm prepare --check` writes one."
        )
        raise UserError(msg)
    found: Exclusions = {}
    for number, row in enumerate(rows, start=2):
        if not row or row == header:
            continue
        fields = row.split("\t")
        if len(fields) != len(COLUMNS) or not fields[1]:
            msg = f"{path}, line {number}: a row needs a split, an id and a reason divided by tabs; got '{row[:80]}'."
            raise UserError(msg)
        split, name, reason = fields
        if split not in EXCLUDABLE:
            msg = (
                f"{path}, line {number}: the split is '{split}'.{did_you_mean(split, EXCLUDABLE)} Only utterances of "
                f"{' and '.join(EXCLUDABLE)} can be left out; a test set keeps its size, so that its scores compare."
            )
            raise UserError(msg)
        found.setdefault((split, name), reason)
    return found


def write_exclusions(path: Path, exclusions: Mapping[tuple[str, str], str]) -> None:
    """Write a list of exclusions, whole or not at all, over what is there.

    Args:
        path: The file.
        exclusions: Reason by split and id.

    Raises:
        UserError: If the file cannot be written, or a split, id or reason cannot stand in it.
    """
    rows = [COLUMNS, *((split, name, " ".join(reason.split())) for (split, name), reason in exclusions.items())]
    for split, name, _ in rows[1:]:
        if split not in EXCLUDABLE or not listable(name):
            msg = (
                f"'{path}' cannot hold '{name}' of '{split}': only {' and '.join(EXCLUDABLE)} loses utterances, and an "
                "id must be without tabs and line ends."
            )
            raise UserError(msg)
    content = "".join("\t".join(row) + "\n" for row in rows)
    try:
        with replacing(Path(path)) as partial:
            partial.write_bytes(content.encode("utf-8"))
    except OSError as error:
        msg = f"Cannot write '{path}': {error}. Name a file in a folder that you can write to."
        raise UserError(msg) from error


def listable(name: str) -> bool:
    """Return whether an id can stand in a list: it is not empty, and breaks neither a field nor a line."""
    try:
        name.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return bool(name) and not set(name) & set("\t\n\r")


def install_exclusions(path: Path, folder: Path) -> str:
    """Put a list beside the manifests that it belongs to, where training finds it.

    Args:
        path: The list.
        folder: Folder of the manifests.

    Returns:
        What was done, in a sentence.

    Raises:
        UserError: If the list or the manifest of ``train`` cannot be read, or none of the list's ids is in it.
    """
    exclusions = read_exclusions(path)
    known = open_manifest(folder, "train").index.ids
    named = [name for _, name in exclusions]
    there = np.isin(np.array([id_hash(name) for name in named], dtype=np.uint64), known)
    unknown = [name for name, found in zip(named, there, strict=True) if not found]
    if unknown and len(unknown) == len(named):
        msg = (
            f"None of the {len(named):,} ids in '{path}' is in the manifest of train in '{folder}'; the first is "
            f"'{named[0]}'. Is it the list of another corpus?"
        )
        raise UserError(msg)
    write_exclusions(folder / EXCLUSIONS, exclusions)
    note = f" {len(unknown):,} more of the list are not there, such as '{unknown[0]}'." if unknown else ""
    return f"{len(named) - len(unknown):,} of {len(known):,} utterances of train will be left out.{note}"
