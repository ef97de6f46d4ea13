"""Rows: an utterance together with a task and a target language, which is what a model is trained and scored on."""

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from lhotse import MonoCut

from speechllm.data.utterance import Utterance


def row_cut(utterance: Utterance, task: str, target_language: str, row: int, corpus: str = "") -> MonoCut:
    """Return an utterance as one row: its cut, with the row's own facts in ``custom``.

    Args:
        utterance: The utterance.
        task: One of :data:`speechllm.batch.TASKS`.
        target_language: Language of the translation; the source language for ``asr``.
        row: Position of the row in its split.
        corpus: Name that batches carry; the utterance's own where it is not given.
    """
    cut = utterance.to_cut()
    cut.custom = {
        "corpus": corpus or utterance.corpus,
        "task": task,
        "target_language": target_language,
        "row": row,
    }
    return cut


def missing_text(utterance: Utterance, task: str, target_language: str) -> str:
    """Return which text that a task is trained on is not there, or an empty string."""
    if task != "st" and not utterance.transcript.strip():
        return "no transcript"
    if task != "asr" and not utterance.translations.get(target_language, "").strip():
        return "no translation"
    return ""


@dataclass
class TrainingRows:
    """The rows of a training set, read anew from the manifest at each iteration.

    Attributes:
        read: Yields the rows, the same ones in the same order at each call.
        durations_s: Duration of each row in seconds, in that order.
        untranscribed: Number of rows without a transcript, from which an adapter's own loss learns nothing.
    """

    read: Callable[[], Iterator[MonoCut]]
    durations_s: list[float]
    untranscribed: int = 0

    def __len__(self) -> int:
        return len(self.durations_s)

    def __iter__(self) -> Iterator[MonoCut]:
        return self.read()


def interleave(parts: list[TrainingRows], seed: int) -> TrainingRows:
    """Return all rows of several training sets, mixed evenly: each keeps its order, and all run out together."""

    def order() -> Iterator[int]:
        rng = random.Random(seed)
        left = [len(part) for part in parts]
        while any(left):
            (choice,) = rng.choices(range(len(parts)), weights=left)
            left[choice] -= 1
            yield choice

    def read() -> Iterator[MonoCut]:
        readers = [iter(part) for part in parts]
        for row, choice in enumerate(order()):
            cut = next(readers[choice])
            cut.custom["row"] = row
            yield cut

    durations = [iter(part.durations_s) for part in parts]
    mixed = [next(durations[choice]) for choice in order()]
    return TrainingRows(read, mixed, sum(part.untranscribed for part in parts))
