"""Every utterance of some splits once, whatever the tasks and languages that it has rows for."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from speechllm.data.base import SpeechDataModule
from speechllm.data.rows import JoinedRows, Row, Rows


class PickedRows:
    """Some of the rows of a sequence, in the order in which they are named.

    Args:
        rows: The rows.
        numbers: (N,) int64, which of them.
    """

    def __init__(self, rows: Rows, numbers: NDArray[np.int64]) -> None:
        self.rows, self.numbers = rows, numbers
        self.durations_s = rows.durations_s[numbers]
        self.utterances = rows.utterances[numbers]

    def __len__(self) -> int:
        return len(self.numbers)

    def __getitem__(self, number: int) -> Row:
        """Read a row."""
        return self.rows[int(self.numbers[number])]


def unique_rows(data: SpeechDataModule, splits: Sequence[str]) -> PickedRows:
    """Return one row for each utterance of some splits.

    Args:
        data: The datamodule, whose manifests are written.
        splits: Any of ``train``, ``dev`` and ``test``.

    Raises:
        UserError: If the manifest of a split is absent or damaged, or no row is left.
    """
    rows = JoinedRows([data.train_rows().rows if split == "train" else data.eval_rows(split) for split in splits])
    return PickedRows(rows, np.nonzero(np.diff(rows.utterances, prepend=-1))[0])
