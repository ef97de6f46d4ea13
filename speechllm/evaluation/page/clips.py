"""Where the page finds the audio of an utterance: in the original file, or in a clip cut out beside the page."""

import os
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import quote

import soundfile

from speechllm.predictions import Prediction

FOLDER = "clips"
"""Folder beside the page that copied clips are written to."""

NO_FILE = "no audio file is named"
NOT_FOUND = "the audio file was not found"
UNREADABLE = "the audio could not be read"

Stretch = tuple[str, float, float, bool]
"""Recording, offset and duration in seconds, and whether it could be read."""


@dataclass(frozen=True)
class Clip:
    """What to play for an utterance.

    Attributes:
        source: URL of the file, relative to the page.
        start_s: Where the utterance begins in it, in seconds.
    """

    source: str
    start_s: float


@dataclass
class Clips:
    """The audio of utterances.

    Attributes:
        found: A clip for each utterance, or the reason why there is none.
        missing: Number of utterances without audio, by reason.
    """

    found: list[Clip | str]
    missing: Counter[str] = field(init=False)

    def __post_init__(self) -> None:
        self.missing = Counter(clip for clip in self.found if isinstance(clip, str))


def link_clips(folder: Path, predictions: Sequence[Prediction]) -> Clips:
    """Point to the original files, which stay where they are.

    Args:
        folder: Folder of the page.
        predictions: The utterances. Relative paths of recordings are taken from the working directory.
    """
    present = _present(predictions)
    return Clips(
        [_problem(p, present) or Clip(_url(p.recording, folder), _milliseconds(p.offset_s)) for p in predictions]
    )


def copy_clips(folder: Path, predictions: Sequence[Prediction]) -> Clips:
    """Cut the utterances out of their recordings, into FLAC files of their sampling rate and channels, 16 bit.

    Utterances of the same stretch of a recording (tasks or languages of one sentence) share a file. One that cannot be
    cut is among the missing, with its reason.

    Args:
        folder: Folder of the page, which exists; the clips go to its folder ``clips``.
        predictions: The utterances, as for :func:`link_clips`.
    """
    (folder / FOLDER).mkdir(exist_ok=True)
    present = _present(predictions)
    cut: dict[Stretch, Clip | str] = {}
    for prediction in predictions:
        stretch = _stretch(prediction)
        if stretch not in cut:
            cut[stretch] = _problem(prediction, present) or _cut(folder, f"{len(cut) + 1:06d}", prediction)
    return Clips([cut[_stretch(prediction)] for prediction in predictions])


def _stretch(prediction: Prediction) -> Stretch:
    return prediction.recording, prediction.offset_s, prediction.duration_s, prediction.readable


def _present(predictions: Sequence[Prediction]) -> set[str]:
    return {name for name in {prediction.recording for prediction in predictions} if os.path.isfile(name)}


def _problem(prediction: Prediction, present: set[str]) -> str:
    """Return why there is nothing to play, and nothing where there is."""
    if not prediction.recording:
        return NO_FILE
    if not prediction.readable:
        return UNREADABLE
    return "" if prediction.recording in present else NOT_FOUND


def _cut(folder: Path, number: str, prediction: Prediction) -> Clip | str:
    """Write one clip; its name begins with a number, for ids may differ in characters that no file name can have."""
    name = f"{number}_{re.sub(r'[^A-Za-z0-9.-]+', '_', prediction.id)[:60]}.flac"
    try:
        with soundfile.SoundFile(prediction.recording) as file:
            file.seek(min(round(prediction.offset_s * file.samplerate), file.frames))
            samples = file.read(round(prediction.duration_s * file.samplerate), dtype="float32", always_2d=True)
            rate = file.samplerate
        if not len(samples):
            return UNREADABLE
        soundfile.write(folder / FOLDER / name, samples, rate, format="FLAC", subtype="PCM_16")
    except (soundfile.LibsndfileError, RuntimeError, TypeError, ValueError):  # TypeError: a name that ends in .raw
        return UNREADABLE
    return Clip(f"{FOLDER}/{quote(name)}", 0.0)


def _url(recording: str, folder: Path) -> str:
    """Return the way from the page to a file, so that both can be moved together."""
    return quote(Path(os.path.relpath(recording, folder)).as_posix())


def _milliseconds(seconds: float) -> float:
    return round(seconds, 3)
