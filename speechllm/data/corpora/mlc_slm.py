"""MLC-SLM: conversations of two speakers in 11 languages, English in five accents.

A part (training, development or evaluation set) has a folder per category, ``English/American`` or
``English-American``, ``French`` and so on. In it lie, at any depth, recordings ``0517_007.wav``, each with a text of
the same name that lists its segments, ``start end speaker text``; lists of the evaluation set have no text. Segments of
the two speakers overlap. Utterances are named, and texts normalised, as by the challenge's baseline.
"""

import hashlib
import json
import math
import os
import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from speechllm.data.corpus import CorpusDataModule
from speechllm.data.manifest import LEARNED_SPLITS, Tally
from speechllm.data.reading.stretches import Stretch, leave_out, with_audio
from speechllm.data.reading.text import check_cleaners, clean
from speechllm.data.reading.text_files import read_lines
from speechllm.data.utterance import Utterance
from speechllm.errors import UserError, did_you_mean
from speechllm.languages import language_code

PLACES = {
    "train": ("train", "train_data", "data", "MLC-SLM_Workshop-Training_Set*"),
    "dev": ("dev", "dev_data", "MLC-SLM_Workshop-Development_Set*"),
    "test": ("test", "test_data", "eval", "MLC-SLM_Workshop-Eval*", "MLC-SLM_Workshop-Test*"),
}
"""Folders that the parts are looked for in, below the root."""

TEST_SPLITS = ("official-dev", "test")


class Recording(NamedTuple):
    """A recording of a part: its category, its id as the baseline makes it, its audio and its list of segments."""

    category: str
    id: str
    audio: str
    segments: Path | None

    @property
    def conversation(self) -> str:
        """What the name begins with; recordings of the same speakers share it."""
        return f"{self.category}/{Path(self.audio).stem.split('_')[0]}"


class Segment(NamedTuple):
    """A line of a list of segments, its times in seconds to two decimals."""

    where: str
    start_s: float
    end_s: float
    speaker: str
    text: str


class MlcSlm:
    """Reader of MLC-SLM on disk: one utterance per segment, of a corpus ``mlc_slm.<category>``.

    The language of an utterance is that of its category without the accent.

    Args:
        root: Folder of the parts.
        categories: Categories to read, such as ``English-American`` and ``Thai``; None for all on disk.
        places: Folder of the parts ``train``, ``dev`` and ``test`` from the root; None to look for one by its name.
        held_out_hours: Hours of each category of the training set that are the split ``dev``; the development set then
            is the split ``official-dev`` alone. With 0 it is both.
        clean_transcripts: Cleaners of transcripts by name.
    """

    name = "mlc_slm"
    version = "2025"

    def __init__(
        self,
        root: Path,
        categories: list[str] | None = None,
        places: dict[str, str | None] | None = None,
        held_out_hours: float = 0.0,
        clean_transcripts: Sequence[str] = ("mlc_slm",),
    ) -> None:
        if categories is not None and (not categories or len(set(categories)) < len(categories)):
            msg = f"MLC-SLM needs at least one category, each once, or null for all; got {categories}."
            raise UserError(msg)
        if not 0 <= held_out_hours < math.inf:
            msg = f"`held_out_hours` must be at least 0, but is {held_out_hours}."
            raise UserError(msg)
        self.root = Path(root)
        self.categories = None if categories is None else list(categories)
        self.places = places or {}
        self.held_out_hours = held_out_hours
        self.cleaners = check_cleaners(clean_transcripts)

    def options(self) -> dict[str, Any]:
        """Return the options that decide what the manifests hold."""
        return {
            "categories": self.categories,
            "places": self.places,
            "held_out_hours": self.held_out_hours,
            "clean_transcripts": self.cleaners,
        }

    def splits(self) -> list[str]:
        """Return the splits that are on disk.

        Raises:
            UserError: If there is none, or a category is in no part.
        """
        parts = {part: self._recordings(part) for part in PLACES}
        there = sorted({recording.category for recordings in parts.values() for recording in recordings})
        if not there:
            looked_for = ", ".join(f"'{place}'" for places in PLACES.values() for place in places)
            msg = (
                f"No MLC-SLM in '{self.root}': looked for {looked_for}, and wav or txt files in them. Give `root` the "
                "folder that the archives were unpacked in, or name the parts: `train`, `dev`, `test`."
            )
            raise UserError(msg)
        for category in self.categories or []:
            if category not in there:
                msg = (
                    f"MLC-SLM in '{self.root}' has no category '{category}'.{did_you_mean(category, there)} "
                    f"It has: {', '.join(there)}."
                )
                raise UserError(msg)
        return [
            split
            for split in ("train", "dev", *TEST_SPLITS)
            if any(self._is_wanted(recording) for recording in parts[self._part(split)])
        ]

    def files(self) -> list[Path]:
        """Return the lists of segments."""
        recordings = [recording for part in PLACES for recording in self._recordings(part)]
        return [each.segments for each in recordings if each.segments and self._is_wanted(each)]

    def published(self) -> dict[str, int]:
        """Return nothing: only hours are published."""
        return {}

    def read(self, split: str, tally: Tally) -> Iterator[Utterance]:
        """Yield the utterances of a split, category by category, in the order of the lists.

        Raises:
            UserError: If a row of a test set cannot be read, a recording is there twice, or there is nothing.
        """
        recordings = [each for each in self._recordings(self._part(split)) if self._is_wanted(each)]
        if self.held_out_hours and split in LEARNED_SPLITS:
            held_out = self._held_out(recordings)
            recordings = [each for each in recordings if (each.conversation in held_out) == (split == "dev")]
        first: dict[str, Recording] = {}
        for recording in recordings:
            if (other := first.setdefault(recording.id, recording)) is not recording:
                msg = f"MLC-SLM's recording '{recording.id}' is both '{other.audio}' and '{recording.audio}'."
                raise UserError(msg)
        if not any(recording.segments for recording in recordings):
            msg = f"No recording of MLC-SLM's split '{split}' in '{self.root}' has a list of segments beside it."
            raise UserError(msg)
        stretches = (stretch for recording in recordings for stretch in self._stretches(recording, split, tally))
        yield from with_audio(stretches, split, tally, "Recordings lie beside their lists of segments.")

    def _stretches(self, recording: Recording, split: str, tally: Tally) -> Iterator[Stretch]:
        if recording.segments is None:
            leave_out(recording.audio, "recording without a list of segments", split, tally)
            return
        language = language_code(recording.category.split("-")[0])
        seen: Counter[str] = Counter()
        for segment in read_segments(recording.segments, split, tally):
            times = (segment.start_s, segment.end_s)
            # The baseline truncates: 0.29 s becomes 28.
            name = "-".join([recording.id, segment.speaker, *(str(int(time_s * 100)).zfill(6) for time_s in times)])
            seen[name] += 1
            if seen[name] > 1:
                tally.changed["the id is that of another segment, and got a number"] += 1
                name = f"{name}-{seen[name]}"
            text = clean(segment.text, self.cleaners)
            if segment.text and not text:
                tally.changed["the transcript is punctuation alone, and became empty"] += 1
            utterance = Utterance(
                id=name,
                audio=recording.audio,
                offset_s=segment.start_s,
                duration_s=0.0,
                source_language=language,
                transcript=text,
                speaker=f"{recording.id}-{segment.speaker}",
                corpus=f"{self.name}.{recording.category}",
            )
            yield Stretch(segment.where, utterance, round(segment.end_s - segment.start_s, 2))

    def _held_out(self, recordings: list[Recording]) -> set[str]:
        """Return the conversations of each category that are held out: always the same, whole, and never all."""
        lengths: defaultdict[str, dict[str, float]] = defaultdict(dict)
        for recording in recordings:
            if recording.segments:
                ends_s = [segment.end_s for segment in read_segments(recording.segments, "train", Tally())]
                seconds = lengths[recording.category]
                seconds[recording.conversation] = seconds.get(recording.conversation, 0.0) + max(ends_s, default=0.0)
        held_out: set[str] = set()
        for category, seconds in lengths.items():
            chosen: list[str] = []
            by_chance = sorted(seconds, key=lambda name: hashlib.sha256(name.encode()).digest())
            while by_chance and sum(seconds[name] for name in chosen) < 3600 * self.held_out_hours:
                chosen.append(by_chance.pop())
            if not by_chance:
                msg = (
                    f"The category {category} of MLC-SLM has {sum(seconds.values()) / 3600:.2f} h in {len(seconds)} "
                    f"conversations to train on: too little to hold out {self.held_out_hours:g} h. Lower "
                    "`held_out_hours`, or leave the category out."
                )
                raise UserError(msg)
            held_out.update(chosen)
        return held_out

    def _part(self, split: str) -> str:
        """Return the part that a split is read from."""
        if split == "dev" and self.held_out_hours:
            return "train"
        return "dev" if split == "official-dev" else split

    def _is_wanted(self, recording: Recording) -> bool:
        return self.categories is None or recording.category in self.categories

    def _recordings(self, part: str) -> list[Recording]:
        """Return all recordings of a part, by category and path."""
        found = []
        for folder in self._folders(part):
            files: defaultdict[str, set[str]] = defaultdict(set)
            for place, _, names in os.walk(folder):
                for stem, suffix in map(os.path.splitext, names):
                    files[os.path.join(place, stem)].add(suffix)
            for stem in (stem for stem, suffixes in files.items() if suffixes & {".wav", ".txt"}):
                parts = Path(stem).relative_to(folder).parts
                if len(parts) > 1:
                    segments = Path(f"{stem}.txt") if ".txt" in files[stem] else None
                    found.append(Recording(_category(parts[:-1]), "-".join(parts), f"{stem}.wav", segments))
                elif ".wav" in files[stem]:
                    msg = f"MLC-SLM's recording '{stem}.wav' lies in no folder of a category, such as 'Thai'."
                    raise UserError(msg)
        for category in {recording.category for recording in found}:
            language_code(category.split("-")[0], f"MLC-SLM's category '{category}' in '{self.root}'")
        return sorted(found)

    def _folders(self, part: str) -> list[Path]:
        """Return the folders of a part, several where the training set is unpacked from several archives."""
        given = self.places.get(part)
        if given is not None:
            if not (self.root / given).is_dir():
                msg = f"The folder of `{part}`, '{self.root / given}', does not exist. It is named from `root`."
                raise UserError(msg)
            return [_data(self.root / given)]
        for place in PLACES[part]:
            if folders := sorted(path for path in self.root.glob(place) if path.is_dir()):
                return [_data(folder) for folder in folders]
        return []


def read_segments(path: Path, split: str, tally: Tally) -> Iterator[Segment]:
    """Yield the segments of a list; fields are divided by tabs or spaces, and white space in a text becomes one space.

    Lines that cannot be used are counted in ``train`` and ``dev``. A test set keeps those that have no text.

    Raises:
        UserError: If a list of a test set has no line, or a line has no start, end and speaker; the message names the
            file and the line.
    """
    lines = read_lines(path, tally, "a list of segments")
    if not any(map(str.strip, lines)):
        leave_out(str(path), "list without a segment", split, tally)
    for number, line in enumerate(lines, start=1):
        # Not by any white space: a stray carriage return or U+0085 within a time would make two of it.
        fields = re.split("[ \t]+", line.strip(), maxsplit=3)
        if not fields[0]:
            continue
        where = f"{path}, line {number}"
        times = [_seconds(field) for field in fields[:2]]
        if "\0" in line:
            leave_out(where, "a NUL character", split, tally)
        elif len(fields) < 3:
            leave_out(where, "fewer than 3 fields", split, tally)
        elif None in times:
            leave_out(where, "start or end is not a number of seconds", split, tally, f": '{line[:40]}'")
        elif _seconds(fields[2]) is not None and "." in fields[2]:
            leave_out(where, "a time in the place of the speaker", split, tally)
        elif len(fields) == 3 and split in LEARNED_SPLITS:
            tally.rejected["no text"] += 1
        else:
            if len(fields) == 3:
                tally.changed["no text, and with an empty reference"] += 1
            start_s, end_s = (time_s for time_s in times if time_s is not None)
            yield Segment(where, start_s, end_s, fields[2], " ".join("".join(fields[3:]).split()))


def _seconds(field: str) -> float | None:
    """Return a time to two decimals, None where it is none."""
    try:
        value = round(float(field), 2)
    except ValueError:
        return None
    return value if 0 <= value < math.inf else None


def _category(folders: tuple[str, ...]) -> str:
    """Return the category: the first folder, and those below up to one that is numbered, as those of sessions are."""
    names = [folders[0]]
    for folder in folders[1:]:
        if any(map(str.isdigit, folder)):
            break
        names.append(folder)
    return "-".join(names)


def _data(folder: Path) -> Path:
    """Return the folder of the categories; archives hold it as ``data``, and may be unpacked in one of their name."""
    places = (folder / folder.name / "data", folder / "data", folder)
    return next(place for place in places if place.is_dir()).absolute()


class MlcSlmDataModule(CorpusDataModule):
    """MLC-SLM for training and scoring; each category is a corpus of its own in results.

    Args:
        root: Folder of the parts: ``train``, ``dev`` and ``test``, or ``MLC-SLM_Workshop-Training_Set_1``,
            ``MLC-SLM_Workshop-Development_Set`` and so on.
        categories: Categories to read, such as ``English-American`` and ``Thai``; all on disk where null.
        train: Folder of the training set from the root; found by its name where null.
        dev: Folder of the development set, likewise.
        test: Folder of the evaluation set, likewise.
        held_out_hours: Hours of each category of the training set to validate on, in whole conversations; with 0 that
            is the development set.
        clean_transcripts: Cleaners of transcripts by name; ``mlc_slm``, the default, is lower case without punctuation,
            as the challenge's baseline trains on them and scores them.
        test_splits: Splits that are scored: ``official-dev``, the development set, and ``test``, the evaluation set.
        tasks: ``asr``; there are no translations.
        **kwargs: Options of :class:`speechllm.data.corpus.CorpusDataModule`.
    """

    def __init__(
        self,
        root: str,
        categories: list[str] | None = None,
        train: str | None = None,
        dev: str | None = None,
        test: str | None = None,
        held_out_hours: float = 0.0,
        clean_transcripts: list[str] = ["mlc_slm"],  # noqa: B006
        test_splits: list[str] = ["official-dev"],  # noqa: B006 (never changed, and shown by --help as it is)
        tasks: list[str] = ["asr"],  # noqa: B006
        **kwargs: Any,
    ) -> None:
        for split in test_splits:
            if split not in TEST_SPLITS:
                msg = (
                    f"Unknown test set '{split}' of MLC-SLM.{did_you_mean(split, TEST_SPLITS)} "
                    f"Known: {', '.join(TEST_SPLITS)}."
                )
                raise UserError(msg)
        corpus = MlcSlm(
            Path(root), categories, {"train": train, "dev": dev, "test": test}, held_out_hours, clean_transcripts
        )
        selection = hashlib.sha256(json.dumps(corpus.options(), sort_keys=True).encode()).hexdigest()[:8]
        manifests = Path(root) / "manifests" / f"mlc_slm_{selection}"
        super().__init__(corpus, manifests, tasks=tasks, test_splits=test_splits, **kwargs)
