"""Utterances from lists that name an audio file and a stretch of it row by row: texts joined, audio looked up."""

import os
from collections import Counter, deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from speechllm.audio import AudioInfo
from speechllm.data.manifest import LEARNED_SPLITS, Tally
from speechllm.data.reading.headers import read_header
from speechllm.data.reading.parallel import map_in_processes
from speechllm.data.utterance import Utterance
from speechllm.errors import UserError

TOLERANCE_S = 0.01
"""How far a stretch may run past the end of its file without being counted; lists round their durations."""

_KEPT_FILES = 100_000


@dataclass
class Stretch:
    """An utterance before its audio was looked at.

    Attributes:
        where: File and line that first name it, for messages.
        utterance: The utterance; its duration is set by :func:`with_audio`.
        duration_s: Duration as listed, in seconds; None for the file to its end.
        file: What is known of the whole audio file; None where its header must be read.
    """

    where: str
    utterance: Utterance
    duration_s: float | None
    file: AudioInfo | None = None

    def span(self) -> tuple[str, float, float | None, int | None]:
        """Return what makes it this stretch: file, offset, duration and channel."""
        return self.utterance.audio, self.utterance.offset_s, self.duration_s, self.utterance.channel


def leave_out(where: str, reason: str, split: str, tally: Tally, detail: str = "") -> None:
    """Count a row that is left out of a split to learn from, by its reason; a test set must be whole.

    Raises:
        UserError: If the split is a test set; ``detail`` is part of the message alone.
    """
    if split not in LEARNED_SPLITS:
        msg = f"{where}: {reason}{detail}. A test set must be whole: correct the row, or take it out."
        raise UserError(msg)
    tally.rejected[reason] += 1


class Stretches:
    """The stretches of a split by id. Rows of the same stretch become one utterance with all of their texts.

    Args:
        split: Name of the split.
        tally: Where rows that are left out or changed are counted.
        number_clashes: What becomes of an id that is that of other audio already. False: it is an error. True: it gets
            a number, and is counted.
    """

    def __init__(self, split: str, tally: Tally, number_clashes: bool = False) -> None:
        self.split, self.tally, self.number_clashes = split, tally, number_clashes
        self._by_id: dict[str, Stretch] = {}
        self._numbered: dict[tuple[object, ...], Stretch] = {}
        self._numbers: Counter[str] = Counter()

    def __iter__(self) -> Iterator[Stretch]:
        """Yield the stretches in the order in which they were first named."""
        return iter(self._by_id.values())

    def add(self, new: Stretch) -> None:
        """Add a stretch, or its texts to those of the same one.

        Raises:
            UserError: If the id is that of other audio and clashes are not numbered, or a row of a test set would be
                left out.
        """
        wanted = new.utterance.id
        first = self._by_id.setdefault(wanted, new)
        if first is new:
            return
        if first.span() != new.span():
            if not self.number_clashes:
                msg = f"{new.where}: the id '{wanted}' is already that of {first.where}, which is other audio."
                raise UserError(msg)
            first = self._numbered.setdefault((wanted, *new.span()), new)
        if first is not new:
            self._join(first, new)
            return
        while new.utterance.id in self._by_id:
            self._numbers[wanted] += 1
            new.utterance.id = f"{wanted}_{self._numbers[wanted] + 1}"
        self._by_id[new.utterance.id] = new
        self.tally.changed["the id is that of other audio, and got a number"] += 1

    def _join(self, first: Stretch, new: Stretch) -> None:
        old, more, as_first = first.utterance, new.utterance, f" as {first.where}"
        if old.source_language != more.source_language or (
            old.transcript and more.transcript not in ("", old.transcript)
        ):
            leave_out(new.where, "another transcript of the same audio", self.split, self.tally, as_first)
            return
        added = {target: text for target, text in more.translations.items() if not old.translations.get(target)}
        if not added and (old.transcript or not more.transcript):
            leave_out(new.where, "the same audio and target again", self.split, self.tally, as_first)
            return
        old.transcript = old.transcript or more.transcript
        old.translations |= added


def with_audio(stretches: Iterable[Stretch], split: str, tally: Tally, hint: str) -> Iterator[Utterance]:
    """Yield utterances with their durations and sampling rates, in their order; any number of them, a few in memory.

    Audio that is missing, empty or damaged, and a stretch without length or past the end of its file are left out of
    ``train`` and ``dev``, and counted. A test set keeps its size: there they stay with a duration of one sample, are
    counted, and are scored as an empty hypothesis. A stretch that runs past the end is cut there, and counted.

    Args:
        stretches: The stretches.
        split: Name of the split.
        tally: Where all this is counted.
        hint: What audio paths are relative to, as a sentence, for the message.

    Raises:
        UserError: If no audio file of the split exists.
    """
    count, absent = 0, 0
    first_absent: Stretch | None = None
    for stretch, file in _look_up(stretches):
        count += 1
        if not file.is_there:
            absent += 1
            first_absent = first_absent or stretch
        if _place(stretch, (stretch.file or file.info) if file.is_there else None, split, tally):
            yield stretch.utterance
    if first_absent and absent == count:
        msg = (
            f"None of the audio files of the split '{split}' exists ({count} utterances); the first one is "
            f"'{first_absent.utterance.audio}' ({first_absent.where}). {hint}"
        )
        raise UserError(msg)


@dataclass
class _File:
    """A file that is looked up: whether it is there, and what its header says if that is asked and can be read."""

    is_known: bool = False
    is_there: bool = False
    info: AudioInfo | None = None


def _look_up(stretches: Iterable[Stretch]) -> Iterator[tuple[Stretch, _File]]:
    """Yield stretches with their files; a file of many is looked up once, unless too many others come between."""
    files: dict[tuple[str, bool], _File] = {}
    asked: deque[_File] = deque()
    waiting: deque[tuple[Stretch, _File]] = deque()

    def questions() -> Iterator[tuple[str, bool]]:
        for stretch in stretches:
            question = (stretch.utterance.audio, stretch.file is None)
            file = files.get(question)
            if file is not None:
                waiting.append((stretch, file))
                continue
            if len(files) >= _KEPT_FILES:
                files.clear()
            files[question] = _File()
            asked.append(files[question])
            waiting.append((stretch, files[question]))
            yield question

    for is_there, info in map_in_processes(_look, questions()):
        file = asked.popleft()
        file.is_known, file.is_there, file.info = True, is_there, info
        while waiting and waiting[0][1].is_known:
            yield waiting.popleft()
    yield from waiting


def _look(question: tuple[str, bool]) -> tuple[bool, AudioInfo | None]:
    """Return whether a file is there, and what its header says if that is asked and can be read."""
    path, header = question
    is_there = os.path.isfile(path)
    return is_there, read_header(path) if is_there and header else None


def _place(stretch: Stretch, info: AudioInfo | None, split: str, tally: Tally) -> bool:
    """Set duration and sampling rate; return False, having counted it, for a stretch that is left out."""
    utterance = stretch.utterance
    if info is None:
        problem, fate = "audio is missing, empty or damaged", "counts as silence"
        info = AudioInfo(16_000, utterance.offset_s, 1)
    else:
        problem, fate = "stretch of no length, or past the end of the audio", "is one sample"
    left_s = info.duration_s - utterance.offset_s
    kept_s = left_s if stretch.duration_s is None else min(stretch.duration_s, left_s)
    sample_s = 1 / info.sampling_rate
    if kept_s < sample_s / 2:
        if split in LEARNED_SPLITS:
            tally.rejected[problem] += 1
            return False
        tally.changed[f"{problem}, and {fate}"] += 1
        kept_s = sample_s
    elif stretch.duration_s is not None and stretch.duration_s - kept_s > TOLERANCE_S:
        tally.changed["cut at the end of the audio"] += 1
    utterance.duration_s = kept_s
    utterance.recording_duration_s = max(info.duration_s, kept_s)
    utterance.sampling_rate = info.sampling_rate
    return True
