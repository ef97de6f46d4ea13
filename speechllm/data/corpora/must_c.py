"""MuST-C: TED talks in English, cut into sentences and translated (v1, v1.2, v2, v3).

A partition is one language pair, ``<root>/en-de`` (or ``<root>/MUSTC_v1.0_en-de/en-de``), with ``data/<split>/wav`` of
whole talks and ``data/<split>/txt/<split>.{yaml,en,de}``, which hold one segment a line in the same order.
"""

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from speechllm.data.corpus import CorpusDataModule
from speechllm.data.manifest import Tally
from speechllm.data.reading.talks import (
    Segment,
    join_translations,
    read_seconds,
    read_segments,
    read_texts,
    to_utterances,
)
from speechllm.data.reading.text import UNSPOKEN, check_cleaners, clean
from speechllm.data.utterance import Utterance
from speechllm.errors import UserError, did_you_mean
from speechllm.languages import check_language

SPLITS = ("train", "dev", "tst-COMMON", "tst-HE")

_EIGHT = ("de", "es", "fr", "it", "nl", "pt", "ro", "ru")
TARGETS = {
    "v1": _EIGHT,
    "v1.2": (*_EIGHT, "ar", "cs", "fa", "tr", "vi", "zh"),
    "v2": ("de", "ja", "zh"),
    "v3": ("de", "ja", "zh"),
}
"""Targets of each release."""

ARCHIVES = {"v1": ("v1.0",), "v1.2": ("v1.2", "v1.0"), "v2": ("v2.0",), "v3": ("v3.0",)}
"""What a release is called in the names of archives; v1.2 added targets to those of v1.0."""

_PUBLISHED = {
    ("v1", "de"): {"train": 229_703, "dev": 1_423, "tst-COMMON": 2_641, "tst-HE": 600},
    ("v1", "es"): {"train": 265_625, "dev": 1_316, "tst-COMMON": 2_502},
    ("v1", "it"): {"tst-COMMON": 2_574},
    ("v1", "ru"): {"tst-COMMON": 2_513},
    ("v2", "de"): {"tst-COMMON": 2_580},
    ("v2", "zh"): {"tst-COMMON": 2_841},
}


class MustC:
    """Reader of MuST-C on disk: the segments of one partition after the other, in the order of the yaml files.

    In ``train`` a segment that several partitions have is one utterance with several translations. Other splits keep
    the segments of each partition to themselves, as scores are those of its list.

    Args:
        root: Folder that holds the partitions.
        source: Language that is spoken.
        targets: Languages of the translations, one partition each.
        version: Release: ``v1``, ``v1.2``, ``v2`` or ``v3``. It cannot be told from the files, and scores of different
            releases do not compare.
        clean_transcripts: Cleaners of transcripts, out of :data:`speechllm.data.reading.text.CLEANERS`. Translations
            stay verbatim.
    """

    name = "must_c"

    def __init__(
        self,
        root: Path,
        source: str,
        targets: list[str],
        version: str = "v1",
        clean_transcripts: list[str] = UNSPOKEN,
    ) -> None:
        if version not in TARGETS:
            msg = f"Unknown MuST-C version '{version}'.{did_you_mean(version, TARGETS)} Known: {', '.join(TARGETS)}."
            raise UserError(msg)
        if not targets or len(set(targets)) < len(targets):
            msg = f"MuST-C needs at least one target language, each once; got {targets}."
            raise UserError(msg)
        for language in (source, *targets):
            check_language(language, "MuST-C")
        self.root = Path(root)
        self.source = source
        self.targets = list(targets)
        self.first_targets = {source: targets[0]}
        self.version = version
        self.cleaners = check_cleaners(clean_transcripts)

    def options(self) -> dict[str, Any]:
        """Return the options that decide what the manifests hold."""
        return {"source": self.source, "targets": self.targets, "clean_transcripts": self.cleaners}

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
        """Return the published numbers of segments, for splits of which they are known of every target.

        Several targets share segments in ``train``. A corpus of another name in this layout has none.
        """
        release = "v1" if self.version == "v1.2" else self.version
        counts = [_PUBLISHED.get((release, target), {}) for target in self.targets]
        if self.name != MustC.name or self.source != "en":
            return {}
        known = [split for split in SPLITS if all(split in count for count in counts)]
        return {split: sum(count[split] for count in counts) for split in known if split != "train" or len(counts) == 1}

    def read(self, split: str, tally: Tally) -> Iterator[Utterance]:
        """Yield the segments of all partitions, one partition after the other.

        Raises:
            UserError: If a file is missing, a yaml entry is wrong, the files differ in their number of segments, or
                there is no talk.
        """
        for group in [self.targets] if split == "train" else [[target] for target in self.targets]:
            partitions = [self._segments(split, target, tally) for target in group]
            segments = join_translations(partitions) if len(group) > 1 else partitions[0]
            yield from to_utterances(segments, split, tally, self.name, self.source)

    def _segments(self, split: str, target: str, tally: Tally) -> Iterator[Segment]:
        yaml, source_text, target_text = self._texts(split, target)
        segments = read_segments(yaml, tally)
        transcripts, translations = read_texts(source_text, tally), read_texts(target_text, tally)
        if not len(segments) == len(transcripts) == len(translations):
            msg = (
                f"The MuST-C files of {self.source}-{target} {split} do not match: '{yaml}' has {len(segments)} "
                f"segments, '{source_text}' {len(transcripts)} lines, '{target_text}' {len(translations)} lines. "
                "Unpack the archive anew; an editor or a conversion of line ends may have changed a file."
            )
            raise UserError(msg)
        folder = str((yaml.parent.parent / "wav").resolve())
        talks: dict[str, str] = {}
        for number, (segment, transcript) in enumerate(zip(segments, transcripts, strict=True)):
            wav = os.path.basename(segment["wav"])
            talk = wav.removesuffix(".wav")
            where = f"{yaml}, entry {number + 1}: the"
            spoken = clean(transcript, self.cleaners)
            if spoken != transcript:
                tally.changed["transcript cleaned"] += 1
            yield Segment(
                id=f"{self.source}-{target}_{talk}_{number:06d}",
                audio=talks.setdefault(wav, f"{folder}/{wav}"),  # one text for all segments of a talk
                offset_s=read_seconds(segment["offset"], f"{where} offset"),
                duration_s=read_seconds(segment["duration"], f"{where} duration"),
                transcript=spoken,
                translations={target: translations[number]},
                speaker=segment.get("speaker_id") or talk,
            )

    def _partition(self, target: str) -> Path:
        pair = f"{self.source}-{target}"
        places = [self.root / name for name in self._places(pair)] + [self.root] * (self.root.name == pair)
        for place in places:
            if (place / "data").is_dir():
                self._check_release(place, target)
                return place
        raise UserError(self._no_partition(pair))

    def _places(self, pair: str) -> list[str]:
        return [pair, *(f"MUSTC_{release}_{pair}/{pair}" for release in ARCHIVES[self.version])]

    def _check_release(self, place: Path, target: str) -> None:
        """Check that the release has the target, and that no archive's name above it says another release."""
        archive = re.match(r"MUSTC_(v[\d.]+)_", place.resolve().parent.name)
        if archive and archive[1] not in ARCHIVES[self.version]:
            msg = (
                f"'{place}' is of release {archive[1]} of MuST-C, not {self.version}. Give `version` the one you have."
            )
            raise UserError(msg)
        if self.name == MustC.name and target not in TARGETS[self.version]:
            having = ", ".join(release for release, targets in TARGETS.items() if target in targets)
            msg = (
                f"MuST-C {self.version} has no translations into '{target}'; it has: "
                f"{', '.join(TARGETS[self.version])}. "
                + (f"'{target}' is in: {having}. Give `version`." if having else "")
            )
            raise UserError(msg)

    def _no_partition(self, pair: str) -> str:
        others = sorted(path.name for path in self.root.glob(f"MUSTC_*_{pair}"))
        there = sorted(path.name for path in self.root.iterdir()) if self.root.is_dir() else None
        holds = f"The folder holds: {', '.join(there[:10]) or 'nothing'}." if there is not None else "No such folder."
        looked_for = ", ".join(f"'{place}/data'" for place in self._places(pair))
        return (
            f"No MuST-C partition {pair} in '{self.root}': looked for {looked_for}. {holds} "
            + (f"{', '.join(others)} is another release than {self.version}: give `version`. " if others else "")
            + "Give `root` the folder that the archives were unpacked in."
        )

    def _texts(self, split: str, target: str) -> tuple[Path, Path, Path]:
        folder = self._partition(target) / "data" / split / "txt"
        yaml, source, translation = (folder / f"{split}.{end}" for end in ("yaml", self.source, target))
        for path in (yaml, source, translation):
            if not path.is_file():
                msg = f"The MuST-C file '{path}' is missing. Unpack the archive of {self.source}-{target} anew."
                raise UserError(msg)
        return yaml, source, translation


class MustCDataModule(CorpusDataModule):
    """MuST-C for training and scoring; the test set is tst-COMMON.

    Args:
        root: Folder that holds the partitions, ``en-de`` or ``MUSTC_v1.0_en-de/en-de`` and so on.
        source: Language that is spoken.
        targets: Languages of the translations. Rows of the task ``asr`` come from the first one's partition only,
            since the partitions repeat the same talks.
        tasks: Any of ``asr``, ``st`` and ``asr+st``.
        version: Release that ``root`` holds: ``v1``, ``v1.2``, ``v2`` or ``v3``.
        test_splits: Splits that are scored: ``tst-COMMON``, ``tst-HE``.
        clean_transcripts: What is taken out of transcripts, by the names of cleaners: ``annotations`` such as
            (Laughter), ``music`` (♫), ``dashes`` that they begin with, ``entities`` (&amp;), ``whitespace`` and
            ``speaker_prefixes`` such as "Bruno Giussani:"; nothing where empty. Translations stay verbatim.
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
        clean_transcripts: list[str] = UNSPOKEN,
        **kwargs: Any,
    ) -> None:
        for split in test_splits:
            if split not in SPLITS:
                msg = f"Unknown MuST-C split '{split}'.{did_you_mean(split, SPLITS)} Known: {', '.join(SPLITS)}."
                raise UserError(msg)
        corpus = MustC(Path(root), source, targets, version, clean_transcripts)
        selection = f"{version}_{source}_{'-'.join(targets)}"
        if corpus.cleaners != check_cleaners(UNSPOKEN):
            selection += f"_{'-'.join(corpus.cleaners) or 'verbatim'}"
        super().__init__(corpus, Path(root) / "manifests" / selection, tasks=tasks, test_splits=test_splits, **kwargs)
