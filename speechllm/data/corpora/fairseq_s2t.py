r"""fairseq S2T tables: tab-separated ``id  audio  n_frames  tgt_text  speaker  [src_text  src_lang  tgt_lang]``.

``audio`` is a file, or a slice of one as ``talk.wav:<start>:<length>`` in samples of that file: fairseq itself does not
know this form, but the many descendants that train on raw audio do. ``fbank80.zip:<offset>:<length>`` (bytes of an
archive) and ``.npy`` are what fairseq extracts: features, from which speech cannot be had back; they are refused.
``n_frames`` counts features of 10 ms or samples, depending on what ``audio`` is, and is not read.

``tgt_text`` is the translation where ``tgt_lang`` is not ``src_lang``, and else the transcript; tables of both, given
together, become one utterance a row of the same ``id`` and ``audio``.

fairseq writes with ``\`` before quotes, tabs and itself; these are undone, as pandas does and fairseq's own loader does
not. One physical line is one row.
"""

import hashlib
import json
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from speechllm.data.corpus import CorpusDataModule
from speechllm.data.manifest import LEARNED_SPLITS, Tally
from speechllm.data.reading.headers import read_headers
from speechllm.data.reading.split_files import find_splits
from speechllm.data.reading.stretches import Stretch, Stretches, leave_out, with_audio
from speechllm.data.reading.text_files import count_open_end, not_utf8
from speechllm.data.utterance import Utterance
from speechllm.errors import UserError, did_you_mean
from speechllm.languages import check_language

COLUMNS = ("id", "audio", "tgt_text")
"""Columns that a table must have; ``src_text``, ``src_lang``, ``tgt_lang`` and ``speaker`` are read where there are."""

_SLICE = re.compile(r"(.+):(\d+):(\d+)")
_SPECIAL = re.compile(r"(\\.|\t)")
_ESCAPED = {r"\"": '"', r"\\": "\\", "\\\t": "\t"}
_MAX_FRAMES = 2**53
"""Above this a float cannot count."""

_AUDIO_IN_ZIP = (b"RIFF", b"fLaC", b"OggS")


class FairseqS2T:
    """Reader of fairseq S2T tables: one utterance a stretch of audio, with the texts of all rows that name it.

    Args:
        root: Folder that tables are named from.
        tables: Table or tables of each split; None for ``<split>.tsv``, if there is one.
        source: Language that is spoken, for rows that do not say.
        target: Language of ``tgt_text``, for rows that do not say; where not given, the language that is spoken.
        audio_root: Folder that relative audio paths are named from, itself named from ``root``.
        name: Name of the corpus, as batches and results carry it.
    """

    version = "own"

    def __init__(
        self,
        root: Path,
        tables: dict[str, str | list[str] | None],
        source: str | None = None,
        target: str | None = None,
        audio_root: str = ".",
        name: str = "fairseq_s2t",
    ) -> None:
        for language in (source, target):
            if language is not None:
                check_language(language, "fairseq S2T")
        self.root, self.tables, self.source, self.target, self.name = Path(root), tables, source, target, name
        self.audio_root = audio_root
        self._folder = os.path.abspath(self.root / audio_root)

    def options(self) -> dict[str, Any]:
        """Return the options that decide what the manifests hold."""
        return {
            "tables": self.tables,
            "source": self.source,
            "target": self.target,
            "audio_root": self.audio_root,
        }

    def splits(self) -> list[str]:
        """Return the splits that have a table.

        Raises:
            UserError: If there is none, or a table that was named is missing.
        """
        return list(self._found())

    def files(self) -> list[Path]:
        """Return the tables."""
        return [path for paths in self._found().values() for path in paths]

    def published(self) -> dict[str, int]:
        """Return nothing: it is the user's own."""
        return {}

    def read(self, split: str, tally: Tally) -> Iterator[Utterance]:
        """Yield the utterances of a split in the order in which its tables first name them.

        Raises:
            UserError: If a table or a row cannot be used, or the audio is features; of a test set, also if a row would
                be left out.
        """
        # Segments of several target languages have the same ids and need not be the same stretches of a talk.
        stretches = Stretches(split, tally, number_clashes=True)
        for path in self._found()[split]:
            rows = list(_rows(path, split, tally))
            slices = [found[1] for _, row in rows if (found := _SLICE.fullmatch(row["audio"]))]
            files = [self._audio(name) for name in dict.fromkeys(slices)]
            infos = dict(zip(files, read_headers(files), strict=True))
            for where, row in rows:
                stretch = self._stretch(row, where, split, tally)
                if stretch is None:
                    continue
                info = infos.get(stretch.utterance.audio)
                if info is not None and (found := _SLICE.fullmatch(row["audio"])):
                    stretch.file = info
                    stretch.utterance.offset_s, stretch.duration_s = (
                        min(int(digits), _MAX_FRAMES) / info.sampling_rate for digits in (found[2], found[3])
                    )
                stretches.add(stretch)
        yield from with_audio(stretches, split, tally, "Say what paths are relative to: `audio_root`.")

    def _stretch(self, row: dict[str, str], where: str, split: str, tally: Tally) -> Stretch | None:
        """Return a row as an utterance of its own, of the whole file; None where it is left out."""
        audio, slice_ = row["audio"], _SLICE.fullmatch(row["audio"])
        name = slice_[1] if slice_ else audio
        if name.endswith((".zip", ".npy")):
            raise UserError(_features(self._audio(name), int(slice_[2]) if slice_ else 0, where))
        source = row.get("src_lang") or self.source
        if not source:
            msg = f"{where}: no source language. Add a column `src_lang`, or give the option `source`."
            raise UserError(msg)
        target = row.get("tgt_lang") or self.target or source
        for language in (source, target):
            check_language(language, where)
        text = row["tgt_text"]
        problem = "no audio is named" if not name else ""
        if not text.strip() and split in LEARNED_SPLITS:
            problem = problem or "tgt_text is empty"
        if problem:
            leave_out(where, problem, split, tally)
            return None
        utterance = Utterance(
            id=row["id"] or audio,
            audio=self._audio(name),
            offset_s=0.0,
            duration_s=0.0,
            source_language=source,
            transcript=text if target == source else row.get("src_text", ""),
            translations={} if target == source else {target: text},
            speaker=row.get("speaker", ""),
            corpus=self.name,
        )
        return Stretch(where, utterance, None)

    def _audio(self, name: str) -> str:
        return os.path.join(self._folder, name)

    def _found(self) -> dict[str, list[Path]]:
        return find_splits(self.root, self.tables, ("{split}.tsv",), "table")


def _rows(path: Path, split: str, tally: Tally) -> Iterator[tuple[str, dict[str, str]]]:
    """Yield the rows of a table with their places.

    Raises:
        UserError: If the table cannot be read, lacks a column, or a row of a test set has a wrong number of fields.
    """
    try:
        with path.open(encoding="utf-8", newline="\n") as lines:
            line = next(lines, "")
            header = _fields(line.removeprefix("\ufeff"))
            if missing := [column for column in COLUMNS if column not in header]:
                msg = (
                    f"'{path}' has no column {', '.join(missing)}.{did_you_mean(missing[0], header)} Its columns are: "
                    f"{', '.join(header)}."
                )
                raise UserError(msg)
            for number, line in enumerate(lines, start=2):
                fields = _fields(line)
                where = f"{path}, line {number}"
                if len(fields) == len(header):
                    yield where, dict(zip(header, fields, strict=True))
                elif line.strip():
                    leave_out(where, f"{len(fields)} fields for {len(header)} columns", split, tally)
            count_open_end(line.encode(), path.name, tally)
    except OSError as error:
        msg = f"The table '{path}' cannot be read: {error}."
        raise UserError(msg) from error
    except UnicodeDecodeError as error:
        raise not_utf8(path, error) from error


def _fields(line: str) -> list[str]:
    """Return the fields of a line; a backslash that escapes nothing stays, as older writers left it."""
    line = line.removesuffix("\n").removesuffix("\r")
    if "\\" not in line:
        return line.split("\t")
    fields = [""]
    for piece in _SPECIAL.split(line):
        if piece == "\t":
            fields.append("")
        else:
            fields[-1] += _ESCAPED.get(piece, piece)
    return fields


def _features(path: str, offset: int, where: str) -> str:
    """Return why a row of an archive or an array cannot be read, and what to do instead."""
    start = b""
    try:
        with open(path, "rb") as file:
            file.seek(offset)
            start = file.read(4)
    except (OSError, ValueError, OverflowError):  # an offset that no file has
        pass
    if start in _AUDIO_IN_ZIP:
        return (
            f"{where}: the audio stands in the archive '{path}'. Unpack it (fairseq's archives hold <id>.flac), and "
            "name the files in the column `audio`."
        )
    return (
        f"{where}: '{path}' holds features that fairseq extracted, and models here take audio. Name audio files in the "
        "column `audio`, or read the corpus itself (must_c, covost2, …) with its own reader."
    )


class FairseqS2TDataModule(CorpusDataModule):
    """fairseq S2T tables for training and scoring.

    Args:
        root: Folder that the tables are named from; manifests of our own go below it.
        train: Table to train on, or several; ``train.tsv``, if it is there, where not given.
        dev: Table to validate on, likewise.
        test: Table to score, likewise, such as ``tst-COMMON_st.tsv``.
        source: Language that is spoken, for rows without ``src_lang``.
        target: Language of ``tgt_text``, for rows without ``tgt_lang``; that of ``source`` where not given.
        audio_root: Folder that relative audio paths are named from, itself named from ``root``; fairseq has it in its
            configuration.
        tasks: Any of ``asr``, ``st`` and ``asr+st``.
        name: Name of the corpus in results.
        **kwargs: Options of :class:`speechllm.data.corpus.CorpusDataModule`.
    """

    def __init__(
        self,
        root: str,
        train: str | list[str] | None = None,
        dev: str | list[str] | None = None,
        test: str | list[str] | None = None,
        source: str | None = None,
        target: str | None = None,
        audio_root: str = ".",
        tasks: list[str] = ["st"],  # noqa: B006 (never changed, and shown by --help as it is)
        name: str = "fairseq_s2t",
        **kwargs: Any,
    ) -> None:
        corpus = FairseqS2T(Path(root), {"train": train, "dev": dev, "test": test}, source, target, audio_root, name)
        selection = hashlib.sha256(json.dumps(corpus.options(), sort_keys=True).encode()).hexdigest()[:8]
        super().__init__(
            corpus, Path(root) / "manifests" / f"{name}_{selection}", tasks=tasks, test_splits=["test"], **kwargs
        )
