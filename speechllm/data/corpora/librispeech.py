"""LibriSpeech: English audiobooks cut into utterances, upper case and without punctuation.

``<root>/<part>/<speaker>/<chapter>`` holds ``<speaker>-<chapter>-<utterance>.flac`` and one
``<speaker>-<chapter>.trans.txt`` with a line for each of them, ``1995-1837-0001 IT WAS THE COTTON``. Mini LibriSpeech
(``train-clean-5``, ``dev-clean-2``) and others of the same layout are read as well.
"""

import hashlib
import json
import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from speechllm.data.corpus import CorpusDataModule
from speechllm.data.manifest import LEARNED_SPLITS, Tally
from speechllm.data.reading.clips import with_durations
from speechllm.data.reading.text import check_cleaners, clean
from speechllm.data.reading.text_files import read_lines
from speechllm.data.utterance import Utterance
from speechllm.errors import UserError, did_you_mean

PUBLISHED = {
    "train-clean-100": 28_539,
    "train-clean-360": 104_014,
    "train-other-500": 148_688,
    "dev-clean": 2_703,
    "dev-other": 2_864,
    "test-clean": 2_620,
    "test-other": 2_939,
}
"""Number of utterances of each part."""


class LibriSpeech:
    """Reader of LibriSpeech on disk: one utterance per line of the ``trans.txt`` files.

    Args:
        root: Folder of the parts, or the one above it, which holds ``LibriSpeech``.
        train: Parts that are the split ``train``.
        dev: Parts that are the split ``dev``.
        test: Parts that are a test set each.
        clean_transcripts: Cleaners of transcripts by name, such as ``lowercase``; they are in capitals as released.
    """

    name = "librispeech"
    version = "SLR12"

    def __init__(
        self, root: Path, train: list[str], dev: list[str], test: list[str], clean_transcripts: Sequence[str] = ()
    ) -> None:
        for what, parts in (("train", train), ("dev", dev), ("test", test)):
            if len(set(parts)) < len(parts):
                msg = f"LibriSpeech's parts of {what} must be named once each; got {parts}."
                raise UserError(msg)
        self.root = Path(root)
        self.parts = {"train": list(train), "dev": list(dev), **{part: [part] for part in test}}
        self.cleaners = check_cleaners(clean_transcripts)
        if len(self.parts) < 2 + len(test):
            msg = f"A test set of LibriSpeech is a part such as 'test-clean', not 'train' or 'dev'; got {test}."
            raise UserError(msg)

    def options(self) -> dict[str, Any]:
        """Return the options that decide what the manifests hold."""
        return {"parts": self.parts, "clean_transcripts": self.cleaners}

    def splits(self) -> list[str]:
        """Return the splits that are on disk.

        Raises:
            UserError: If there is none, a part is unknown, or a split of several parts is not whole.
        """
        found = []
        for split, parts in self.parts.items():
            missing = [part for part in parts if not (self._folder() / part).is_dir()]
            unknown = [part for part in missing if part not in PUBLISHED]
            if unknown or 0 < len(missing) < len(parts):
                part, there = (unknown or missing)[0], self._parts_on_disk()
                near = did_you_mean(part, [*there, *PUBLISHED]) if unknown else ""
                msg = (
                    f"The part '{part}' of LibriSpeech is not in '{self._folder()}'.{near} The folder holds: "
                    f"{', '.join(there) or 'no part'}. Name what you have: `train`, `dev`, `test_splits`."
                )
                raise UserError(msg)
            if not missing and parts:
                found.append(split)
        if not found:
            wanted = ", ".join(part for parts in self.parts.values() for part in parts)
            msg = (
                f"No LibriSpeech in '{self.root}': looked for the folders {wanted}, there and in 'LibriSpeech' below. "
                "Give `root` the folder that the archives were unpacked in."
            )
            raise UserError(msg)
        return found

    def files(self) -> list[Path]:
        """Return the transcripts of all chapters."""
        chapters = [
            chapter for split in self.splits() for part in self.parts[split] for chapter in self._chapters(part)
        ]
        return [path for chapter in chapters if (path := _transcripts(chapter)).is_file()]

    def published(self) -> dict[str, int]:
        """Return the number of utterances of the splits whose parts are all known."""
        return {
            split: sum(PUBLISHED[part] for part in parts)
            for split, parts in self.parts.items()
            if parts and all(part in PUBLISHED for part in parts)
        }

    def read(self, split: str, tally: Tally) -> Iterator[Utterance]:
        """Yield the utterances of a split's parts, chapter by chapter.

        Audio without a line is left out of ``train`` and ``dev``; a test set keeps it, with an empty reference.

        Raises:
            UserError: If a line is not one of its chapter, or no audio of a part exists.
        """
        for part in self.parts[split]:
            utterances = [
                utterance for chapter in self._chapters(part) for utterance in self._chapter(chapter, split, tally)
            ]
            if not utterances:
                msg = (
                    f"The part '{part}' of LibriSpeech in '{self._folder()}' is empty: no '*/*/*.trans.txt' has a line."
                )
                raise UserError(msg)
            yield from with_durations(utterances, split, tally)

    def _chapter(self, chapter: Path, split: str, tally: Tally) -> Iterator[Utterance]:
        """Yield the utterances of a chapter, without their durations."""
        folder = os.path.abspath(chapter)
        audio = {stem: file for file in sorted(os.listdir(folder)) if (stem := _stem(file))}
        texts = read_transcripts(_transcripts(chapter), tally)
        for name in (*texts, *(name for name in audio if name not in texts)):
            if name not in texts and split in LEARNED_SPLITS:
                tally.rejected["audio without a line in trans.txt"] += 1
                continue
            if name not in texts:
                tally.changed["audio without a line in trans.txt, and with an empty reference"] += 1
            text = texts.get(name, "")
            yield Utterance(
                id=name,
                audio=os.path.join(folder, audio.get(name, f"{name}.flac")),
                offset_s=0.0,
                duration_s=0.0,
                source_language="en",
                transcript=clean(text, self.cleaners),
                speaker=chapter.parent.name,
                corpus=self.name,
            )

    def _chapters(self, part: str) -> Iterator[Path]:
        for speaker in _folders(self._folder() / part):
            yield from _folders(speaker)

    def _folder(self) -> Path:
        below = self.root / "LibriSpeech"
        return below if below.is_dir() else self.root

    def _parts_on_disk(self) -> list[str]:
        folder = self._folder()
        return [path.name for path in _folders(folder) if path.name in PUBLISHED or any(path.glob("*/*/*.trans.txt"))]


def read_transcripts(path: Path, tally: Tally) -> dict[str, str]:
    """Return the texts of a chapter's ``trans.txt`` by utterance; nothing where there is no such file.

    Raises:
        UserError: If a line does not begin with an utterance of the chapter, or repeats one; the message names the file
            and the line.
    """
    texts: dict[str, str] = {}
    chapter = path.name.removesuffix(".trans.txt")
    lines = read_lines(path, tally, "a trans.txt") if path.is_file() else []
    for number, line in enumerate(lines, start=1):
        name, _, text = line.rstrip("\r").partition(" ")
        wrong = ""
        if not re.fullmatch(rf"{re.escape(chapter)}-\w+", name):
            wrong = f"must begin with an utterance such as '{chapter}-0000', but is '{line[:40]}'"
        elif name in texts:
            wrong = f"names the utterance '{name}' again"
        elif "\0" in line:
            wrong = "holds a NUL character"
        if wrong:
            msg = f"{path}, line {number}: the line {wrong}. Unpack the archive anew."
            raise UserError(msg)
        texts[name] = text
    return texts


def _transcripts(chapter: Path) -> Path:
    return chapter / f"{chapter.parent.name}-{chapter.name}.trans.txt"


def _stem(file: str) -> str:
    """Return an audio file's name without its suffix, nothing of other files."""
    stem, suffix = os.path.splitext(file)
    return stem if suffix in (".flac", ".wav") else ""


def _folders(parent: Path) -> list[Path]:
    if not parent.is_dir():
        return []
    with os.scandir(parent) as entries:
        return sorted(Path(entry.path) for entry in entries if entry.is_dir())


class LibriSpeechDataModule(CorpusDataModule):
    """LibriSpeech for training and scoring.

    Args:
        root: Folder of the parts, or the one above it, which holds ``LibriSpeech``.
        train: Parts to train on.
        dev: Parts to validate on: ``dev-clean``, ``dev-other``.
        test_splits: Parts that are scored, a test set each: ``test-clean``, ``test-other``, or those of ``dev``.
        tasks: ``asr``; there are no translations.
        clean_transcripts: Cleaners of transcripts by name, such as ``lowercase``; they are in capitals as released.
        **kwargs: Options of :class:`speechllm.data.corpus.CorpusDataModule`.
    """

    def __init__(
        self,
        root: str,
        train: list[str] = ["train-clean-100", "train-clean-360", "train-other-500"],  # noqa: B006 (never changed)
        dev: list[str] = ["dev-clean"],  # noqa: B006
        test_splits: list[str] = ["test-clean", "test-other"],  # noqa: B006
        tasks: list[str] = ["asr"],  # noqa: B006
        clean_transcripts: list[str] = [],  # noqa: B006
        **kwargs: Any,
    ) -> None:
        corpus = LibriSpeech(Path(root), train, dev, test_splits, clean_transcripts)
        selection = hashlib.sha256(json.dumps(corpus.options(), sort_keys=True).encode()).hexdigest()[:8]
        manifests = Path(root) / "manifests" / f"librispeech_{selection}"
        super().__init__(corpus, manifests, tasks=tasks, test_splits=test_splits, **kwargs)
