"""Manifests: one ``<split>.jsonl.gz`` of lhotse cuts per split with its index, and ``corpus.json`` about them."""

import gzip
import hashlib
import json
import os
import uuid
import zlib
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Protocol

from tqdm import tqdm

from speechllm.data.index import Manifest, ManifestIndex, ManifestWriter
from speechllm.data.utterance import Utterance, parse_row, to_nfc
from speechllm.errors import UserError

FORMAT = 3
"""Version of the manifests' layout; a change of it makes older ones stale."""

LEARNED_SPLITS = ("train", "dev")
"""Splits that may lose utterances; every other one is a test set, which keeps its size."""


@dataclass
class Tally:
    """What reading a split changed or left out, counted by reason.

    Attributes:
        rejected: Utterances left out.
        changed: Utterances kept, but not as the corpus has them.
    """

    rejected: Counter[str] = field(default_factory=Counter)
    changed: Counter[str] = field(default_factory=Counter)


@dataclass
class SplitSummary:
    """What one split's manifest holds: utterances, hours, languages, and what was rejected or changed by reason."""

    utterances: int
    hours: float
    languages: list[str]
    rejected: dict[str, int]
    changed: dict[str, int]


class Corpus(Protocol):
    """A corpus on disk that can be written as manifests.

    Attributes:
        name: Name of the corpus, as batches and results carry it.
        version: Release of the corpus; results of different releases do not compare.

    A corpus that repeats its talks for each target language, cut in other ways, has ``first_targets`` too: the target
    by source language whose utterances alone are rows of ``asr``.
    """

    name: str
    version: str

    def splits(self) -> list[str]:
        """Return the splits that are on disk; raise UserError where there is no corpus."""
        ...

    def files(self) -> list[Path]:
        """Return the files whose change makes manifests stale."""
        ...

    def options(self) -> dict[str, Any]:
        """Return the options that decide what the manifests hold, as plain data."""
        ...

    def published(self) -> dict[str, int]:
        """Return the number of utterances of each split as published; splits without a known number are absent."""
        ...

    def read(self, split: str, tally: Tally) -> Iterator[Utterance]:
        """Yield a split's utterances in the corpus's own order, counting in ``tally`` what is not as on disk."""
        ...


def manifest_path(folder: Path, split: str) -> Path:
    """Return the path of a split's manifest."""
    return folder / f"{split}.jsonl.gz"


def index_path(folder: Path, split: str) -> Path:
    """Return the path of the index of a split's manifest."""
    return folder / f"{split}.index.npz"


def fingerprint(corpus: Corpus) -> str:
    """Return a hash of the corpus's options and of its files' names, sizes and times."""
    files = [(str(path), path.stat().st_size, path.stat().st_mtime_ns) for path in corpus.files()]
    content = [FORMAT, corpus.name, corpus.version, corpus.options(), files]
    return hashlib.sha256(json.dumps(content, sort_keys=True, ensure_ascii=False).encode()).hexdigest()


def is_current(corpus: Corpus, folder: Path) -> bool:
    """Return whether ``folder`` holds manifests of this corpus as it is on disk now."""
    try:
        summary = json.loads((folder / "corpus.json").read_text(encoding="utf-8"))
        files = [path(folder, split) for split in summary["splits"] for path in (manifest_path, index_path)]
        complete = all(file.is_file() for file in files)
        return complete and bool(summary["fingerprint"] == fingerprint(corpus))
    except (OSError, ValueError, KeyError, TypeError):
        return False


def write_manifests(corpus: Corpus, folder: Path) -> dict[str, SplitSummary]:
    """Write every split of a corpus, each file whole or not at all, ``corpus.json`` last.

    Raises:
        UserError: If the folder cannot be written, or as the corpus's reader.
    """
    splits = corpus.splits()
    mark = fingerprint(corpus)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "corpus.json").unlink(missing_ok=True)
        summaries = {split: _write_split(corpus, split, folder) for split in splits}
        content = {
            "corpus": corpus.name,
            "version": corpus.version,
            "languages": sorted({language for summary in summaries.values() for language in summary.languages}),
            "options": corpus.options(),
            "first_targets": getattr(corpus, "first_targets", {}),
            "fingerprint": mark,
            "splits": {split: asdict(summary) for split, summary in summaries.items()},
        }
        with replacing(folder / "corpus.json") as partial:
            partial.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    except OSError as error:
        msg = f"Cannot write manifests to '{folder}': {error}. Give `manifest_dir` a folder that you can write to."
        raise UserError(msg) from error
    return summaries


def read_summary(folder: Path) -> dict[str, Any]:
    """Return what ``corpus.json`` says of the manifests in a folder; nothing where there is none.

    Raises:
        UserError: If it is damaged.
    """
    path = folder / "corpus.json"
    if not path.is_file():
        return {}
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        msg = f"'{path}' is damaged: {error}. Delete it, so that the manifests are written anew."
        raise UserError(msg) from error
    return found if isinstance(found, dict) else {}


def open_manifest(folder: Path, split: str) -> Manifest:
    """Return the manifest of a split, to be read row by row.

    Raises:
        UserError: If it is absent, or does not fit its index.
    """
    path = manifest_path(folder, split)
    if not path.is_file():
        raise UserError(no_manifest(folder, split))
    return Manifest(path, ManifestIndex.load(index_path(folder, split)))


def read_manifest(folder: Path, split: str) -> Iterator[Utterance]:
    """Yield the utterances of a split in the manifest's order.

    Raises:
        UserError: If the manifest is absent or a row is wrong; the message names the file and the row.
    """
    path = manifest_path(folder, split)
    if not path.is_file():
        raise UserError(no_manifest(folder, split))
    number = 0
    try:
        with gzip.open(path, "rt", encoding="utf-8", newline="\n") as lines:
            for number, line in enumerate(lines, start=1):
                yield parse_row(line, path, number)
    except (OSError, EOFError, UnicodeDecodeError, zlib.error) as error:
        msg = f"{path}, after row {number}: {error}. Delete the file, so that it is written anew."
        raise UserError(msg) from error


def no_manifest(folder: Path, split: str) -> str:
    """Return the message that a split has no manifest, with the splits that have one."""
    found = sorted(file.name.removesuffix(".jsonl.gz") for file in folder.glob("*.jsonl.gz"))
    there = ", ".join(found) or "none"
    return f"No manifest of the split '{split}' at '{manifest_path(folder, split)}'. Splits there: {there}."


def _write_split(corpus: Corpus, split: str, folder: Path) -> SplitSummary:
    tally = Tally()
    path = manifest_path(folder, split)
    with replacing(path) as partial, replacing(index_path(folder, split)) as partial_index:
        with partial.open("wb") as file:
            writer = ManifestWriter(file, path)
            for utterance in tqdm(corpus.read(split, tally), desc=f"{corpus.name} {split}", unit=" utterances"):
                if to_nfc(utterance, split):
                    tally.changed["text brought to Unicode NFC"] += 1
                writer.write(utterance)
            index = writer.finish()
        index.save(partial_index)
    hours = float(index.durations_s.sum()) / 3600
    return SplitSummary(len(index), hours, index.languages_held(), dict(tally.rejected), dict(tally.changed))


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Give a path beside ``path`` to write to, and put it in its place only when all went well."""
    partial = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}")
    try:
        yield partial
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)
