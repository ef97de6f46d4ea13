"""Utterances that are whole audio files: how long each is, and what becomes of those that cannot be read."""

from collections.abc import Iterator, Sequence
from pathlib import Path

from speechllm.data.headers import read_headers
from speechllm.data.manifest import LEARNED_SPLITS, Tally
from speechllm.data.utterance import Utterance
from speechllm.errors import UserError


def with_durations(utterances: Sequence[Utterance], split: str, tally: Tally) -> Iterator[Utterance]:
    """Yield utterances of whole files with duration and sampling rate as their headers say, in their order.

    A clip that is missing, empty or damaged is left out of ``train`` and ``dev`` and counted. A test set keeps its
    size: such a clip stays with a duration of one sample, is counted, and is scored as an empty hypothesis.

    Args:
        utterances: Utterances whose ``audio`` is set and whose durations are not.
        split: Name of the split.
        tally: Where clips that cannot be read are counted.

    Raises:
        UserError: If no clip of the split exists.
    """
    if utterances and not any(Path(utterance.audio).is_file() for utterance in utterances):
        msg = (
            f"None of the {len(utterances)} clips of the split '{split}' exists; the first is '{utterances[0].audio}'. "
            "Check the root, or unpack the clips."
        )
        raise UserError(msg)
    for utterance, info in zip(utterances, read_headers(utterance.audio for utterance in utterances), strict=True):
        if info is None and split in LEARNED_SPLITS:
            tally.rejected["clip is missing, empty or damaged"] += 1
            continue
        if info is None:
            tally.changed["clip is missing, empty or damaged, and counts as silence"] += 1
        utterance.sampling_rate = info.sampling_rate if info else 16_000
        utterance.duration_s = info.duration_s if info else 1 / utterance.sampling_rate
        utterance.recording_duration_s = utterance.duration_s
        yield utterance
