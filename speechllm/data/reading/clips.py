"""Utterances that are whole audio files: how long each is, and what becomes of those that cannot be read."""

import os
from collections import deque
from collections.abc import Iterable, Iterator, Mapping

from speechllm.audio import AudioInfo
from speechllm.data.manifest import LEARNED_SPLITS, Tally
from speechllm.data.reading.headers import read_header
from speechllm.data.reading.parallel import map_in_processes
from speechllm.data.utterance import Utterance
from speechllm.errors import UserError

USUAL_RATE = 48_000
"""Rate in Hz of clips whose durations are given, where no header says it."""


def with_durations(
    utterances: Iterable[Utterance], split: str, tally: Tally, durations_s: Mapping[str, float] | None = None
) -> Iterator[Utterance]:
    """Yield utterances of whole files with duration and sampling rate as their headers say, in their order.

    A clip that is missing, empty or damaged is left out of ``train`` and ``dev`` and counted. A test set keeps its
    size: such a clip stays with a duration of one sample, is counted, and is scored as an empty hypothesis.

    Args:
        utterances: Utterances whose ``audio`` is set and whose durations are not; taken as they are needed, so that a
            corpus of millions need not fit into memory.
        split: Name of the split.
        tally: Where clips that cannot be read are counted.
        durations_s: Durations in seconds that a corpus itself gives, by name of the file. Of these clips only the size
            is looked at, which matters on a slow disk, and their rate is taken to be that of the first one that can be
            read.

    Raises:
        UserError: If no clip of the split exists.
    """
    given = durations_s or {}
    waiting: deque[Utterance] = deque()

    def clips() -> Iterator[tuple[str, float]]:
        for utterance in utterances:
            waiting.append(utterance)
            yield utterance.audio, given.get(os.path.basename(utterance.audio), 0.0)

    rate_of_given, first, count, found = 0, "", 0, False
    for info in map_in_processes(_look, clips()):
        utterance = waiting.popleft()
        count, first = count + 1, first or utterance.audio
        found = found or info is not None or os.path.isfile(utterance.audio)
        if info is None and split in LEARNED_SPLITS:
            tally.rejected["clip is missing, empty or damaged"] += 1
            continue
        if info is None:
            tally.changed["clip is missing, empty or damaged, and counts as silence"] += 1
        elif not info.sampling_rate:
            if not rate_of_given and (header := read_header(utterance.audio)):
                rate_of_given = header.sampling_rate
            info = AudioInfo(rate_of_given or USUAL_RATE, info.duration_s, info.channels)
        utterance.sampling_rate = info.sampling_rate if info else 16_000
        utterance.duration_s = info.duration_s if info else 1 / utterance.sampling_rate
        utterance.recording_duration_s = utterance.duration_s
        yield utterance
    if count and not found:
        msg = (
            f"None of the {count} clips of the split '{split}' exists; the first is '{first}'. Check the root, or "
            "unpack the clips."
        )
        raise UserError(msg)


def _look(clip: tuple[str, float]) -> AudioInfo | None:
    """Return what is known of a clip, at a rate of 0 Hz where its duration is given; None where it cannot be read."""
    path, given_s = clip
    if not given_s:
        return read_header(path)
    try:
        return AudioInfo(0, given_s, 1) if os.path.getsize(path) else None
    except (OSError, ValueError):
        return None
