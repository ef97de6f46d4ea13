"""Manifests that are read row by row at random: blocks of compressed lines, and an index of what stands where.

A manifest is a gzip file of many members, :data:`BLOCK_ROWS` lines each, which every reader of gzip takes for one file.
The index holds a few numbers a row, so that a run starts and an epoch is planned without reading a single text.
"""

import gzip
import hashlib
import json
import os
import weakref
import zlib
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from speechllm.data.utterance import Utterance, parse_row
from speechllm.errors import UserError
from speechllm.languages import check_language

BLOCK_ROWS = 32
"""Rows that are compressed together: what reading one of them costs."""


@dataclass
class ManifestIndex:
    """What planning an epoch needs to know of each of N rows.

    Attributes:
        durations_s: (N,) float64, in seconds.
        ids: (N,) uint64, hash of each id (:func:`id_hash`).
        sources: (N,) int16, position of the source language in ``languages``.
        transcript_chars: (N,) int32, characters of the transcript without surrounding spaces.
        translation_chars: (N, L) int32, the same for the translation into each of the L ``languages``; -1 where the
            utterance has none.
        languages: (L,) texts, BCP-47 codes.
        blocks: (M + 1,) int64, where each block begins in the manifest, in bytes, and where the last one ends.
    """

    durations_s: NDArray[np.float64]
    ids: NDArray[np.uint64]
    sources: NDArray[np.int16]
    transcript_chars: NDArray[np.int32]
    translation_chars: NDArray[np.int32]
    languages: NDArray[np.str_]
    blocks: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.durations_s)

    def targets(self) -> list[str]:
        """Return the languages that any utterance has a translation into."""
        held = np.nonzero((self.translation_chars >= 0).any(axis=0))[0]
        return [str(self.languages[column]) for column in held]

    def languages_held(self) -> list[str]:
        """Return all languages of speech and translations, sorted."""
        return sorted({str(self.languages[source]) for source in np.unique(self.sources)} | set(self.targets()))

    def translation_column(self, language: str) -> NDArray[np.int32]:
        """Return (N,) int32, the characters of the translation into a language; -1 where there is none."""
        (found,) = np.nonzero(self.languages == language)
        return self.translation_chars[:, found[0]] if len(found) else np.full(len(self), -1, dtype=np.int32)

    def save(self, path: Path) -> None:
        """Write the index."""
        with path.open("wb") as file:
            np.savez(file, **{field.name: getattr(self, field.name) for field in fields(self)})

    @classmethod
    def load(cls, path: Path) -> "ManifestIndex":
        """Read an index.

        Raises:
            UserError: If it is absent or damaged.
        """
        try:
            with np.load(path, allow_pickle=False) as arrays:
                index = cls(**{field.name: arrays[field.name] for field in fields(cls)})
            if problem := index._problem():
                raise ValueError(problem)
        except Exception as error:  # of zip files, of numpy's headers, of sizes that no memory has
            msg = f"The index '{path}' cannot be read: {error}. Prepare the corpus anew (`speechllm prepare`)."
            raise UserError(msg) from error
        return index

    def _problem(self) -> str:
        """Return what in the arrays does not go together, empty where all does."""
        rows, languages = self.durations_s.shape, self.languages.shape
        shapes = {
            "durations_s": ("f", rows[:1]),
            "ids": ("u", rows),
            "sources": ("i", rows),
            "transcript_chars": ("i", rows),
            "translation_chars": ("i", rows + languages),
            "languages": ("U", languages[:1]),
            "blocks": ("i", (max(1, -(-len(self.ids) // BLOCK_ROWS)) + 1,) if self.ids.ndim else ()),
        }
        for name, (kind, shape) in shapes.items():
            array = getattr(self, name)
            if (array.dtype.kind, array.shape) != (kind, shape) or array.ndim == 0:
                return f"'{name}' is an array of {array.shape} {array.dtype}"
        if len(self) and not 0 <= self.sources.min() <= self.sources.max() < len(self.languages):
            return "'sources' names languages that are not there"
        if self.blocks[0] or (np.diff(self.blocks) <= 0).any():
            return "'blocks' does not rise from 0"
        return ""


def id_hash(utterance_id: str) -> int:
    """Return a 64-bit hash of an id, the same in every process."""
    return int.from_bytes(hashlib.blake2b(utterance_id.encode(), digest_size=8).digest(), "little")


class ManifestWriter:
    """Write utterances to a file in blocks, and gather their index.

    Args:
        file: File to write to.
        name: How messages name it.
    """

    def __init__(self, file: BinaryIO, name: Path) -> None:
        self.file, self.name = file, name
        self._lines: list[bytes] = []
        self._blocks = [0]
        self._languages: dict[str, int] = {}
        self._durations: list[float] = []
        self._ids: dict[int, int] = {}
        self._sources: list[int] = []
        self._transcripts: list[int] = []
        self._translations: list[dict[int, int]] = []

    def write(self, utterance: Utterance) -> None:
        """Add an utterance.

        Raises:
            UserError: If its id is an earlier one's, a language is unknown or a number cannot be.
        """
        row = len(self._durations) + 1
        where = f"{self.name}, row {row}"
        if not (0 < utterance.duration_s < float("inf") and 0 <= utterance.offset_s < float("inf")):
            msg = (
                f"{where}: '{utterance.id}' begins at {utterance.offset_s} s and takes {utterance.duration_s} s; the "
                "start must be at least 0 and the duration above 0."
            )
            raise UserError(msg)
        first = self._ids.setdefault(id_hash(utterance.id), row)
        if first != row:
            msg = f"{where}: the id '{utterance.id}' is already that of row {first}; ids must be unique in a split."
            raise UserError(msg)
        self._durations.append(utterance.duration_s)
        self._sources.append(self._language(utterance.source_language, where))
        self._transcripts.append(len(utterance.transcript.strip()))
        self._translations.append(
            {self._language(code, where): len(text.strip()) for code, text in utterance.translations.items()}
        )
        self._lines.append(
            json.dumps(utterance.to_row(), ensure_ascii=False).encode("utf-8", "backslashreplace") + b"\n"
        )
        if len(self._lines) == BLOCK_ROWS:
            self._flush()

    def finish(self) -> ManifestIndex:
        """Write what is left and return the index."""
        if self._lines or len(self._blocks) == 1:
            self._flush()
        translations = np.full((len(self._durations), len(self._languages)), -1, dtype=np.int32)
        for row, lengths in enumerate(self._translations):
            for language, chars in lengths.items():
                translations[row, language] = chars
        return ManifestIndex(
            durations_s=np.array(self._durations, dtype=np.float64),
            ids=np.fromiter(self._ids, dtype=np.uint64, count=len(self._ids)),
            sources=np.array(self._sources, dtype=np.int16),
            transcript_chars=np.array(self._transcripts, dtype=np.int32),
            translation_chars=translations,
            languages=np.array(list(self._languages), dtype=np.str_),
            blocks=np.array(self._blocks, dtype=np.int64),
        )

    def _language(self, code: str, where: str) -> int:
        if code not in self._languages:
            check_language(code, where)
        return self._languages.setdefault(code, len(self._languages))

    def _flush(self) -> None:
        # Without a time, equal utterances give equal bytes.
        self._blocks.append(self._blocks[-1] + self.file.write(gzip.compress(b"".join(self._lines), 6, mtime=0)))
        self._lines = []


class Manifest:
    """The utterances of a split, each read when it is asked for; processes may share one.

    Args:
        path: The manifest.
        index: Its index.

    Raises:
        UserError: If the manifest is not the one that the index belongs to.
    """

    def __init__(self, path: Path, index: ManifestIndex) -> None:
        self.path, self.index = path, index
        self._file: int | None = None
        size = path.stat().st_size
        if size != index.blocks[-1]:
            msg = (
                f"'{path}' has {size} bytes, and {index.blocks[-1]} when it was written. Delete the folder and prepare "
                "the corpus anew."
            )
            raise UserError(msg)

    def __len__(self) -> int:
        return len(self.index)

    def __getitem__(self, row: int) -> Utterance:
        """Return the utterance of a row, from 0.

        Raises:
            UserError: If the manifest is damaged there, or is not the one that the index belongs to.
        """
        block, line = divmod(int(row), BLOCK_ROWS)
        start, end = self.index.blocks[block], self.index.blocks[block + 1]
        if self._file is None:
            self._file = os.open(self.path, os.O_RDONLY)
            weakref.finalize(self, os.close, self._file)
        try:
            # pread: worker processes share the open file, and its position with it.
            lines = gzip.decompress(os.pread(self._file, end - start, start)).split(b"\n")
        except (OSError, EOFError, zlib.error) as error:
            msg = f"'{self.path}', row {row + 1}: {error}. Delete the folder and prepare the corpus anew."
            raise UserError(msg) from error
        if line >= len(lines):
            lines, line = [b""], 0
        utterance = parse_row(lines[line], self.path, int(row) + 1)
        if id_hash(utterance.id) != self.index.ids[row]:
            msg = (
                f"'{self.path}', row {row + 1}: the utterance '{utterance.id}' is not the one of its index. Delete the "
                "folder and prepare the corpus anew."
            )
            raise UserError(msg)
        return utterance

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_file": None}
