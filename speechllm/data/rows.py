"""Rows: an utterance together with a task and a target language, which is what a model is trained and scored on."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from speechllm.batch import TASKS
from speechllm.data.index import Manifest, ManifestIndex
from speechllm.data.utterance import Utterance


@dataclass(frozen=True)
class Row:
    """What a model is given once.

    Attributes:
        utterance: The utterance.
        task: One of :data:`speechllm.batch.TASKS`.
        target_language: Language of the translation; the source language for ``asr``.
        corpus: Name that batches carry.
    """

    utterance: Utterance
    task: str
    target_language: str
    corpus: str


class Rows(Protocol):
    """A sequence of rows that are read when they are asked for; processes may share one.

    Attributes:
        durations_s: (N,) float64, duration of each row in seconds.
        utterances: (N,) int64, which rows have the same audio: they stand side by side and have the same number.
    """

    durations_s: NDArray[np.float64]
    utterances: NDArray[np.int64]

    def __len__(self) -> int: ...

    def __getitem__(self, number: int) -> Row: ...


@dataclass
class Selection:
    """Which utterances of a manifest are rows, with which task and target: N rows, by utterance, as in the manifest.

    Attributes:
        utterances: (N,) int64, positions in the manifest.
        tasks: (N,) int8, positions in :data:`speechllm.batch.TASKS`.
        targets: (N,) int16, positions in the index's ``languages``.
    """

    utterances: NDArray[np.int64]
    tasks: NDArray[np.int8]
    targets: NDArray[np.int16]

    def __len__(self) -> int:
        return len(self.utterances)

    def keep(self, mask: NDArray[np.bool_]) -> "Selection":
        """Return the rows where ``mask`` (N,) is True."""
        return Selection(self.utterances[mask], self.tasks[mask], self.targets[mask])


def select_rows(index: ManifestIndex, tasks: Sequence[str]) -> Selection:
    """Return one row for each utterance, task and target language that it has a translation into, empty or not.

    Args:
        index: Index of the manifest.
        tasks: Tasks in the order in which an utterance's rows stand.
    """
    found: list[tuple[NDArray[np.int64], int, NDArray[np.int16]]] = []
    everyone = np.arange(len(index))
    for task in tasks:
        code = TASKS.index(task)
        if task == "asr":
            found.append((everyone, code, index.sources))
            continue
        for column in range(len(index.languages)):
            (held,) = np.nonzero(index.translation_chars[:, column] >= 0)
            found.append((held, code, np.full(len(held), column, dtype=np.int16)))
    utterances = np.concatenate([rows for rows, _, _ in found])
    order = np.argsort(utterances, kind="stable")
    return Selection(
        utterances[order],
        np.concatenate([np.full(len(rows), code, dtype=np.int8) for rows, code, _ in found])[order],
        np.concatenate([targets for _, _, targets in found])[order],
    )


def transcribe_once(index: ManifestIndex, selection: Selection, first: dict[str, str]) -> Selection:
    """Return rows without those of ``asr`` that have no translation into the first target of their language.

    Corpora of talks repeat them for each target language, cut in other ways: each would be transcribed several times.

    Args:
        index: Index of the manifest.
        selection: Its rows.
        first: First target language by source language.
    """
    keep = selection.tasks != TASKS.index("asr")
    for source, target in first.items():
        of_first = (index.languages[index.sources] == source) & (index.translation_column(target) >= 0)
        keep |= of_first[selection.utterances]
    return selection.keep(keep)


def text_lengths(index: ManifestIndex, selection: Selection) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """Return the characters of each row's transcript and of its translation; -1 where its task needs none.

    Args:
        index: Index of the manifest.
        selection: N rows of it.

    Returns:
        (N,) int32 and (N,) int32.
    """
    transcripts = index.transcript_chars[selection.utterances]
    translations = index.translation_chars[selection.utterances, selection.targets]
    without_transcript, without_translation = (
        selection.tasks == TASKS.index("st"),
        selection.tasks == TASKS.index("asr"),
    )
    return np.where(without_transcript, -1, transcripts), np.where(without_translation, -1, translations)


class ManifestRows:
    """Rows of one manifest.

    Args:
        manifest: The manifest.
        selection: Which rows.
        suffix: What the name of the corpus is followed by in batches, such as ``.tst-HE``.
    """

    def __init__(self, manifest: Manifest, selection: Selection, suffix: str = "") -> None:
        self.manifest, self.selection, self.suffix = manifest, selection, suffix
        self.durations_s = manifest.index.durations_s[selection.utterances]
        self.utterances = selection.utterances

    def __len__(self) -> int:
        return len(self.selection)

    def __getitem__(self, number: int) -> Row:
        """Read a row.

        Raises:
            UserError: If the manifest is damaged there.
        """
        utterance = self.manifest[int(self.selection.utterances[number])]
        task = TASKS[self.selection.tasks[number]]
        target = str(self.manifest.index.languages[self.selection.targets[number]])
        return Row(utterance, task, target, utterance.corpus + self.suffix)


class JoinedRows:
    """Rows of several sources, one after the other.

    Args:
        parts: The sources.
    """

    def __init__(self, parts: Sequence[Rows]) -> None:
        self.parts = list(parts)
        self.starts = np.cumsum([0, *(len(part) for part in self.parts)])
        self.durations_s = np.concatenate([np.empty(0), *(part.durations_s for part in self.parts)])
        numbers, used = [np.empty(0, dtype=np.int64)], 0
        for part in self.parts:
            numbers.append(part.utterances + used)
            used += int(part.utterances.max(initial=-1)) + 1
        self.utterances = np.concatenate(numbers)

    def __len__(self) -> int:
        return int(self.starts[-1])

    def __getitem__(self, number: int) -> Row:
        """Read a row of the part that holds it.

        Raises:
            IndexError: If there is no such row.
        """
        if not 0 <= number < len(self):
            msg = f"There is no row {number} among {len(self)}."
            raise IndexError(msg)
        part = int(np.searchsorted(self.starts, number, side="right")) - 1
        return self.parts[part][int(number - self.starts[part])]
