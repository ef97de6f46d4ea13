"""The lists of a corpus that comes as one or several files a split: named by the user, or found by their names."""

import os
from collections.abc import Sequence
from pathlib import Path

from speechllm.errors import UserError

SPLITS = ("train", "dev", "test")


def find_splits(
    root: Path, given: dict[str, str | list[str] | None], names: Sequence[str], what: str
) -> dict[str, list[Path]]:
    """Return the files of each split that has any.

    Args:
        root: Folder that files are named from.
        given: Files of each split as the user named them; None to look for them.
        names: File names to look for, with ``{split}`` for the split and ``*`` for anything; those of a split that are
            found must be one.
        what: What the files are called in messages: ``"table"``.

    Raises:
        UserError: If there is none, one that was named is missing, or several have the name of one split.
    """
    found = {split: find_files(root, split, given.get(split), names, what) for split in SPLITS}
    if not any(found.values()):
        looked_for = ", ".join(name.format(split="<split>") for name in names)
        msg = (
            f"No {what} in '{root}': looked for {looked_for}, where <split> is {', '.join(SPLITS)}. {_holds(root)} "
            f"Name the {what}s: `train`, `dev`, `test`."
        )
        raise UserError(msg)
    return {split: files for split, files in found.items() if files}


def find_files(root: Path, split: str, given: str | list[str] | None, names: Sequence[str], what: str) -> list[Path]:
    """Return the files of one split, none where there are none; see :func:`find_splits`.

    Raises:
        UserError: If a file that was named is missing, or several have the name of the split.
    """
    if given:
        files = [root / name for name in ([given] if isinstance(given, str) else given)]
        for file in files:
            if not os.path.isfile(file):
                msg = f"The {what} of `{split}`, '{file}', does not exist. {what.capitalize()}s are named from `root`."
                raise UserError(msg)
        return files
    found = sorted({path for name in names for path in root.glob(name.format(split=split)) if path.is_file()})
    if len(found) > 1:
        listed = ", ".join(f"'{path.name}'" for path in found)
        msg = f"'{root}' has several {what}s of the split {split}: {listed}. Say which: `{split}`."
        raise UserError(msg)
    return found


def _holds(folder: Path) -> str:
    if not folder.is_dir():
        return "No such folder."
    return f"It holds: {', '.join(sorted(path.name for path in folder.iterdir())[:10]) or 'nothing'}."
