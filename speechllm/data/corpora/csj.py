"""CSJ, the Corpus of Spontaneous Japanese: 661 hours of talks, cut at pauses.

``SDB/{core,noncore}/<talk>.sdb`` (below ``MORPH`` or not, or anywhere) has one word a line in Shift-JIS, its fields
divided by tabs; of these the fourth is ``<segment> <start>-<end> <channel>:…`` and the sixth the word as transcribed,
with tags (:mod:`speechllm.data.reading.csj_tags`). ``WAV`` has ``<talk>.wav``, and ``<talk>-L.wav`` and
``<talk>-R.wav`` of dialogues, whose ids begin with D, in folders or not.

As Kaldi and ESPnet, whose scores are the ones that are published: segments are joined over pauses of up to 0.5 s until
an utterance is longer than 10 s; the test sets are their eval1, eval2 and eval3, ten talks each; six other talks of one
of the speakers of eval2 are left out. dev is the 39 talks of lhotse's list, which share no talk with train.

The corpus is licensed, and this reader was written from what the recipes of ESPnet and lhotse read, without the corpus
itself: the fields and tags are those that both agree on.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from speechllm.data.corpus import CorpusDataModule
from speechllm.data.manifest import LEARNED_SPLITS, Tally
from speechllm.data.reading.csj_tags import TagError, TagResolver
from speechllm.data.reading.stretches import Stretch, leave_out, with_audio
from speechllm.data.reading.text_files import count_open_end, line_of
from speechllm.data.utterance import Utterance
from speechllm.errors import UserError, did_you_mean

TEXTS = ("disfluent", "fluent")
"""Forms of the transcript: with fillers and fragments, as systems are scored, and without."""

SPLITS = {
    "dev": "A01M0264 A01M0377 A01M0776 A01M0891 A03F0109 A04M0899 A05M0420 A07M0318 A07M0912 A11M0795 A12M0983 "
    "D03F0058 R00M0415 R01F0101 R01F0125 R02M0073 R03F0108 R03F0157 S00F0014 S00M0793 S01F0507 S02F0122 S02F0362 "
    "S02M1351 S02M1372 S03F1199 S04F1020 S05F0443 S07F0853 S07F1333 S07M0827 S08F0717 S08F1340 S09M0619 S10M1090 "
    "S10M1275 S11F0578 S11M0864 S11M1174",
    "eval1": "A01M0110 A01M0137 A01M0097 A04M0123 A04M0121 A04M0051 A03M0156 A03M0112 A03M0106 A05M0011",
    "eval2": "A01M0056 A03F0072 A02M0012 A03M0016 A06M0064 A06F0135 A01F0034 A01F0063 A01F0001 A01M0141",
    "eval3": "S00M0112 S00F0066 S00M0213 S00F0019 S00M0079 S01F0105 S00F0152 S00M0070 S00M0008 S00F0148",
}
"""Talks of each split but ``train``, which has all others."""

EXCLUDED = ("S05M0613", "R00M0187", "D01M0019", "D04M0056", "D02M0028", "D03M0017")
"""Talks with the speaker of A01M0056, a talk of eval2."""

PUBLISHED = {"eval1": 1_272, "eval2": 1_292, "eval3": 1_385}
"""Utterances of the test sets in ESPnet's results, segments joined as by default here."""

HIDDEN = "×"
"""Stands for each syllable of a name that was made unrecognisable."""

_SPLIT_OF = {talk: split for split, talks in SPLITS.items() for talk in talks.split()}
_LONG_NASAL = re.compile("([んン])ー+")  # んー and ん are not told apart by the recipes of Kaldi, ESPnet and lhotse
_TALK = re.compile(r"[ASDMR]\d\d[FM]\d{4}")
_TIME = re.compile(r"(\d+) (\d{1,9}(?:\.\d+)?)-(\d{1,9}(?:\.\d+)?) ([LR]):")


@dataclass
class Segment:
    """A stretch of speech between two pauses, or several joined.

    Attributes:
        where: File and line of its first word, for messages.
        channel: Speaker of a dialogue, ``L`` or ``R``; ``L`` in other talks.
        start_s: Where it begins in the recording, in seconds.
        end_s: Where it ends, in seconds.
        text: Its words, in the form of transcript that is read.
    """

    where: str
    channel: str
    start_s: float
    end_s: float
    text: str


class CSJ:
    """Reader of CSJ on disk: one utterance a run of segments without a longer pause.

    Args:
        root: Folder of the corpus.
        text: Form of the transcript: ``disfluent`` or ``fluent``.
        max_gap_s: Longest pause that segments are joined over, in seconds; null joins none.
        max_utterance_s: Length from which on an utterance takes no further segment, in seconds.
    """

    name = "csj"
    version = "own"

    def __init__(
        self, root: Path, text: str = "disfluent", max_gap_s: float | None = 0.5, max_utterance_s: float = 10.0
    ) -> None:
        if text not in TEXTS:
            msg = f"Unknown `text` '{text}'.{did_you_mean(text, TEXTS)} Known: {', '.join(TEXTS)}."
            raise UserError(msg)
        if (max_gap_s is not None and not max_gap_s >= 0) or not max_utterance_s >= 0:
            msg = f"`max_gap_s` and `max_utterance_s` must be at least 0, but are {max_gap_s} and {max_utterance_s}."
            raise UserError(msg)
        self.root, self.text, self.max_gap_s, self.max_utterance_s = Path(root), text, max_gap_s, max_utterance_s

    def options(self) -> dict[str, Any]:
        """Return the options that decide what the manifests hold."""
        return {"text": self.text, "max_gap_s": self.max_gap_s, "max_utterance_s": self.max_utterance_s}

    def splits(self) -> list[str]:
        """Return the splits that have talks on disk.

        Raises:
            UserError: If there are none.
        """
        found = {_split_of(path.stem) for path in self.files()}
        return [split for split in ("train", *SPLITS) if split in found]

    def files(self) -> list[Path]:
        """Return the transcriptions of all talks, by the talks' ids.

        Raises:
            UserError: If there are none, or a talk has several.
        """
        places = [place for place in (self.root / "MORPH" / "SDB", self.root / "SDB") if place.is_dir()]
        talks: dict[str, Path] = {}
        for path in (places or [self.root])[0].rglob("*.sdb"):
            if talks.setdefault(path.stem, path) != path:
                msg = f"The talk {path.stem} is in '{talks[path.stem]}' and in '{path}'. Keep one of the two."
                raise UserError(msg)
        if not talks:
            what = "no .sdb file is in it" if self.root.is_dir() else "no such folder"
            msg = f"No CSJ in '{self.root}': {what}. Give `root` the folder that holds MORPH/SDB (or SDB) and WAV."
            raise UserError(msg)
        return [talks[talk] for talk in sorted(talks)]

    def published(self) -> dict[str, int]:
        """Return the utterances of ESPnet's test sets, where segments are joined as there."""
        return dict(PUBLISHED) if (self.max_gap_s, self.max_utterance_s) == (0.5, 10.0) else {}

    def read(self, split: str, tally: Tally) -> Iterator[Utterance]:
        """Yield the utterances of a split's talks, by the talks' ids and by time.

        Raises:
            UserError: If a transcription cannot be read, or no recording is there; of a test set, also if one of the
                two is missing, or a transcription holds no word.
        """
        hint = "Give `root` the folder that holds MORPH/SDB (or SDB) and WAV."
        yield from with_audio(self._stretches(split, tally), split, tally, hint)

    def _stretches(self, split: str, tally: Tally) -> Iterator[Stretch]:
        place = self.root / "WAV"
        recordings = {path.stem: path for path in (place if place.is_dir() else self.root).rglob("*.[wW][aA][vV]")}
        transcriptions = self.files()
        talks = {sdb.stem for sdb in transcriptions}
        for name, recording in sorted(recordings.items()):
            talk = name.removesuffix("-L").removesuffix("-R")
            if talk not in talks and _TALK.fullmatch(talk) and _split_of(talk) == split:
                leave_out(str(recording), "recording without a transcription", split, tally)
        for sdb in transcriptions:
            if _split_of(sdb.stem) != split:
                continue
            segments = read_segments(sdb, self.text == "fluent", tally)
            if not segments:
                leave_out(str(sdb), "transcription without a word", split, tally)
            for segment in sorted(self._joined(segments), key=lambda one: (one.start_s, one.channel)):
                if HIDDEN in segment.text:
                    if split in LEARNED_SPLITS:
                        tally.rejected[f"a name in it was made unrecognisable ({HIDDEN})"] += 1
                        continue
                    tally.changed[f"the mark of an unrecognisable name ({HIDDEN}) taken out"] += 1
                    segment.text = segment.text.replace(HIDDEN, "")
                if not segment.text and split in LEARNED_SPLITS:
                    tally.rejected["no words but fillers and fragments"] += 1
                    continue
                yield self._stretch(sdb.stem, segment, recordings)

    def _joined(self, segments: list[Segment]) -> Iterator[Segment]:
        """Yield segments joined over short pauses, each channel's by itself."""
        joined: dict[str, Segment] = {}
        for segment in segments:
            before = joined.get(segment.channel)
            if (
                before is not None
                and self.max_gap_s is not None
                and segment.start_s - before.end_s <= self.max_gap_s
                and before.end_s - before.start_s <= self.max_utterance_s
            ):
                before.end_s = segment.end_s
                before.text += segment.text
                continue
            if before is not None:
                yield before
            joined[segment.channel] = segment
        yield from joined.values()

    def _stretch(self, talk: str, segment: Segment, recordings: dict[str, Path]) -> Stretch:
        speaker = f"{talk}-{segment.channel}" if talk.startswith("D") else talk
        recording = recordings.get(speaker, self.root / "WAV" / f"{speaker}.wav")
        start_ms, end_ms = round(1000 * segment.start_s), round(1000 * segment.end_s)
        utterance = Utterance(
            id=f"{speaker}_{start_ms:07d}_{end_ms:07d}",  # as in Kaldi and ESPnet
            audio=str(recording.absolute()),
            offset_s=segment.start_s,
            duration_s=0.0,
            source_language="ja",
            transcript=segment.text,
            speaker=speaker,
            corpus=self.name,
        )
        return Stretch(segment.where, utterance, round(segment.end_s - segment.start_s, 3))


def read_segments(path: Path, fluent: bool, tally: Tally) -> list[Segment]:
    """Return the segments of a talk that hold words, in their order.

    Args:
        path: The talk's ``.sdb`` file.
        fluent: Whether fillers and fragments are left out of the texts.
        tally: Where tags that are not known are counted, lines without a word, and a last one that nothing ends.

    Raises:
        UserError: If the file is not Shift-JIS, or a line or its tags are not as expected.
    """
    try:
        content = path.read_bytes()
        lines = content.decode("cp932").split("\n")
    except OSError as error:
        msg = f"'{path}' cannot be read: {error}."
        raise UserError(msg) from error
    except UnicodeDecodeError as error:
        msg = f"{path}, line {line_of(error)}: not Shift-JIS, as CSJ's transcriptions are: {error}. Fetch it anew."
        raise UserError(msg) from error
    count_open_end(content, "a transcription", tally)
    segments: dict[tuple[str, str], Segment] = {}
    resolvers = {channel: TagResolver(fluent) for channel in "LR"}
    where = str(path)
    try:
        for number, line in enumerate(lines, start=1):
            if not line.strip():
                continue
            where = f"{path}, line {number}"
            fields = line.split("\t")
            time = _TIME.match(fields[3]) if len(fields) > 5 else None
            if time is None:
                msg = f"{where}: needs tab-separated fields, the fourth like '0001 00000.416-00001.253 L:-001-001'."
                raise UserError(msg)
            name, start, end, channel = time.groups()
            if not fields[5].strip():
                tally.changed["line without a word"] += 1
            said, text = resolvers[channel].resolve(_LONG_NASAL.sub(r"\1", fields[5].rstrip("\r・")))
            if said:
                segment = segments.get((channel, name))
                if segment is None:
                    segments[channel, name] = Segment(where, channel, float(start), float(end), text)
                else:
                    segment.text += text
        for resolver in resolvers.values():
            resolver.finish()
            for tag, count in (+resolver.unknown).items():
                tally.changed[f"words in a tag that is not known, ({tag} …), kept"] += count
    except TagError as error:
        msg = f"{where}: {error}. Fetch the transcription anew."
        raise UserError(msg) from error
    return list(segments.values())


def _split_of(talk: str) -> str:
    return "" if talk in EXCLUDED else _SPLIT_OF.get(talk, "train")


class CSJDataModule(CorpusDataModule):
    """CSJ for training and scoring.

    Args:
        root: Folder that holds ``MORPH/SDB`` (or ``SDB``) and ``WAV``.
        text: Form of the transcripts: ``disfluent``, with fillers and word fragments, as systems are scored, or
            ``fluent``, without.
        max_gap_s: Longest pause that segments are joined over, in seconds; null joins none.
        max_utterance_s: Length from which on an utterance takes no further segment, in seconds.
        test_splits: Splits that are scored: ``eval1``, ``eval2``, ``eval3``.
        tasks: Only ``asr``: there are no translations.
        **kwargs: Options of :class:`speechllm.data.corpus.CorpusDataModule`.
    """

    def __init__(
        self,
        root: str,
        text: str = "disfluent",
        max_gap_s: float | None = 0.5,
        max_utterance_s: float = 10.0,
        test_splits: list[str] = ["eval1", "eval2", "eval3"],  # noqa: B006 (never changed, and shown by --help as it is)
        tasks: list[str] = ["asr"],  # noqa: B006
        **kwargs: Any,
    ) -> None:
        for split in test_splits:
            if split not in PUBLISHED:
                msg = f"Unknown CSJ test set '{split}'.{did_you_mean(split, PUBLISHED)} Known: {', '.join(PUBLISHED)}."
                raise UserError(msg)
        corpus = CSJ(Path(root), text, max_gap_s, max_utterance_s)
        selection = f"{text}_{max_gap_s}_{max_utterance_s}"
        super().__init__(corpus, Path(root) / "manifests" / selection, tasks=tasks, test_splits=test_splits, **kwargs)
