"""Several corpora as one: all their rows, in one shuffled stream of batches."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from speechllm.data.base import SpeechDataModule, TrainingRows
from speechllm.data.epoch_plan import Part
from speechllm.data.rows import JoinedRows, Rows
from speechllm.errors import UserError
from speechllm.talk_references import TalkReference

STRETCH_ROWS = 500
"""Rows that are taken together of a part without shards, where another part has some."""


class MixtureDataModule(SpeechDataModule):
    """All data of several datamodules, for training and for scoring.

    The parts say what is read (tasks, duration limits, size of the validation set), and the mixture how it is
    batched: the parts' own batch settings, workers and seeds play no part. An epoch has as many rows as the parts have
    together. With weights, a part that is due more rows than it has begins again within the epoch, and one that is due
    fewer goes on in the next epoch where it stopped.

    Args:
        parts: The datamodules.
        weights: Share of each part in the rows of an epoch, in any unit: ``[3, 1]`` is three quarters and one quarter.
            Every row once an epoch where neither they nor a temperature are given.
        temperature: Shares in proportion to the number of rows to the power of 1 / temperature: 1 leaves them, larger
            values raise small parts, up to equal shares.
        test_parts: Datamodules whose test sets are scored after those of the parts, and that are not trained on.
        **kwargs: Options of :class:`speechllm.data.base.SpeechDataModule`.
    """

    def __init__(
        self,
        parts: list[SpeechDataModule],
        weights: list[float] | None = None,
        temperature: float | None = None,
        test_parts: list[SpeechDataModule] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        if not parts:
            msg = "A mixture needs at least one datamodule in `parts`."
            raise UserError(msg)
        if weights is not None and temperature is not None:
            msg = "A mixture takes `weights` or `temperature`, and was given both. Leave one out."
            raise UserError(msg)
        if weights is not None and (len(weights) != len(parts) or not all(0 < w < float("inf") for w in weights)):
            msg = f"`weights` needs a number above 0 for each of the {len(parts)} parts, but is {weights}."
            raise UserError(msg)
        if temperature is not None and not 0 < temperature < float("inf"):
            msg = f"`temperature` must be above 0, but is {temperature}."
            raise UserError(msg)
        self.parts, self.weights, self.temperature = parts, weights, temperature
        self.test_parts = test_parts or []

    def prepare_data(self) -> None:
        """Prepare every part."""
        for part in [*self.parts, *self.test_parts]:
            part.prepare_data()

    def talk_references(self) -> list[TalkReference]:
        """Return the references of the parts whose segments have none of their own."""
        return [reference for part in [*self.parts, *self.test_parts] for reference in part.talk_references()]

    def train_rows(self) -> TrainingRows:
        """Return the training rows of the parts, one part after the other, with their weights."""
        found = [part.train_rows() for part in self.parts]
        rows = JoinedRows([part.rows for part in found])
        untranscribed = sum(part.untranscribed for part in found)
        weights = self.weights
        if self.temperature is not None:
            weights = [float(len(part.rows) ** (1 / self.temperature)) for part in found]
        bounds = np.cumsum([0, *(len(part.rows) for part in found)]).tolist()
        parts = [Part(*span) for span in zip(bounds[:-1], bounds[1:], weights, strict=True)] if weights else []
        shards = None
        if any(part.shards is not None for part in found):
            starts = [first + part_shards(part) for first, part in zip(bounds, found, strict=False)]
            shards = np.unique(np.concatenate(starts))
        return TrainingRows(rows, untranscribed, parts, shards)

    def eval_rows(self, kind: str) -> Rows:
        """Return the parts' rows of ``"dev"`` or ``"test"``, one part after the other."""
        parts = [*self.parts, *self.test_parts] if kind == "test" else self.parts
        return JoinedRows([part.eval_rows(kind) for part in parts])


def part_shards(part: TrainingRows) -> NDArray[np.int64]:
    """Return the shards of a part; one that has none is cut into stretches, which are read file by file."""
    if part.shards is not None:
        return part.shards
    return np.append(np.arange(0, len(part.rows), STRETCH_ROWS), len(part.rows))
