"""Manifests: one ``<split>.jsonl.gz`` of lhotse cuts per split, and ``corpus.json`` that says what they hold."""

import gzip
import hashlib
import json
import os
import uuid
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Protocol, TextIO

from tqdm import tqdm

from speechllm.data.utterance import Utterance
from speechllm.errors import UserError
from speechllm.languages import check_language

FORMAT = 1
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


def fingerprint(corpus: Corpus) -> str:
    """Return a hash of the corpus's options and of its files' names, sizes and times."""
    files = [(str(path), path.stat().st_size, path.stat().st_mtime_ns) for path in corpus.files()]
    content = [FORMAT, corpus.name, corpus.version, corpus.options(), files]
    return hashlib.sha256(json.dumps(content, sort_keys=True, ensure_ascii=False).encode()).hexdigest()


def is_current(corpus: Corpus, folder: Path) -> bool:
    """Return whether ``folder`` holds manifests of this corpus as it is on disk now."""
    try:
        summary = json.loads((folder / "corpus.json").read_text(encoding="utf-8"))
        complete = all(manifest_path(folder, split).is_file() for split in summary["splits"])
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
            "fingerprint": mark,
            "splits": {split: asdict(summary) for split, summary in summaries.items()},
        }
        with _replacing(folder / "corpus.json") as partial:
            partial.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    except OSError as error:
        msg = f"Cannot write manifests to '{folder}': {error}. Give `manifest_dir` a folder that you can write to."
        raise UserError(msg) from error
    return summaries


def read_manifest(folder: Path, split: str, check: bool = True) -> Iterator[Utterance]:
    """Yield the utterances of a split in the manifest's order.

    Args:
        folder: Folder of the manifests.
        split: Name of the split.
        check: Whether to check languages, audio files and duplicate ids too; a manifest that was checked once need
            not be checked again.

    Raises:
        UserError: If the manifest is absent or a row is wrong; the message names the file and the row.
    """
    path = manifest_path(folder, split)
    if not path.is_file():
        found = sorted(file.name.removesuffix(".jsonl.gz") for file in folder.glob("*.jsonl.gz"))
        msg = f"No manifest of the split '{split}' at '{path}'. Splits there: {', '.join(found) or 'none'}."
        raise UserError(msg)
    rows = _rows(path)
    yield from _checked(rows, path) if check else (utterance for _, utterance in rows)


def _rows(path: Path) -> Iterator[tuple[int, Utterance]]:
    number = 0
    try:
        with gzip.open(path, "rt", encoding="utf-8", newline="\n") as lines:
            for number, line in enumerate(lines, start=1):
                try:
                    yield number, Utterance.from_row(json.loads(line))
                except ValueError as error:
                    msg = f"{path}, row {number}: {error if line.strip() else 'the row is empty'}."
                    raise UserError(msg) from error
    except (OSError, EOFError, UnicodeDecodeError) as error:
        msg = f"{path}, after row {number}: {error}. Delete the file, so that it is written anew."
        raise UserError(msg) from error


def _checked(rows: Iterable[tuple[int, Utterance]], path: Path) -> Iterator[Utterance]:
    seen: dict[str, int] = {}
    files: set[str] = set()
    languages: set[str] = set()
    for number, utterance in rows:
        where = f"{path}, row {number}"
        for language in (utterance.source_language, *utterance.translations):
            if language not in languages:
                check_language(language, where)
                languages.add(language)
        if utterance.audio not in files:
            if not os.path.isfile(utterance.audio):
                msg = f"{where}: the audio file '{utterance.audio}' of '{utterance.id}' does not exist."
                raise UserError(msg)
            files.add(utterance.audio)
        if seen.setdefault(utterance.id, number) != number:
            msg = f"{where}: the id '{utterance.id}' is already that of row {seen[utterance.id]}; ids must be unique."
            raise UserError(msg)
        yield utterance


def _write_split(corpus: Corpus, split: str, folder: Path) -> SplitSummary:
    tally = Tally()
    count, seconds, languages = 0, 0.0, set[str]()
    with _replacing(manifest_path(folder, split)) as partial, _gzip_writer(partial) as file:
        for utterance in tqdm(corpus.read(split, tally), desc=f"{corpus.name} {split}", unit=" utterances"):
            file.write(json.dumps(utterance.to_cut().to_dict(), ensure_ascii=False) + "\n")
            count += 1
            seconds += utterance.duration_s
            languages.update((utterance.source_language, *utterance.translations))
    return SplitSummary(count, seconds / 3600, sorted(languages), dict(tally.rejected), dict(tally.changed))


def _gzip_writer(path: Path) -> TextIO:
    return gzip.open(path, "wt", encoding="utf-8", newline="\n", compresslevel=6)


@contextmanager
def _replacing(path: Path) -> Iterator[Path]:
    """Give a path beside ``path`` to write to, and put it in its place only when all went well."""
    partial = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}")
    try:
        yield partial
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)
