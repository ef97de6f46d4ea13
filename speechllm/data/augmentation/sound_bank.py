"""Audio files to draw from at random, such as noises or room impulse responses, from a folder, a list or a manifest."""

import gzip
import json
import logging
import math
import os
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from speechllm.audio import AudioError, audio_info
from speechllm.data.reading.headers import read_headers
from speechllm.errors import UserError

SUFFIXES = frozenset((".wav", ".flac", ".mp3", ".ogg", ".opus", ".aif", ".aiff", ".au", ".sph"))
"""Endings of the files that count as audio in a folder."""

MANIFEST_SUFFIXES = (".jsonl", ".jsonl.gz")
"""Endings of manifests: lhotse cuts or recordings, this package's own, or NeMo's."""

CHECKED_FILES = 500
"""Number of files, evenly spaced, whose headers are read before training starts."""

TRIES = 10
"""How often another file is drawn where one cannot be used."""

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Stretch:
    """A stretch of an audio file.

    Attributes:
        path: Audio file.
        offset_s: Where it begins, in seconds.
        duration_s: Its duration in seconds; None for the rest of the file.
    """

    path: str
    offset_s: float = 0.0
    duration_s: float | None = None


class SoundBank:
    """Stretches of audio to draw from at random, each as likely as any other.

    Files that cannot be read are left out: at the start, where a look at the headers of up to :data:`CHECKED_FILES`
    shows it, or when they are first drawn. Either is logged.

    Args:
        source: A folder, searched through all its subfolders; an audio file; a text file with one path a line; or a
            manifest, ``.jsonl`` or ``.jsonl.gz``, of lhotse cuts or recordings, of this package or of NeMo, of which
            audio in files is read and nothing else. Relative paths in a list start at its own folder, or where there
            is no such file at the current one.
        option: Name of the option that gave the source, for messages.

    Raises:
        UserError: If there is no audio, or none that can be read.
    """

    def __init__(self, source: str, option: str) -> None:
        self.source, self.option = source, option
        self._stretches = find_stretches(source, option)
        self._unusable: set[str] = set()
        self._leave_out_unreadable()

    def __len__(self) -> int:
        return len(self._stretches)

    def draw(self, generator: np.random.Generator, read: Callable[[Stretch, float], Tensor | None]) -> Tensor | None:
        """Draw a stretch and read it; draw again where it cannot be used.

        Args:
            generator: Where the choice is drawn from.
            read: Returns the samples of a stretch, or None if they are of no use (silence), given a number in [0, 1)
                that says which part of it to take. It may raise AudioError.

        Returns:
            What ``read`` returned; None if nothing that was drawn could be used.
        """
        for _ in range(TRIES):
            # Both are drawn at each try, so that the next one does not depend on what this process knows of the file.
            stretch, part = self._stretches[int(generator.integers(len(self)))], generator.random()
            if stretch.path in self._unusable:
                continue
            try:
                samples = read(stretch, part)
            except (AudioError, OSError) as error:
                self._unusable.add(stretch.path)
                log.warning("A file of `%s: %s` is left out: %s", self.option, self.source, error)
                continue
            if samples is not None:
                return samples
        return None

    def _leave_out_unreadable(self) -> None:
        count = min(len(self), CHECKED_FILES)
        looked_at = [self._stretches[index * len(self) // count].path for index in range(count)]
        unreadable = [path for path, info in zip(looked_at, read_headers(looked_at), strict=True) if info is None]
        if not unreadable:
            return
        if len(unreadable) == count:
            msg = (
                f"None of the {count} audio files of `{self.option}: {self.source}` that were looked at can be read. "
                f"The first: {_reason(unreadable[0])}"
            )
            raise UserError(msg)
        log.warning(
            "%d of %d audio files of `%s: %s` that were looked at cannot be read and are left out. The first: %s",
            *(len(unreadable), count, self.option, self.source, _reason(unreadable[0])),
        )
        self._unusable |= set(unreadable)


def find_stretches(source: str, option: str) -> list[Stretch]:
    """Return what a source names, in an order that does not depend on the machine.

    Args:
        source: As for :class:`SoundBank`.
        option: Name of the option that gave the source, for messages.

    Raises:
        UserError: If there is nothing, or a line of a list or manifest cannot be used.
    """
    path = Path(source)
    if path.is_dir():
        stretches = [Stretch(str(file)) for file in _audio_files(path)]
        what = f"holds no audio file ({', '.join(sorted(SUFFIXES))})"
    elif path.suffix.lower() in SUFFIXES and path.is_file():
        return [Stretch(source)]
    elif path.is_file():
        read = _manifest_line if path.name.endswith(MANIFEST_SUFFIXES) else _list_line
        stretches = list(_lines(path, read))
        what = "names no audio file"
    else:
        stretches, what = [], "does not exist"
    if not stretches:
        msg = (
            f"`{option}: {source}` {what}. Give a folder of audio files, a text file with one path a line, or a "
            f"manifest ({' or '.join(MANIFEST_SUFFIXES)}) of cuts or recordings."
        )
        raise UserError(msg)
    return stretches


def _audio_files(folder: Path) -> list[Path]:
    """Return the audio files below a folder by name, links to other folders followed."""
    found: list[Path] = []
    seen: set[str] = set()
    for parent, folders, names in os.walk(folder, followlinks=True):
        if (real := os.path.realpath(parent)) in seen:
            folders.clear()
            continue
        seen.add(real)
        folders.sort()
        found += [
            Path(parent, name) for name in names if Path(name).suffix.lower() in SUFFIXES and not name.startswith(".")
        ]
    return sorted(found, key=lambda file: file.relative_to(folder).as_posix())


def _lines(path: Path, read: Callable[[str], Stretch]) -> Iterator[Stretch]:
    """Yield what each line of a file names; a relative path starts at the folder of the file, if it leads somewhere."""
    number = 0
    try:
        opener = gzip.open if path.suffix == ".gz" else open
        with opener(path, "rt", encoding="utf-8-sig", newline="\n") as lines:
            for number, line in enumerate(lines, start=1):
                if line.strip():
                    stretch = _parsed(read, line.strip(), f"'{path}', line {number}")
                    beside = os.path.join(path.parent, stretch.path)
                    yield replace(stretch, path=beside) if os.path.isfile(beside) else stretch
    except (OSError, EOFError, UnicodeDecodeError, zlib.error) as error:
        msg = f"'{path}', after line {number}: {error}. Give a list or manifest in UTF-8, or fetch the file anew."
        raise UserError(msg) from error


def _parsed(read: Callable[[str], Stretch], line: str, where: str) -> Stretch:
    try:
        return read(line)
    except (ValueError, RecursionError) as error:
        msg = f"{where}: {error}."
        raise UserError(msg) from error


def _list_line(line: str) -> Stretch:
    return Stretch(line)


def _manifest_line(line: str) -> Stretch:
    """Return the stretch that a line of a manifest names.

    Raises:
        ValueError: If it names none in a file.
    """
    row = json.loads(line)
    if isinstance(row, dict) and isinstance(row.get("audio_filepath"), str):  # NeMo's
        return Stretch(row["audio_filepath"], _seconds(row.get("offset", 0.0)), _duration(row.get("duration")))
    try:
        start, recording = ("start", row["recording"]) if "recording" in row else ("", row)
        source = recording["sources"][0]
        kind, path = source["type"], source["source"]
    except (KeyError, IndexError, TypeError) as error:
        msg = "neither a cut with one recording, nor a recording, nor a row with `audio_filepath`"
        raise ValueError(msg) from error
    if kind != "file" or not isinstance(path, str):
        msg = f"its audio is of the type {kind!r}, and only files are read"
        raise ValueError(msg)
    return Stretch(path, _seconds(row.get(start, 0.0)), _duration(row.get("duration")))


def _duration(value: Any) -> float | None:
    duration_s = None if value is None else _seconds(value)
    if duration_s == 0:
        msg = "a duration of 0 s"
        raise ValueError(msg)
    return duration_s


def _seconds(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value) or value < 0:
        msg = f"{value!r} is not a time in seconds"
        raise ValueError(msg)
    return float(value)


def _reason(path: str) -> str:
    try:
        audio_info(path)
    except AudioError as error:
        return str(error)
    return f"'{path}'."
