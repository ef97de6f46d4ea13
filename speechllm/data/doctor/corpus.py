"""What is wrong with utterances only beside others: duplicates, splits that overlap, texts of an odd length.

Of each utterance about 200 bytes are kept: numbers and hashes in columns, its id and the path of its audio.
"""

import math
from array import array
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from speechllm.audio_levels import Measurement
from speechllm.data.doctor.audio import dbfs, decoded_s, hash64
from speechllm.data.doctor.rules import TRAIN, Thresholds
from speechllm.data.doctor.text import DENSE_LANGUAGES, NO_TRANSLATION, characters, language_of
from speechllm.data.utterance import Utterance

MIN_CHARS = 10
"""Characters that transcript and translation need before their lengths are compared; short texts differ by chance."""

MIN_CONTENT_S = 0.1
"""Shortest audio whose samples are compared, in seconds: fragments and silence are alike by chance."""


NO_SPEAKER = ("", "-", "n/a", "none", "unknown")
"""What corpora write where they do not know the speaker."""

KEYS = ("id", "stretch", "content", "file", "speaker", "transcript", "targets")
"""Hashes that are kept of each utterance."""


class Place(NamedTuple):
    """An utterance: its split and its row there, from 0."""

    split: str
    row: int


class Finding(NamedTuple):
    """Something that was found: where, what, in figures, and the utterance that it is compared with, if any."""

    place: Place
    reason: str
    detail: str
    other: Place | None = None


class TextColumn:
    """Texts, one after the other in one piece of memory."""

    def __init__(self) -> None:
        self._text = bytearray()
        self._ends = array("Q", [0])

    def __len__(self) -> int:
        return len(self._ends) - 1

    def append(self, text: str) -> None:
        """Add a text."""
        self._text += text.encode("utf-8", "surrogatepass")
        self._ends.append(len(self._text))

    def __getitem__(self, row: int) -> str:
        return self._text[self._ends[row] : self._ends[row + 1]].decode("utf-8", "surrogatepass")


class SplitColumns:
    """What is kept of the N utterances of a split, one value each.

    Attributes:
        ids: Ids.
        audio: Paths of the audio.
        duration_s: Durations as the manifest has them, in seconds.
        decoded_s: How much was decoded, in seconds.
        rms_dbfs: RMS in dB of full scale; NaN where nothing was decoded.
        rate: Sampling rates in Hz; 0 where the file could not be opened.
        spoken: 1 where there is a transcript.
        translated: 1 where there is a translation.
        keys: Hashes by name, 0 where there is nothing to compare.
    """

    def __init__(self) -> None:
        self.ids, self.audio = TextColumn(), TextColumn()
        self.duration_s, self.decoded_s, self.rms_dbfs = array("f"), array("f"), array("f")
        self.rate = array("L")
        self.spoken, self.translated = array("B"), array("B")
        self.keys = {
            name: array("Q") for name in ("id", "stretch", "content", "file", "speaker", "transcript", "targets")
        }

    def add(self, utterance: Utterance, found: Measurement, audible: bool) -> None:
        """Add an utterance with its measurement, whose samples are compared only where they are audible."""
        seconds = decoded_s(found)
        self.ids.append(utterance.id)
        self.audio.append(utterance.audio)
        self.duration_s.append(utterance.duration_s)
        self.decoded_s.append(seconds)
        self.rms_dbfs.append(dbfs(found.rms) if found.decoded and math.isfinite(found.rms) else math.nan)
        self.rate.append(found.rate)
        self.spoken.append(bool(utterance.transcript.strip()))
        self.translated.append(any(text.strip() not in NO_TRANSLATION for text in utterance.translations.values()))
        targets = "\0".join(sorted(utterance.translations))
        stretch = (utterance.audio, utterance.offset_s, utterance.duration_s, utterance.channel, targets)
        transcript = " ".join(utterance.transcript.split()).casefold()
        known = utterance.speaker.casefold() not in NO_SPEAKER
        self.keys["targets"].append(hash64(targets))
        self.keys["id"].append(hash64(utterance.id))
        self.keys["stretch"].append(hash64(repr(stretch)))
        self.keys["content"].append(found.content if audible and seconds >= MIN_CONTENT_S else 0)
        self.keys["file"].append(hash64(utterance.audio))
        self.keys["speaker"].append(hash64(f"{utterance.corpus}\0{utterance.speaker}") if known else 0)
        self.keys["transcript"].append(hash64(f"{utterance.source_language}\0{transcript}") if transcript else 0)

    def __len__(self) -> int:
        return len(self.ids)

    def column(self, name: str) -> NDArray[np.uint64]:
        """Return (N,) hashes."""
        return np.frombuffer(self.keys[name], dtype=np.uint64)


@dataclass
class Figures:
    """A figure of many utterances: of which split and row, and how much."""

    splits: "array[int]" = field(default_factory=lambda: array("H"))
    rows: "array[int]" = field(default_factory=lambda: array("L"))
    values: "array[float]" = field(default_factory=lambda: array("f"))


class Limits(NamedTuple):
    """Where the figures of a language lie: the number of texts, their median, and between what they should be."""

    texts: int
    median: float
    low: float
    high: float


class Columns:
    """What is kept of all utterances of a corpus.

    Attributes:
        splits: Columns by split.
        chars_per_s: Characters a second by ``transcript`` or ``translation`` and language.
        ratios: Characters of the translation for each of the transcript, by source and target language.
    """

    def __init__(self, splits: Iterable[str]) -> None:
        self.splits = {split: SplitColumns() for split in splits}
        self._numbers = {split: number for number, split in enumerate(self.splits)}
        self.chars_per_s: dict[tuple[str, str], Figures] = {}
        self.ratios: dict[tuple[str, str], Figures] = {}

    def add(self, split: str, utterance: Utterance, found: Measurement, audible: bool) -> None:
        """Add an utterance with its measurement; where it is not audible, neither audio nor text are compared."""
        columns = self.splits[split]
        row, spoken = len(columns), characters(utterance.transcript)
        columns.add(utterance, found, audible)
        seconds, source = columns.decoded_s[row], language_of(utterance.source_language)
        if audible and spoken:
            self._figure(self.chars_per_s, ("transcript", source), split, row, spoken / seconds)
        for code, text in utterance.translations.items():
            written, target = characters(text), language_of(code)
            if not written or text.strip() in NO_TRANSLATION:
                continue
            if audible:
                self._figure(self.chars_per_s, ("translation", target), split, row, written / seconds)
            if min(spoken, written) >= MIN_CHARS:
                self._figure(self.ratios, (source, target), split, row, written / spoken)

    def place(self, figures: Figures, number: int) -> Place:
        """Return the utterance of a figure."""
        return Place(list(self.splits)[figures.splits[number]], figures.rows[number])

    def _figure(
        self, of: dict[tuple[str, str], Figures], kind: tuple[str, str], split: str, row: int, value: float
    ) -> None:
        figures = of.setdefault(kind, Figures())
        figures.splits.append(self._numbers[split])
        figures.rows.append(row)
        figures.values.append(value)


def check_columns(columns: Columns, thresholds: Thresholds) -> Iterator[Finding]:
    """Yield what is wrong with utterances beside others."""
    for split, kept in columns.splits.items():
        yield from _check_texts_there(split, kept)
        yield from _check_repetitions(split, kept)
    yield from _check_rates(columns, thresholds.rare_rate_share)
    yield from _check_overlap(columns.splits)
    for (kind, language), figures in columns.chars_per_s.items():
        limits = chars_limits(kind, language, figures, thresholds)
        for number, side in _outliers(figures, limits):
            detail = f"{figures.values[number]:.2f} characters/s in {language}, median {limits.median:.1f}"
            yield Finding(columns.place(figures, number), f"{kind} too {side} for its audio", detail)
    for (source, target), figures in columns.ratios.items():
        limits = robust_limits(figures, thresholds)
        for number, _ in _outliers(figures, limits):
            detail = f"{figures.values[number]:.2f} of {target} for 1 of {source}, median {limits.median:.2f}"
            yield Finding(columns.place(figures, number), "translation unlike its transcript in length", detail)


def chars_limits(kind: str, language: str, figures: Figures, thresholds: Thresholds) -> Limits:
    """Return between what the characters a second of a language should be."""
    dense = language in DENSE_LANGUAGES
    limits = robust_limits(figures, thresholds)
    low = max(limits.low, thresholds.min_chars_per_s)
    high = min(limits.high, thresholds.max_dense_chars_per_s if dense else thresholds.max_chars_per_s)
    return limits._replace(low=low, high=high)


def robust_limits(figures: Figures, thresholds: Thresholds) -> Limits:
    """Return what lies ``outlier_z`` robust deviations around the median of the logarithm; all where there are few."""
    logs = np.log(np.frombuffer(figures.values, dtype=np.float32))
    middle = float(np.median(logs))
    if len(logs) < thresholds.min_texts:
        return Limits(len(logs), math.exp(middle), 0.0, math.inf)
    spread = max(1.4826 * float(np.median(np.abs(logs - middle))), thresholds.min_spread)
    reach = thresholds.outlier_z * spread
    return Limits(len(logs), math.exp(middle), math.exp(middle - reach), math.exp(middle + reach))


def _outliers(figures: Figures, limits: Limits) -> Iterator[tuple[int, str]]:
    values = np.frombuffer(figures.values, dtype=np.float32)
    for number in np.nonzero((values < limits.low) | (values > limits.high))[0].tolist():
        yield number, "short" if values[number] < limits.low else "long"


def _check_texts_there(split: str, kept: SplitColumns) -> Iterator[Finding]:
    """Miss texts only where others of the split have some: a corpus of translated speech need not be transcribed."""
    spoken, translated = (np.frombuffer(column, dtype=np.uint8) for column in (kept.spoken, kept.translated))
    if (spoken | translated).any():
        for row in np.nonzero(~(spoken | translated).astype(bool))[0].tolist():
            yield Finding(Place(split, row), "no text", "")
    if spoken.any():
        for row in np.nonzero((spoken == 0) & (translated == 1))[0].tolist():
            yield Finding(Place(split, row), "no transcript", "")


def _check_repetitions(split: str, kept: SplitColumns) -> Iterator[Finding]:
    for row, first in _repetitions(kept.column("id")):
        yield Finding(Place(split, row), "duplicate id", "", Place(split, first))
    for row, first in _repetitions(kept.column("stretch")):
        yield Finding(Place(split, row), "same stretch twice", "", Place(split, first))
    content, files = kept.column("content"), kept.column("file")
    # One recording for each language that it is translated into is how corpora come.
    for row, first in _repetitions(np.where(content != 0, content ^ kept.column("targets"), 0)):
        if files[row] != files[first]:
            yield Finding(Place(split, row), "same audio in another file", "", Place(split, first))


def _check_rates(columns: Columns, rare: float) -> Iterator[Finding]:
    counts: Counter[int] = Counter()
    for kept in columns.splits.values():
        counts.update(kept.rate)
    del counts[0]
    for split, kept in columns.splits.items():
        rates = np.frombuffer(kept.rate, dtype=np.uint64)
        for rate, count in counts.items():
            if count < rare * counts.total():
                for row in np.nonzero(rates == rate)[0].tolist():
                    share = 100 * count / counts.total()
                    yield Finding(Place(split, row), "rate unlike the rest", f"{rate:,} Hz, as {share:.1f} % of all")


def _check_overlap(splits: Mapping[str, SplitColumns]) -> Iterator[Finding]:
    """Compare train with all other splits, for its own loss, and these with train and with those before them."""
    scored = [split for split in splits if split != TRAIN]
    trained = [split for split in splits if split == TRAIN]
    for split in trained:
        yield from _shared("audio", "content", split, scored, splits)
    for number, split in enumerate(scored):
        yield from _shared("audio", "content", split, scored[:number], splits)
        for name, key in (("recording", "file"), ("speaker", "speaker"), ("transcript", "transcript")):
            yield from _shared(name, key, split, trained + scored[:number], splits)


def _shared(
    name: str, key: str, split: str, others: Sequence[str], splits: Mapping[str, SplitColumns]
) -> Iterator[Finding]:
    """Yield a finding for each utterance of a split whose key is in another, the first of others that has it."""
    found: set[int] = set()
    for other in others:
        for row, partner in _partners(splits[split].column(key), splits[other].column(key)):
            if row not in found:
                found.add(row)
                yield Finding(Place(split, row), f"{name} is also in another split", "", Place(other, partner))


def _repetitions(keys: NDArray[np.uint64]) -> Iterator[tuple[int, int]]:
    """Yield each row whose key an earlier row has, with the first such row."""
    order = np.argsort(keys, kind="stable")
    ordered = keys[order]
    first = np.searchsorted(ordered, ordered, side="left")
    for number in np.nonzero((first != np.arange(len(keys))) & (ordered != 0))[0].tolist():
        yield int(order[number]), int(order[first[number]])


def _partners(keys: NDArray[np.uint64], others: NDArray[np.uint64]) -> Iterator[tuple[int, int]]:
    """Yield each row whose key is among others, with the first row there."""
    order = np.argsort(others, kind="stable")
    ordered = others[order]
    places = np.searchsorted(ordered, keys, side="left")
    inside = np.minimum(places, max(0, len(others) - 1))
    if len(others):
        for row in np.nonzero((ordered[inside] == keys) & (keys != 0))[0].tolist():
            yield row, int(order[inside[row]])
