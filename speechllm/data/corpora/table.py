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
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from speechllm.audio import AudioInfo
from speechllm.data.corpus import CorpusDataModule
from speechllm.data.headers import read_headers
from speechllm.data.manifest import Tally
from speechllm.data.table_rows import COLUMNS, SUFFIXES, TableRow, read_rows
from speechllm.data.utterance import Utterance
from speechllm.errors import UserError, did_you_mean
from speechllm.languages import check_language

SPLITS = ("train", "dev", "test")

log = logging.getLogger(__name__)


@dataclass
class _Clip:
    """An utterance before its audio was looked at; ``where`` is the first row that names it."""

    where: str
    utterance: Utterance
    duration_s: float | None


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
        found = [split for split in SPLITS if self._table(split) is not None]
        if not found:
            there = sorted(path.name for path in self.root.iterdir()) if self.root.is_dir() else None
            holds = "No such folder." if there is None else f"It holds: {', '.join(there[:10]) or 'nothing'}."
            msg = (
                f"No table in '{self.root}': looked for {', '.join(f'{split}.csv' for split in SPLITS)}, or .tsv or "
                f".jsonl. {holds} Name the tables: `train`, `dev`, `test`."
            )
            raise UserError(msg)
        return found

    def files(self) -> list[Path]:
        """Return the tables."""
        return [table for split in SPLITS if (table := self._table(split)) is not None]

    def published(self) -> dict[str, int]:
        """Return nothing: it is the user's own."""
        return {}

    def read(self, split: str, tally: Tally) -> Iterator[Utterance]:
        """Yield the utterances of a split in the order in which the table first names them.

        Raises:
            UserError: If the table or a row cannot be used; of a test set, also if a row would be left out.
        """
        path = self._table(split)
        if path is None:
            msg = f"There is no table of the split '{split}' in '{self.root}'."
            raise UserError(msg)
        clips: dict[str, _Clip] = {}
        columns: dict[str, None] = {}
        for row in read_rows(path, tally, whole=split == "test"):
            columns |= dict.fromkeys(row.columns)
            clip = self._clip(row, path, split, tally)
            if clip is not None:
                self._add(clips, clip, split, tally)
        _check_columns(path, list(columns), split)
        yield from self._with_audio(list(clips.values()), path, split, tally)

    def _clip(self, row: TableRow, path: Path, split: str, tally: Tally) -> _Clip | None:
        """Return a row as an utterance of its own, None where it is left out."""
        if "audio" not in row.cells:
            _leave_out(row.where, "no audio is named", "", split, tally)
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
        if not transcript and not translations and split != "test":
            _leave_out(row.where, "neither transcript nor translation", "", split, tally)
            return None
        offset_s, duration_s = row.seconds("offset") or 0.0, row.seconds("duration")
        if duration_s == 0:
            msg = f"{row.where}: `duration` is 0, and must be above; leave it empty to take the file to its end."
            raise UserError(msg)
        stretch = f":{offset_s:.3f}" if offset_s or duration_s is not None else ""
        stretch += f"+{duration_s:.3f}" if duration_s is not None else ""
        utterance = Utterance(
            id=row.cells.get("id", row.cells["audio"] + (stretch if "offset" in row.cells else "")),
            audio=str((path.parent / row.cells["audio"]).absolute()),
            offset_s=offset_s,
            duration_s=duration_s or 0.0,
            source_language=source,
            transcript=transcript,
            translations=translations,
            speaker=row.cells.get("speaker", ""),
            corpus=self.name,
        )
        return _Clip(row.where, utterance, duration_s)

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
            if text or split == "test":  # a test row stays, with an empty reference
                found[target] = text
        if split == "test" and not found and (target := row.cells.get("target", self.target)):
            check_language(target, row.where)
            found[target] = ""
        return found

    def _add(self, clips: dict[str, _Clip], clip: _Clip, split: str, tally: Tally) -> None:
        """Add an utterance, or its translations to those of the same stretch of audio."""
        new = clip.utterance
        first = clips.setdefault(new.id, clip)
        if first is clip:
            return
        old = first.utterance
        if (old.audio, old.offset_s, old.duration_s) != (new.audio, new.offset_s, new.duration_s):
            msg = f"{clip.where}: the id '{new.id}' is already that of {first.where}, which is other audio."
            raise UserError(msg)
        if old.source_language != new.source_language or (new.transcript and old.transcript != new.transcript):
            if not old.transcript and old.source_language == new.source_language:
                old.transcript = new.transcript
            else:
                _leave_out(clip.where, "another transcript of the same audio", f" as {first.where}", split, tally)
                return
        added = {target: text for target, text in new.translations.items() if not old.translations.get(target)}
        if not added:
            _leave_out(clip.where, "the same audio and target again", f" as {first.where}", split, tally)
        old.translations |= added

    def _with_audio(self, clips: list[_Clip], path: Path, split: str, tally: Tally) -> Iterator[Utterance]:
        """Yield the utterances with their durations; clips that cannot be read stay in the test set alone."""
        absent = {audio for audio in {clip.utterance.audio for clip in clips} if not os.path.isfile(audio)}
        missing = [clip for clip in clips if clip.utterance.audio in absent]
        if missing and (split == "test" or len(missing) == len(clips)):
            msg = (
                f"{len(missing)} of {len(clips)} audio files of '{path}' are missing, the first one is "
                f"'{missing[0].utterance.audio}' ({missing[0].where}). Paths are relative to the table's folder."
            )
            raise UserError(msg)
        for clip, info in _headers(clips):
            utterance = clip.utterance
            if clip.duration_s is not None and utterance.audio not in absent:
                utterance.recording_duration_s = utterance.offset_s + clip.duration_s
            elif info is None and split != "test":
                tally.rejected["audio is missing, empty or damaged"] += 1
                continue
            elif info is None:
                tally.changed["audio is empty or damaged, and counts as silence"] += 1
                utterance.duration_s = utterance.recording_duration_s = 1 / utterance.sampling_rate
            else:
                utterance.sampling_rate, utterance.recording_duration_s = info.sampling_rate, info.duration_s
                utterance.duration_s = info.duration_s - utterance.offset_s
                if utterance.duration_s <= 0:
                    _leave_out(clip.where, "begins past the end of the audio", "", split, tally)
                    continue
            yield utterance

    def _table(self, split: str) -> Path | None:
        given = self.tables.get(split)
        places = [self.root / given] if given else [self.root / f"{split}{suffix}" for suffix in SUFFIXES]
        found = [place for place in places if place.is_file()]
        if given and not found:
            msg = f"The table of `{split}`, '{places[0]}', does not exist. Tables are named from `root`."
            raise UserError(msg)
        if len(found) > 1:
            names = ", ".join(f"'{place.name}'" for place in found)
            msg = f"'{self.root}' has several tables of the split {split}: {names}. Say which: `{split}`."
            raise UserError(msg)
        return found[0] if found else None


def _leave_out(where: str, reason: str, detail: str, split: str, tally: Tally) -> None:
    """Count a row that is left out by its reason; a test set must be whole.

    Raises:
        UserError: If the row is one of a test set.
    """
    if split == "test":
        msg = f"{where}: {reason}{detail}. A test set must be whole: correct the row, or take it out."
        raise UserError(msg)
    tally.rejected[reason] += 1


def _check_columns(path: Path, columns: list[str], split: str) -> None:
    """Check that a table has texts, and warn of columns that look like one that is read, and are not.

    Raises:
        UserError: If a split to learn from has no column of texts.
    """
    texts = [column for column in columns if column in ("transcript", "translation") or _is_translation(column)]
    if columns and not texts and split != "test":
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


def _headers(clips: list[_Clip]) -> Iterator[tuple[_Clip, AudioInfo | None]]:
    """Yield each clip with what its header says.

    None stands for what cannot be read, and for clips whose duration the table gives.
    """
    infos = read_headers(clip.utterance.audio for clip in clips if clip.duration_s is None)
    for clip in clips:
        yield clip, next(infos) if clip.duration_s is None else None


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
