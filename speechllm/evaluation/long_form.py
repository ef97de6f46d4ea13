"""Talks that were cut into segments of their own: hypotheses are aligned anew with the segments of the references.

The alignment is that of mweralign (minimum word error rate, as at IWSLT), which runs as a program of its own. Here it
only says where to cut: the text between two cuts is what the model wrote, with its spaces.
"""

import re
import shutil
import subprocess
import sys
import tempfile
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from pathlib import Path

from speechllm.errors import UserError
from speechllm.predictions import Prediction
from speechllm.talk_references import TalkReference

CHARACTER_LANGUAGES = ("ja", "km", "lo", "my", "th", "yue", "zh")
"""Languages without spaces between words, which are aligned character by character."""

FLAGS = ("hit_limit", "missing_separator")
"""What may be wrong with an answer, and stays with the segment in which the answer ends."""

Talk = tuple[str, str, str, str]
"""Corpus, task, name of the talk's audio file without suffix, and target language."""


@dataclass(frozen=True)
class Alignment:
    """Talks whose texts are aligned in one language.

    Attributes:
        hypotheses: Text of each talk.
        references: Segments of each talk's references.
        language: Language of both.
    """

    hypotheses: Sequence[str]
    references: Sequence[Sequence[str]]
    language: str


def realign(predictions: Sequence[Prediction], references: Sequence[TalkReference]) -> list[Prediction]:
    """Return predictions for the segments of the references, in their order, after those that have a reference.

    Durations, times and numbers of tokens are those of segments that are no more, and are zero. That an answer was cut
    off, or lacks its separator, is said of the segment in which it ends. A text whose references
    were not published, transcript or translation, is left out with its task.

    Args:
        predictions: Predictions of the segments that were decoded.
        references: References of the same talks.

    Raises:
        UserError: If there is nothing to align, a talk has no references or was not decoded, neither text has
            references, tasks differ in a text without references alone, or mweralign is absent.
    """
    found = [p for p in predictions if p.reference_transcript or p.reference_translation]
    talks: dict[Talk, list[Prediction]] = {}
    for p in (p for p in predictions if not (p.reference_transcript or p.reference_translation)):
        talks.setdefault((p.corpus, p.task, Path(p.recording).stem, p.target_language), []).append(p)
    if not talks:
        msg = "There are references of whole talks, but every utterance has a reference of its own. Leave them out."
        raise UserError(msg)
    expected: dict[tuple[str, str], list[TalkReference]] = {}
    for reference in references:
        expected.setdefault((reference.talk, reference.target), []).append(reference)
    _check_talks(talks, expected)
    tasks: dict[tuple[str, str], str] = {}
    for task, target in dict.fromkeys((task, target) for _, task, _, target in talks):
        group = {
            talk: sorted(said, key=lambda p: p.offset_s)
            for talk, said in talks.items()
            if (talk[1], talk[3]) == (task, target)
        }
        aligned = _realign_group(group, expected)
        other = tasks.setdefault((aligned[0].task, target), task)
        if other != task:
            msg = f"The tasks {other}, {task} differ in texts without references alone: score one of these tasks."
            raise UserError(msg)
        found += aligned
    return [replace(prediction, row=row) for row, prediction in enumerate(found)]


def cut_like(alignment: Alignment) -> list[list[str]]:
    """Return the hypothesis of each talk, cut into as many segments as its references have.

    Raises:
        UserError: If mweralign is not installed, or fails.
    """
    texts = [" ".join(text.split()) for text in alignment.hypotheses]
    lines = _run_mweralign(alignment, texts)
    found, first = [], 0
    for text, segments in zip(texts, alignment.references, strict=True):
        found.append(_cut(text, lines[first : first + len(segments)]))
        first += len(segments)
    return found


def _check_talks(talks: dict[Talk, list[Prediction]], expected: dict[tuple[str, str], list[TalkReference]]) -> None:
    decoded = {(talk, target) for _, _, talk, target in talks}
    without = sorted(decoded - expected.keys())
    if without:
        listed = ", ".join(f"'{talk}' ({target})" for talk, target in without[:3])
        msg = f"{len(without)} of {len(decoded)} talks have no references, such as {listed}."
        raise UserError(msg)
    absent = sorted(key for key in expected.keys() - decoded if key[1] in {target for _, target in decoded})
    if absent:
        listed = ", ".join(f"'{talk}' ({target})" for talk, target in absent[:3])
        msg = f"{len(absent)} talks of the references were not decoded: {listed}. A test set is scored as a whole."
        raise UserError(msg)


def _realign_group(
    talks: dict[Talk, list[Prediction]], expected: dict[tuple[str, str], list[TalkReference]]
) -> list[Prediction]:
    """Return the realigned predictions of talks with one task and target language."""
    segments = [expected[talk, target] for _, _, talk, target in talks]
    first = next(iter(talks.values()))[0]
    texts = {}
    for text, language in (("transcript", first.source_language), ("translation", first.target_language)):
        asked = ("asr" if text == "transcript" else "st") in first.task.split("+")
        if asked and any(getattr(reference, text) for talk in segments for reference in talk):
            hypotheses = [" ".join(getattr(p, f"hypothesis_{text}") for p in said) for said in talks.values()]
            references = [[getattr(reference, text) for reference in talk] for talk in segments]
            texts[text] = cut_like(Alignment(hypotheses, references, language))
    if not texts:
        msg = f"The references hold no {'translations' if 'st' in first.task else 'transcripts'} to score with."
        raise UserError(msg)
    found = []
    for place, (said, references_of) in enumerate(zip(talks.values(), segments, strict=True)):
        text = list(texts)[-1]  # what an answer ends with
        flagged = {flag: _places(said, flag, text, texts[text][place]) for flag in FLAGS}
        for number, reference in enumerate(references_of):
            cuts = {text: cut[place][number] for text, cut in texts.items()}
            found.append(_prediction(said[0], reference, cuts))
            for flag, ends in flagged.items():
                setattr(found[-1], flag, number in ends)
    return found


def _places(said: Sequence[Prediction], flag: str, text: str, pieces: Sequence[str]) -> set[int]:
    """Return the pieces of a talk in which the decoded segments end that have a flag."""
    ends = accumulate(len("".join(getattr(p, f"hypothesis_{text}").split())) for p in said)
    borders = list(accumulate(len("".join(piece.split())) for piece in pieces))
    return {bisect_left(borders, end) for p, end in zip(said, ends, strict=True) if getattr(p, flag)}


def _prediction(first: Prediction, reference: TalkReference, cuts: dict[str, str]) -> Prediction:
    """Return the prediction of a segment of the references; ``first`` is one of its talk."""
    tasks = {"transcript": "asr", "translation": "st"}
    return Prediction(
        id=f"{first.source_language}-{first.target_language}_{reference.talk}_{reference.segment}",
        row=0,
        corpus=first.corpus,
        split=first.split,
        task="+".join(tasks[text] for text in cuts),
        source_language=first.source_language,
        target_language=first.target_language,
        reference_transcript=reference.transcript,
        reference_translation=reference.translation,
        hypothesis_transcript=cuts.get("transcript", ""),
        hypothesis_translation=cuts.get("translation", ""),
        text="\n".join(cuts.values()),
        duration_s=0.0,
        decode_s=0.0,
        tokens=0,
        readable=True,
        missing_separator=False,
        hit_limit=False,
        speaker=first.speaker,
        recording=first.recording,
    )


def _run_mweralign(alignment: Alignment, texts: Sequence[str]) -> list[str]:
    """Return a line for each segment of the references, of all talks one after the other."""
    program = shutil.which("mweralign", path=str(Path(sys.executable).parent)) or shutil.which("mweralign")
    if program is None:
        msg = (
            "Segments of talks are aligned with their references by mweralign, which is not installed. "
            "Run `pip install 'speechllm[long_form]'`."
        )
        raise UserError(msg)
    with tempfile.TemporaryDirectory() as folder:
        documents = [str(place) for place, talk in enumerate(alignment.references) for _ in talk]
        references = [_one_line(line) for talk in alignment.references for line in talk]
        files = {"reference": references, "hypothesis": [_one_line(text) for text in texts], "document": documents}
        for name, lines in files.items():
            (Path(folder) / name).write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
        by_character = alignment.language.split("-")[0] in CHARACTER_LANGUAGES
        options = ["-m", "cj", "-w"] if by_character else ["-m", "none"]
        command = [program, "-r", "reference", "-t", "hypothesis", "-d", "document", "-o", "aligned", *options]
        answer = subprocess.run(
            command, cwd=folder, capture_output=True, text=True, env={"PYTHONUTF8": "1", "LANG": "C.UTF-8"}, check=False
        )
        aligned = Path(folder) / "aligned"
        if answer.returncode or not aligned.is_file():
            msg = f"mweralign failed: {answer.stderr.strip()[-500:]}"
            raise UserError(msg)
        found = aligned.read_text(encoding="utf-8").split("\n")[:-1]
    if len(found) != len(references):
        msg = f"mweralign gave {len(found)} segments for {len(references)} of the references."
        raise UserError(msg)
    return found


def _one_line(text: str) -> str:
    """Return a text of as many characters in which nothing stands for an alternative reference, as ``###`` would."""
    return re.sub("#{2,}", lambda found: "＃" * len(found[0]), " ".join(text.split()))


def _cut(text: str, lines: Sequence[str]) -> list[str]:
    """Return ``text`` in pieces that have as many characters as ``lines``, white space not counted."""
    pieces, start = [], 0
    for line in lines:
        left, end = len("".join(line.split())), start
        while left and end < len(text):
            left -= not text[end].isspace()
            end += 1
        if left:
            break
        pieces.append(text[start:end].strip())
        start = end
    if len(pieces) != len(lines) or text[start:].strip():
        msg = "mweralign gave back another text than the hypothesis, so that it cannot be cut."
        raise UserError(msg)
    return pieces
