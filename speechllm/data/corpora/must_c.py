"""MuST-C: TED talks in English, cut into sentences and translated (v1, v2, v3).

A partition is one language pair, ``<root>/en-de`` (or ``<root>/MUSTC_v1.0_en-de/en-de``), with ``data/<split>/wav`` of
whole talks and ``data/<split>/txt/<split>.{yaml,en,de}``, which hold one segment a line in the same order.
"""

import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

from speechllm.audio import audio_info
from speechllm.batch import TASKS
from speechllm.data.corpus import CorpusDataModule
from speechllm.data.index import ManifestIndex
from speechllm.data.manifest import Tally
from speechllm.data.rows import Selection, select_rows
from speechllm.data.text_files import read_lines
from speechllm.data.utterance import Utterance
from speechllm.errors import UserError, did_you_mean
from speechllm.languages import check_language

SPLITS = ("train", "dev", "tst-COMMON", "tst-HE")
VERSIONS = ("v1", "v2", "v3")

TOO_SHORT_S = 0.01
"""Segments below this are left out of training; the released alignments hold some of about no length."""

_SEGMENT = re.compile(r"\{([^}]*)\}")
_FIELD = re.compile(r"(\w+):\s*([^,}]+)")
_ANNOTATION = re.compile(r"\((?=[A-Z♪♫])[^()]*\)")


def strip_annotations(text: str) -> str:
    """Return a transcript without what was not said, such as ``(Laughter)`` and ``(Applause)``.

    An annotation is anything in round brackets that begins with a capital or a note.
    """
    spoken, found = _ANNOTATION.subn(" ", text)
    return " ".join(spoken.split()) if found else text


class MustC:
    """Reader of MuST-C on disk: one utterance per segment and partition, in the order of the yaml files.

    Args:
        root: Folder that holds the partitions.
        source: Language that is spoken.
        targets: Languages of the translations, one partition each.
        version: Release: ``v1``, ``v2`` or ``v3``. It cannot be told from the files, and scores of different
            releases do not compare.
        clean_transcript: Whether to take annotations such as ``(Laughter)`` out of the transcript. Translations stay
            verbatim.
    """

    name = "must_c"

    def __init__(
        self, root: Path, source: str, targets: list[str], version: str = "v1", clean_transcript: bool = True
    ) -> None:
        if version not in VERSIONS:
            msg = f"Unknown MuST-C version '{version}'.{did_you_mean(version, VERSIONS)} Known: {', '.join(VERSIONS)}."
            raise UserError(msg)
        if not targets or len(set(targets)) < len(targets):
            msg = f"MuST-C needs at least one target language, each once; got {targets}."
            raise UserError(msg)
        for language in (source, *targets):
            check_language(language, "MuST-C")
        self.root = Path(root)
        self.source = source
        self.targets = list(targets)
        self.version = version
        self.clean_transcript = clean_transcript

    def options(self) -> dict[str, Any]:
        """Return the options that decide what the manifests hold."""
        return {"source": self.source, "targets": self.targets, "clean_transcript": self.clean_transcript}

    def splits(self) -> list[str]:
        """Return the splits that every partition has.

        Raises:
            UserError: If a partition is missing, or there is no split that all have.
        """
        folders = {target: self._partition(target) / "data" for target in self.targets}
        found = [split for split in SPLITS if all((data / split / "txt").is_dir() for data in folders.values())]
        if not found:
            places = ", ".join(f"'{data}'" for data in folders.values())
            msg = f"No MuST-C split is in all of {places}; looked for {', '.join(f'{name}/txt' for name in SPLITS)}."
            raise UserError(msg)
        return found

    def files(self) -> list[Path]:
        """Return the text and yaml files of all splits."""
        return [path for split in self.splits() for target in self.targets for path in self._texts(split, target)]

    def published(self) -> dict[str, int]:
        """Return nothing: releases of the same name differ in their segments."""
        return {}

    def read(self, split: str, tally: Tally) -> Iterator[Utterance]:
        """Yield the segments of all partitions, one partition after the other.

        Raises:
            UserError: If a file is missing, a yaml entry is wrong, or the files differ in their number of segments.
        """
        for target in self.targets:
            yield from self._read_partition(split, target, tally)

    def _read_partition(self, split: str, target: str, tally: Tally) -> Iterator[Utterance]:
        yaml, source_text, target_text = self._texts(split, target)
        segments = read_segments(yaml)
        transcripts, translations = read_lines(source_text), read_lines(target_text)
        if not len(segments) == len(transcripts) == len(translations):
            msg = (
                f"The MuST-C files of {self.source}-{target} {split} do not match: '{yaml}' has {len(segments)} "
                f"segments, '{source_text}' {len(transcripts)} lines, '{target_text}' {len(translations)} lines. "
                "Unpack the archive anew; an editor or a conversion of line ends may have changed a file."
            )
            raise UserError(msg)
        info = cache(audio_info)
        for number, segment in enumerate(segments):
            wav = yaml.parent.parent / "wav" / segment["wav"]
            offset_s, duration_s = (
                _seconds(segment, "offset", yaml, number),
                _seconds(segment, "duration", yaml, number),
            )
            talk = info(wav)
            kept_s = min(duration_s, talk.duration_s - offset_s)
            if split == "train" and kept_s < TOO_SHORT_S:
                tally.rejected[f"shorter than {TOO_SHORT_S} s, or past the end of the talk"] += 1
                continue
            if kept_s < duration_s:
                tally.changed["clamped to the end of the talk"] += 1
            transcript = transcripts[number]
            if self.clean_transcript and (cleaned := strip_annotations(transcript)) != transcript:
                transcript = cleaned
                tally.changed["annotations taken out of the transcript"] += 1
            yield Utterance(
                id=f"{self.source}-{target}_{Path(segment['wav']).stem}_{number:06d}",
                audio=str(wav.resolve()),
                offset_s=offset_s,
                duration_s=max(kept_s, 1 / talk.sampling_rate),  # a test segment stays, and is one sample at least
                source_language=self.source,
                transcript=transcript,
                translations={target: translations[number]},
                speaker=segment.get("speaker_id", Path(segment["wav"]).stem),
                corpus=self.name,
                recording_duration_s=talk.duration_s,
                sampling_rate=talk.sampling_rate,
            )

    def _partition(self, target: str) -> Path:
        pair = f"{self.source}-{target}"
        places = [self.root / pair, *sorted(self.root.glob(f"MUSTC_*{pair}/{pair}")), self.root]
        for place in places[:-1]:
            if (place / "data").is_dir():
                return place
        if self.root.name == pair and (self.root / "data").is_dir():
            return self.root
        there = sorted(path.name for path in self.root.iterdir()) if self.root.is_dir() else None
        msg = (
            f"No MuST-C partition {pair} in '{self.root}': looked for '{pair}/data' and 'MUSTC_*_{pair}/{pair}/data'. "
            + (f"The folder holds: {', '.join(there[:10]) or 'nothing'}." if there is not None else "No such folder.")
            + " Give `root` the folder that the archives were unpacked in."
        )
        raise UserError(msg)

    def _texts(self, split: str, target: str) -> tuple[Path, Path, Path]:
        folder = self._partition(target) / "data" / split / "txt"
        yaml, source, translation = (folder / f"{split}.{end}" for end in ("yaml", self.source, target))
        for path in (yaml, source, translation):
            if not path.is_file():
                msg = f"The MuST-C file '{path}' is missing. Unpack the archive of {self.source}-{target} anew."
                raise UserError(msg)
        return yaml, source, translation


def read_segments(path: Path) -> list[dict[str, str]]:
    """Return the entries of a segment list, every value as a string.

    The fields come in an order that depends on the release, and a yaml parser needs minutes for a training set: each
    ``{key: value, …}`` is read by its keys.

    Raises:
        UserError: If an entry has no ``wav``, ``offset`` or ``duration``; the message names the file and the entry.
    """
    text = "\n".join(read_lines(path))
    segments = []
    for number, entry in enumerate(_SEGMENT.finditer(text), start=1):
        fields = {key: value.strip().strip("'\"") for key, value in _FIELD.findall(entry[1])}
        missing = [key for key in ("wav", "offset", "duration") if not fields.get(key)]
        if missing:
            msg = f"{path}, entry {number}: no {', '.join(missing)} in '{entry[0]}'."
            raise UserError(msg)
        segments.append(fields)
    return segments


def _seconds(segment: dict[str, str], key: str, path: Path, number: int) -> float:
    try:
        value = float(segment[key])
    except ValueError:
        value = -1.0
    if not 0 <= value < float("inf"):
        msg = f"{path}, entry {number + 1}: the {key} is '{segment[key]}', and must be a number of seconds from 0 on."
        raise UserError(msg)
    return value


class MustCDataModule(CorpusDataModule):
    """MuST-C for training and scoring; the test set is tst-COMMON.

    Args:
        root: Folder that holds the partitions, ``en-de`` or ``MUSTC_v1.0_en-de/en-de`` and so on.
        source: Language that is spoken.
        targets: Languages of the translations. Rows of the task ``asr`` come from the first one's partition only,
            since the partitions repeat the same talks.
        tasks: Any of ``asr``, ``st`` and ``asr+st``.
        version: Release that ``root`` holds: ``v1``, ``v2`` or ``v3``.
        test_splits: Splits that are scored: ``tst-COMMON``, ``tst-HE``.
        clean_transcript: Whether to take annotations such as ``(Laughter)`` out of the transcripts; translations stay
            verbatim.
        **kwargs: Options of :class:`speechllm.data.corpus.CorpusDataModule`.
    """

    def __init__(
        self,
        root: str,
        source: str = "en",
        targets: list[str] = ["de"],  # noqa: B006 (never changed, and shown by --help as it is)
        tasks: list[str] = ["st"],  # noqa: B006
        version: str = "v1",
        test_splits: list[str] = ["tst-COMMON"],  # noqa: B006
        clean_transcript: bool = True,
        **kwargs: Any,
    ) -> None:
        for split in test_splits:
            if split not in SPLITS:
                msg = f"Unknown MuST-C split '{split}'.{did_you_mean(split, SPLITS)} Known: {', '.join(SPLITS)}."
                raise UserError(msg)
        corpus = MustC(Path(root), source, targets, version, clean_transcript)
        selection = f"{version}_{source}_{'-'.join(targets)}{'' if clean_transcript else '_verbatim'}"
        super().__init__(corpus, Path(root) / "manifests" / selection, tasks=tasks, test_splits=test_splits, **kwargs)
        self.targets = list(targets)

    def select(self, index: ManifestIndex) -> Selection:
        """Return the rows of a manifest; ``asr`` in the first target's partition only."""
        selection = select_rows(index, self.tasks)
        first = index.translation_column(self.targets[0])[selection.utterances] >= 0
        return selection.keep((selection.tasks != TASKS.index("asr")) | first)
