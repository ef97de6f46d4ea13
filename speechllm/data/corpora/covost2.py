"""CoVoST 2: translations of Common Voice 4, from English into 15 languages and from 21 languages into English.

``<root>/<source>`` (or ``<root>/cv-corpus-<release>/<source>``) holds the mp3 clips of Common Voice and its lists of
sentences. There, or in ``<root>``, are the lists of translations, in one of two forms:

- as released: ``covost_v2.de_en.tsv`` (path, translation, split), joined on the path with ``validated.tsv``, or with
  ``train.tsv``, ``dev.tsv`` and ``test.tsv`` where that is missing;
- as the release's own script writes them: ``covost_v2.de_en.<split>.tsv`` (path, sentence, translation, client_id).
"""

import logging
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from speechllm.data.corpora.commonvoice import (
    clip_durations,
    clip_id,
    clip_name,
    find_list,
    locale_folder,
    locale_folders,
    manifest_folder,
    sentence_lists,
)
from speechllm.data.corpus import CorpusDataModule
from speechllm.data.manifest import LEARNED_SPLITS, Tally
from speechllm.data.reading.clips import with_durations
from speechllm.data.reading.text import check_cleaners, clean
from speechllm.data.reading.text_files import read_table
from speechllm.data.utterance import Utterance
from speechllm.errors import UserError, did_you_mean
from speechllm.languages import check_language

SPLITS = ("train", "dev", "test")
EXTENDED = ("dev_covost", "test_covost")
"""Splits of v1 alone."""

PREFIXES = {"v1": "covost", "v2": "covost_v2"}

FROM_ENGLISH = ("ar", "ca", "cy", "de", "et", "fa", "id", "ja", "lv", "mn", "sl", "sv-SE", "ta", "tr", "zh-CN")
SIZE_FROM_ENGLISH = (289_430, 15_531, 15_531)
SIZES_INTO_ENGLISH = {
    "ar": (2_283, 1_758, 1_695),
    "ca": (95_854, 12_730, 12_730),
    "cy": (1_241, 690, 690),
    "de": (127_834, 13_511, 13_511),
    "es": (79_015, 13_221, 13_221),
    "et": (1_782, 1_576, 1_571),
    "fa": (53_949, 3_445, 3_445),
    "fr": (207_374, 14_760, 14_760),
    "id": (1_243, 792, 844),
    "it": (31_698, 8_940, 8_951),
    "ja": (1_119, 635, 684),
    "lv": (2_337, 1_125, 1_629),
    "mn": (2_067, 1_761, 1_759),
    "nl": (7_108, 1_699, 1_699),
    "pt": (9_158, 3_318, 4_023),
    "ru": (12_112, 6_110, 6_300),
    "sl": (1_843, 509, 360),
    "sv-SE": (2_160, 1_349, 1_595),
    "ta": (1_358, 384, 786),
    "tr": (3_966, 1_624, 1_629),
    "zh-CN": (7_085, 4_843, 4_898),
}
"""Rows of train, dev and test by source language, as the data set's card gives them; not all have a translation."""

log = logging.getLogger(__name__)


class _Row(NamedTuple):
    clip: str
    sentence: str
    translation: str
    speaker: str


@dataclass(frozen=True)
class _Lists:
    """Lists of translations of a pair: one for each split as the script writes them, or one and the same for all."""

    by_split: dict[str, Path]
    scripted: bool


class CoVoST2:
    """Reader of CoVoST 2 on disk: one utterance per clip, with the translations of all pairs of its language.

    Rows come in Common Voice's order, as in the script's output.

    Args:
        root: Folder that holds one folder per source language.
        pairs: Language pairs as the release names them: ``en_de``, ``fr_en``, ``en_zh-CN``.
        version: Release: ``v2``, or ``v1``, which belongs to Common Voice 3 and has other splits.
        clean_transcripts: Cleaners of transcripts by name; ``quotes``, the default, takes off those that exports put
            around sentences. Translations stay verbatim.
    """

    name = "covost2"

    def __init__(
        self, root: Path, pairs: list[str], version: str = "v2", clean_transcripts: Sequence[str] = ("quotes",)
    ) -> None:
        if version not in PREFIXES:
            msg = f"Unknown CoVoST version '{version}'.{did_you_mean(version, PREFIXES)} Known: {', '.join(PREFIXES)}."
            raise UserError(msg)
        if not pairs or len(set(pairs)) < len(pairs):
            msg = f"CoVoST 2 needs at least one language pair, each once; got {pairs}."
            raise UserError(msg)
        self.root = Path(root)
        self.version = version
        self.cleaners = check_cleaners(clean_transcripts)
        self.targets: dict[str, list[str]] = {}
        for pair in pairs:
            source, _, target = pair.partition("_")
            if not source or not target or "_" in target:
                msg = f"A CoVoST 2 pair is written <source>_<target>, such as 'en_de' or 'zh-CN_en'; got '{pair}'."
                raise UserError(msg)
            for language in (source, target):
                check_language(language, f"CoVoST 2 pair '{pair}'")
            self.targets.setdefault(source, []).append(target)

    def options(self) -> dict[str, Any]:
        """Return the options that decide what the manifests hold."""
        return {"targets": self.targets, "clean_transcripts": self.cleaners}

    def splits(self) -> list[str]:
        """Return the splits, which all pairs have.

        Raises:
            UserError: If the files of a pair are missing, or a pair lacks a split that another has.
        """
        found = {pair: list(self._lists(*pair).by_split) for pair in self._pairs()}
        for source in self.targets:
            locale_folder(self.root, source)
        splits = max(found.values(), key=len)
        for (source, target), there in found.items():
            if missing := [split for split in splits if split not in there]:
                msg = (
                    f"CoVoST 2 {source}_{target} in '{self.root}' has no list for {', '.join(missing)}, which other "
                    "pairs have. Add the list, or prepare the pairs one by one."
                )
                raise UserError(msg)
        return splits

    def files(self) -> list[Path]:
        """Return the lists of translations, of sentences and of durations."""
        files: set[Path] = set()
        for source, target in self._pairs():
            lists = self._lists(source, target)
            files.update(lists.by_split.values())
            folder = locale_folder(self.root, source)
            files.update([] if lists.scripted else sentence_lists(folder, "test"))
            if (durations := folder / "clip_durations.tsv").is_file():
                files.add(durations)
        return sorted(files)

    def published(self) -> dict[str, int]:
        """Return the published number of rows of each split, where all pairs are of the release."""
        sizes = []
        for source, targets in self.targets.items():
            if source == "en" and set(targets) <= set(FROM_ENGLISH):
                sizes.append(SIZE_FROM_ENGLISH)
            elif targets == ["en"] and source in SIZES_INTO_ENGLISH:
                sizes.append(SIZES_INTO_ENGLISH[source])
            else:
                return {}
        if self.version != "v2":
            return {}
        return {split: sum(size[number] for size in sizes) for number, split in enumerate(SPLITS)}

    def read(self, split: str, tally: Tally) -> Iterator[Utterance]:
        """Yield the utterances of all source languages, one language after the other.

        Raises:
            UserError: If a list lacks a column or is damaged, no row has a sentence, or none of a language's clips is
                there.
        """
        for source in self.targets:
            folder = locale_folder(self.root, source)
            utterances = self._read_source(source, folder, split, tally)
            yield from with_durations(utterances, split, tally, clip_durations(folder, split))

    def _read_source(self, source: str, folder: Path, split: str, tally: Tally) -> Iterator[Utterance]:
        """Yield the utterances of a language, durations missing."""
        learned = split in LEARNED_SPLITS
        rows: dict[tuple[str, int], _Row] = {}
        translations: dict[tuple[str, int], dict[str, str]] = {}
        unusable: Counter[tuple[str, int]] = Counter()
        scored_speakers: set[str] = set()
        for target in self.targets[source]:
            times: Counter[str] = Counter()
            for row in self._read_pair(source, target, folder, split, tally, scored_speakers):
                times[row.clip] += 1
                key = (row.clip, times[row.clip])
                if learned and times[row.clip] > 1:
                    tally.rejected["the same clip again"] += 1
                    continue
                rows.setdefault(key, row)
                texts = translations.setdefault(key, {})
                if learned and not is_translation(row.translation):
                    unusable[key] += 1
                else:
                    texts[target] = row.translation
        kept = [key for key, texts in translations.items() if texts]
        if len(kept) < len(rows):
            tally.rejected["translation is empty or REMOVE"] += len(rows) - len(kept)
        if partly := sum(count for key, count in unusable.items() if translations[key]):
            tally.changed["translation into one language is empty or REMOVE, and left out"] += partly
        self._count_shared_speakers(source, [rows[key].speaker for key in kept], scored_speakers, tally)
        clips = (folder / "clips").absolute()
        for clip, time in kept:
            row = rows.pop((clip, time))
            transcript = clean(row.sentence, self.cleaners)
            if transcript != row.sentence:
                tally.changed["transcript cleaned"] += 1
            yield Utterance(
                id=clip_id(clip, time, tally),
                audio=f"{clips}/{clip}",
                offset_s=0.0,
                duration_s=0.0,
                source_language=source,
                transcript=transcript,
                translations=translations.pop((clip, time)),
                speaker=row.speaker,
                corpus=self.name,
            )

    def _read_pair(
        self, source: str, target: str, folder: Path, split: str, tally: Tally, scored_speakers: set[str]
    ) -> Iterator[_Row]:
        """Yield the rows of a pair; for ``train``, add the speakers of ``dev`` and ``test`` to ``scored_speakers``."""
        lists = self._lists(source, target)
        path = lists.by_split[split]
        if not lists.scripted:
            yield from self._join(path, folder, split, tally, scored_speakers)
            return
        columns = ("path", "sentence", "translation")
        for row in read_table(path, columns, tally, escaped=True, whole=split not in LEARNED_SPLITS):
            yield _Row(clip_name(row["path"]), row["sentence"], row["translation"], row.get("client_id", ""))
        for scored in ("dev", "test") if split == "train" else ():
            if scored in lists.by_split:
                rows = read_table(lists.by_split[scored], columns, Tally(), escaped=True)
                scored_speakers.update(row.get("client_id", "") for row in rows)

    def _join(self, path: Path, folder: Path, split: str, tally: Tally, scored_speakers: set[str]) -> Iterator[_Row]:
        """Yield the rows of a list as released with the sentence and speaker of Common Voice, in its order.

        Rows of ``train`` and ``dev`` without a sentence are left out, as officially; those of a test set come last,
        with an empty transcript.
        """
        translations: dict[str, list[str]] = {}
        scored: set[str] = set()
        for row in read_table(path, ("path", "translation", "split"), tally, whole=split not in LEARNED_SPLITS):
            clip, belongs = clip_name(row["path"]), self._split_of(row["split"])
            if belongs == split:
                translations.setdefault(clip, []).append(row["translation"])
            elif split == "train" and belongs:
                scored.add(clip)
            elif split == "train":
                tally.rejected["the split is none of train, dev and test"] += 1
            elif not belongs and split not in LEARNED_SPLITS and row["split"] not in EXTENDED:
                msg = (
                    f"{path}: the split of '{row['path']}' is '{row['split']}', and must be {', '.join(SPLITS)} or "
                    "train_covost. A test set must be whole: fetch the file anew."
                )
                raise UserError(msg)
        found: set[str] = set()
        for sentence_list in sentence_lists(folder, split):
            if len(found) == len(translations) and not scored:
                break
            # What is wrong with a row of Common Voice shows as a sentence that is not found.
            for row in read_table(sentence_list, ("path", "sentence"), Tally()):
                clip, speaker = clip_name(row["path"]), row.get("client_id", "")
                if clip in scored:
                    scored_speakers.add(speaker)
                if clip in translations and clip not in found:
                    found.add(clip)
                    for translation in translations[clip]:
                        yield _Row(clip, row["sentence"], translation, speaker)
        missing = [clip for clip in translations if clip not in found]
        _report_join(path, folder, len(translations), len(missing))
        for clip in missing:
            for translation in translations[clip]:
                if split in LEARNED_SPLITS:
                    tally.rejected["no sentence in Common Voice"] += 1
                else:
                    tally.changed["no sentence in Common Voice, and the transcript is empty"] += 1
                    yield _Row(clip, "", translation, "")

    def _count_shared_speakers(self, source: str, speakers: list[str], scored: set[str], tally: Tally) -> None:
        """Count and warn of training clips whose speakers are scored: ``train_covost`` was added later."""
        shared = [speaker for speaker in speakers if speaker and speaker in scored]
        if shared:
            tally.changed["the speaker is in dev or test too, and the clip is kept"] += len(shared)
            log.warning(
                "CoVoST 2 %s: %d of %d training clips are of %d speakers who are in dev or test too.",
                *(source, len(shared), len(speakers), len(set(shared))),
            )

    def _split_of(self, name: str) -> str | None:
        """Return the split that rows of a name in the column ``split`` belong to, as the release's script has it."""
        if name == "train_covost" or self.version == "v1":
            name = name.removesuffix("_covost")
        name = "dev" if name == "validation" else name
        return name if name in SPLITS else None

    def _pairs(self) -> list[tuple[str, str]]:
        return [(source, target) for source, targets in self.targets.items() for target in targets]

    def _lists(self, source: str, target: str) -> _Lists:
        """Return the lists of translations of a pair, those of the script where it wrote all of them.

        Raises:
            UserError: If there is none.
        """
        stem = f"{PREFIXES[self.version]}.{source}_{target}"
        places = list(dict.fromkeys([*locale_folders(self.root, source), self.root / source, self.root]))
        for folder in places:
            scripted = {split: path for split in SPLITS if (path := find_list(folder, split, f"{stem}."))}
            released = folder / f"{stem}.tsv"
            if released.is_file() and len(scripted) < len(SPLITS):
                return _Lists(dict.fromkeys(SPLITS, released), scripted=False)
            if scripted:
                return _Lists(scripted, scripted=True)
        others = [
            name
            for name, prefix in PREFIXES.items()
            for place in places
            if any(place.glob(f"{prefix}.{source}_{target}.*tsv"))
        ]
        hint = f" There are lists of {others[0]}: give `version`." if others else ""
        msg = (
            f"No CoVoST 2 pair {source}_{target} in '{self.root / source}': looked for '{stem}.tsv' and "
            f"'{stem}.<split>.tsv'.{hint} Give `root` the folder that holds one folder per source language."
        )
        raise UserError(msg)


def is_translation(text: str) -> bool:
    """Return whether a text is a translation: translators wrote ``REMOVE`` where the sentence made no sense."""
    return text.strip(' ".') not in ("", "REMOVE")


def _report_join(path: Path, folder: Path, rows: int, missing: int) -> None:
    """Warn of rows that have no sentence.

    Raises:
        UserError: If no row has one.
    """
    if rows and missing == rows:
        msg = (
            f"None of the {rows} clips of '{path}' is in the lists of '{folder}'. Give `root` the Common Voice that "
            "CoVoST 2 was made from (release 4), or one that still has its clips."
        )
        raise UserError(msg)
    if missing:
        log.warning(
            "%s: %d of %d rows (%.2f %%) have a sentence in Common Voice; CoVoST 2 belongs to its release 4.",
            *(path, rows - missing, rows, 100 * (rows - missing) / rows),
        )


class CoVoST2DataModule(CorpusDataModule):
    """CoVoST 2 for training and scoring.

    Args:
        root: Folder that holds one folder per source language, with ``clips`` and the lists, or releases of Common
            Voice (``cv-corpus-4-2019-12-10``) that do.
        pairs: Language pairs: ``en_de``, ``fr_en``, ``en_zh-CN``. A clip of several pairs is one row of ``asr``.
        tasks: Any of ``asr``, ``st`` and ``asr+st``.
        version: Release: ``v2``, or ``v1``, which belongs to Common Voice 3 and has other splits.
        clean_transcripts: Cleaners of transcripts by name; ``quotes``, the default, takes off those that exports put
            around sentences. Translations stay verbatim.
        **kwargs: Options of :class:`speechllm.data.corpus.CorpusDataModule`.
    """

    def __init__(
        self,
        root: str,
        pairs: list[str] = ["en_de"],  # noqa: B006 (never changed, and shown by --help as it is)
        tasks: list[str] = ["st"],  # noqa: B006
        version: str = "v2",
        clean_transcripts: list[str] = ["quotes"],  # noqa: B006
        **kwargs: Any,
    ) -> None:
        corpus = CoVoST2(Path(root), pairs, version, clean_transcripts)
        ways = [
            *(["covost_v1"] if version == "v1" else []),
            "-".join(pairs),
            *([] if clean_transcripts == ["quotes"] else ["-".join(clean_transcripts) or "verbatim"]),
        ]
        super().__init__(
            corpus, manifest_folder(Path(root), "_".join(ways)), tasks=tasks, test_splits=["test"], **kwargs
        )
