"""What a run has decoded so far, on disk, so that one that was stopped goes on."""

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TextIO

from speechllm.errors import UserError
from speechllm.predictions import Prediction, from_line, to_line


class Journal:
    """Predictions of a run that has not ended, a file a process, a line an utterance.

    Each file begins with a line that says what was decoded by what: only a run of the same identity goes on with it.
    Lines are written a batch at a time, and what was cut off when the run was stopped is left out.

    Args:
        folder: Folder of the files; nothing else stands in it.
        identity: What decoding depends on, by name: plain data, nested or not.
    """

    def __init__(self, folder: Path, identity: Mapping[str, Any]) -> None:
        self.folder = folder
        self.identity = dict(_flat(json.loads(json.dumps(identity, default=str))))
        self._file: TextIO | None = None

    def take_over(self) -> tuple[list[Prediction], list[str]]:
        """Read what earlier runs left, and put all of it into the file of the first process, which must call this.

        Returns:
            The predictions by row, and where the identity of what was found and had to be discarded differs.
        """
        found: dict[int, Prediction] = {}
        differences: list[str] = []
        paths = sorted(self.folder.glob("*.jsonl"))
        for path in paths:
            identity, predictions = _read(path)
            if identity == self.identity:
                found |= {prediction.row: prediction for prediction in predictions}
            elif predictions:
                differences += self._differences(identity)
        kept = [found[row] for row in sorted(found)]
        if paths:
            self._write_anew(kept)
            for path in set(paths) - {self._path(0)}:
                path.unlink()
        return kept, list(dict.fromkeys(differences))

    def open(self, rank: int) -> None:
        """Begin to write; on the first process after :meth:`take_over`, on the others after it has returned there."""
        self.folder.mkdir(parents=True, exist_ok=True)
        path = self._path(rank)
        goes_on = rank == 0 and path.is_file()
        # backslashreplace writes half a surrogate pair, which UTF-8 has no bytes for, as the JSON escape that it is.
        self._file = path.open("a" if goes_on else "w", encoding="utf-8", errors="backslashreplace", newline="\n")
        if not goes_on:
            self._file.write(self._head())
            self._file.flush()

    def append(self, predictions: Sequence[Prediction]) -> None:
        """Write the predictions of a batch; they outlive this process from then on."""
        if self._file is not None and predictions:
            self._file.write("".join(map(to_line, predictions)))
            self._file.flush()

    def close(self) -> None:
        """End writing; what is there stays."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def remove(self) -> None:
        """Delete the files; on the first process, when the results stand elsewhere and all have closed theirs."""
        for path in self.folder.glob("*.jsonl"):
            path.unlink(missing_ok=True)
        if self.folder.is_dir() and not any(self.folder.iterdir()):
            self.folder.rmdir()

    def _write_anew(self, predictions: Sequence[Prediction]) -> None:
        partial = self.folder / ".partial"
        with partial.open("w", encoding="utf-8", errors="backslashreplace", newline="\n") as file:
            file.write(self._head())
            file.writelines(map(to_line, predictions))
            file.flush()
            os.fsync(file.fileno())
        partial.replace(self._path(0))

    def _differences(self, other: Mapping[str, Any]) -> list[str]:
        names = [name for name in {**other, **self.identity} if other.get(name) != self.identity.get(name)]
        return [f"{name} (was {_short(other.get(name))}, is {_short(self.identity.get(name))})" for name in names]

    def _head(self) -> str:
        return json.dumps({"decoded_by": self.identity}, ensure_ascii=False) + "\n"

    def _path(self, rank: int) -> Path:
        return self.folder / f"{rank}.jsonl"


def _read(path: Path) -> tuple[dict[str, Any], list[Prediction]]:
    """Return identity and predictions of a file, up to the first line that is not whole."""
    lines = path.read_bytes().split(b"\n")[:-1]  # what no line feed ends was cut off
    try:
        identity = json.loads(lines[0])["decoded_by"]
    except (IndexError, KeyError, TypeError, ValueError):
        return {}, []
    predictions = []
    for row, line in enumerate(lines[1:], start=2):
        try:
            predictions.append(from_line(line, f"{path}, row {row}"))
        except UserError:
            break
    return identity, predictions


def _flat(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield nested settings by their dotted names, so that a message can name the one that differs."""
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def _short(value: object) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 40 else f"{text[:40]}…"
