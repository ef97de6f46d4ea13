"""One's own files: a table of utterances a split, as CSV, TSV or JSON lines, beside or above the audio.

Columns: ``audio`` (a path relative to the table's folder, or absolute), ``transcript``, ``translation`` or
``translation_<language>``, and where needed ``source`` and ``target`` (languages), ``offset`` and ``duration`` (in
seconds), ``speaker``, ``id``. All but ``audio`` may be left out, and others may stand beside them.
"""

import difflib
import hashlib
import json
import logging
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from speechllm.audio import AudioInfo
from speechllm.data.corpus import CorpusDataModule
from speechllm.data.manifest import LEARNED_SPLITS, Tally
from speechllm.data.reading.split_files import find_splits
from speechllm.data.reading.stretches import Stretch, Stretches, leave_out, with_audio
from speechllm.data.reading.table_rows import COLUMNS, SUFFIXES, TableRow, read_rows
from speechllm.data.utterance import Utterance
from speechllm.errors import UserError, did_you_mean
from speechllm.languages import check_language

log = logging.getLogger(__name__)


class Table:
    """Reader of tables: one utterance a stretch of audio, with the translations of all rows that name it.

    Args:
        root: Folder that the tables are named from.
        tables: Table of each split, relative to ``root``; None for ``<split>.csv``, ``.tsv`` or ``.jsonl``, if there is
            one.
        source: Language that is spoken, for rows that do not say.
        target: Language of the column ``translation``, for rows that do not say.
        name: Name of the corpus, as batches and results carry it.
    """

    version = "own"

    def __init__(
        self, root: Path, tables: dict[str, str | None], source: str | None, target: str | None, name: str = "table"
    ) -> None:
        for language in (source, target):
            if language is not None:
                check_language(language, "Table")
        self.root, self.tables, self.source, self.target, self.name = Path(root), tables, source, target, name

    def options(self) -> dict[str, Any]:
        """Return the options that decide what the manifests hold."""
        return {"tables": self.tables, "source": self.source, "target": self.target}

    def splits(self) -> list[str]:
        """Return the splits that have a table.

        Raises:
            UserError: If there is none, a table that was named is missing, or one has several.
        """
        return list(self._found())

    def files(self) -> list[Path]:
        """Return the tables."""
        return [table for tables in self._found().values() for table in tables]

    def published(self) -> dict[str, int]:
        """Return nothing: it is the user's own."""
        return {}

    def read(self, split: str, tally: Tally) -> Iterator[Utterance]:
        """Yield the utterances of a split in the order in which the table first names them.

        Raises:
            UserError: If the table or a row cannot be used; of a test set, also if a row would be left out.
        """
        found = self._found()
        if split not in found:
            msg = f"There is no table of the split '{split}' in '{self.root}'."
            raise UserError(msg)
        (path,) = found[split]
        folder = os.path.abspath(path.parent)
        stretches = Stretches(split, tally)
        columns: dict[str, None] = {}
        for row in read_rows(path, tally, whole=split not in LEARNED_SPLITS):
            columns |= dict.fromkeys(row.columns)
            stretch = self._stretch(row, folder, split, tally)
            if stretch is not None:
                stretches.add(stretch)
        _check_columns(path, list(columns), split)
        yield from with_audio(stretches, split, tally, "Paths are relative to the table's folder.")

    def _found(self) -> dict[str, list[Path]]:
        return find_splits(self.root, dict(self.tables), [f"{{split}}{suffix}" for suffix in SUFFIXES], "table")

    def _stretch(self, row: TableRow, folder: str, split: str, tally: Tally) -> Stretch | None:
        """Return a row as an utterance of its own, None where it is left out."""
        if "audio" not in row.cells:
            leave_out(row.where, "no audio is named", split, tally)
            return None
        source = row.cells.get("source", self.source)
        if source is None:
            msg = f"{row.where}: no source language. Add a column `source`, or give the option `source`."
            raise UserError(msg)
        check_language(source, row.where)
        translations = self._translations(row, split, tally)
        transcript = row.cells.get("transcript", "")
        if "transcript" in row.columns and not transcript:
            tally.changed["the transcript is empty"] += 1
        if not transcript and not translations and split in LEARNED_SPLITS:
            leave_out(row.where, "neither transcript nor translation", split, tally)
            return None
        offset_s, duration_s = row.seconds("offset") or 0.0, row.seconds("duration")
        if duration_s == 0:
            msg = f"{row.where}: `duration` is 0, and must be above; leave it empty to take the file to its end."
            raise UserError(msg)
        stretch = f":{offset_s:.3f}" if offset_s or duration_s is not None else ""
        stretch += f"+{duration_s:.3f}" if duration_s is not None else ""
        utterance = Utterance(
            id=row.cells.get("id", row.cells["audio"] + (stretch if "offset" in row.cells else "")),
            audio=os.path.join(folder, row.cells["audio"]),
            offset_s=offset_s,
            duration_s=0.0,
            source_language=source,
            transcript=transcript,
            translations=translations,
            speaker=row.cells.get("speaker", ""),
            corpus=self.name,
        )
        # A duration that the table gives is taken on trust: no header is read, which counts for very large tables.
        file = None if duration_s is None else AudioInfo(utterance.sampling_rate, offset_s + duration_s, 1)
        return Stretch(row.where, utterance, duration_s, file)

    def _translations(self, row: TableRow, split: str, tally: Tally) -> dict[str, str]:
        """Return the texts of ``translation`` and ``translation_<language>`` by language."""
        found: dict[str, str] = {}
        for column in row.columns:
            if column == "translation":
                target = row.cells.get("target", self.target)
            else:
                target = column.removeprefix("translation_") if _is_translation(column) else None
            text = row.cells.get(column, "")
            if column == "translation" and text and target is None:
                msg = f"{row.where}: no target language. Add a column `target`, or give the option `target`."
                raise UserError(msg)
            if target is None:
                continue
            check_language(target, row.where)
            if not text:
                tally.changed[f"the translation into {target} is empty"] += 1
            if text or split not in LEARNED_SPLITS:  # a test row stays, with an empty reference
                found[target] = text
        if split not in LEARNED_SPLITS and not found and (target := row.cells.get("target", self.target)):
            check_language(target, row.where)
            found[target] = ""
        return found


def _check_columns(path: Path, columns: list[str], split: str) -> None:
    """Check that a table has texts, and warn of columns that look like one that is read, and are not.

    Raises:
        UserError: If a split to learn from has no column of texts.
    """
    texts = [column for column in columns if column in ("transcript", "translation") or _is_translation(column)]
    if columns and not texts and split in LEARNED_SPLITS:
        hint = "".join(did_you_mean("transcript", columns))
        msg = (
            f"'{path}' has neither a column 'transcript' nor 'translation'.{hint} It has: {', '.join(columns)}. "
            f"Rename the column of texts."
        )
        raise UserError(msg)
    for column in columns:
        near = difflib.get_close_matches(column, COLUMNS, n=1, cutoff=0.75)
        if near and column not in COLUMNS and not _is_translation(column):
            log.warning("'%s': the column '%s' is not read. Did you mean '%s'?", path, column, near[0])


def _is_translation(column: str) -> bool:
    return column.startswith("translation_")


class TableDataModule(CorpusDataModule):
    """One's own files, from a table a split, for training and scoring.

    Args:
        root: Folder that the tables are named from; manifests go below it.
        train: Table to train on, ``.csv``, ``.tsv`` or ``.jsonl``; ``train.csv`` and so on, if it is there, where not
            given.
        dev: Table to validate on; ``dev.csv`` and so on where not given.
        test: Table to score; ``test.csv`` and so on where not given.
        source: Language that is spoken, for rows without ``source``.
        target: Language of the column ``translation``, for rows without ``target``.
        tasks: Any of ``asr``, ``st`` and ``asr+st``.
        name: Name of the corpus in results.
        **kwargs: Options of :class:`speechllm.data.corpus.CorpusDataModule`.
    """

    def __init__(
        self,
        root: str,
        train: str | None = None,
        dev: str | None = None,
        test: str | None = None,
        source: str | None = None,
        target: str | None = None,
        tasks: list[str] = ["asr"],  # noqa: B006 (never changed, and shown by --help as it is)
        name: str = "table",
        **kwargs: Any,
    ) -> None:
        corpus = Table(Path(root), {"train": train, "dev": dev, "test": test}, source, target, name)
        selection = hashlib.sha256(json.dumps(corpus.options(), sort_keys=True).encode()).hexdigest()[:8]
        super().__init__(
            corpus, Path(root) / "manifests" / f"{name}_{selection}", tasks=tasks, test_splits=["test"], **kwargs
        )
