"""Batches of a corpus in shards: each process and worker reads shards of its own from beginning to end."""

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from speechllm.data.epoch_plan import Draw, EpochPlan, passes
from speechllm.errors import UserError

LENGTH_JITTER = 0.05
"""How far durations are taken to differ from what they are when rows are sorted: batches are not always the same."""


@dataclass
class ShardPlan(EpochPlan):
    """Batches that are drawn from a few shards at a time.

    The shards of an epoch are shuffled and dealt out to the workers of all processes. A worker holds some of its
    shards at a time; their rows are sorted by duration, cut into batches and shuffled. All workers get equally many
    batches, by halving the largest ones of those that would have fewer.

    Attributes:
        shards: (K + 1,) int64, row that each shard begins with, and the number of rows.
        buffer_shards: Shards that a worker holds at a time: rows are shuffled among as many.
    """

    shards: NDArray[np.int64] = field(default_factory=lambda: np.zeros(1, dtype=np.int64))
    buffer_shards: int = 4

    def steps(self, epoch: int, world_size: int, workers: int = 1) -> list[list[Draw]]:
        """Return the steps of an epoch, each with one batch for every process.

        Args:
            epoch: The epoch.
            world_size: Number of processes.
            workers: Workers that read a process's batches in turn.

        Raises:
            UserError: If there are fewer shards than processes.
        """
        rng = np.random.default_rng([self.seed, epoch])
        shards = rng.permutation(self._drawn_shards(epoch))
        if len(shards) < world_size:
            msg = (
                f"{world_size} processes cannot share {len(shards)} shards out. Prepare smaller ones "
                "(`--shard_utterances`), or use fewer processes."
            )
            raise UserError(msg)
        workers = max(1, min(workers, len(shards) // world_size))
        streams = [
            self._stream(shards[first :: world_size * workers], epoch, rng) for first in range(world_size * workers)
        ]
        longest = max(map(len, streams))
        streams = [_lengthened(stream, longest) for stream in streams]
        ranks = [streams[rank * workers : (rank + 1) * workers] for rank in range(world_size)]
        in_turn = [[batch for batches in zip(*rank, strict=True) for batch in batches] for rank in ranks]
        return [list(step) for step in zip(*in_turn, strict=True)]

    def _drawn_shards(self, epoch: int) -> NDArray[np.int64]:
        """Return the shards of an epoch, of weighted parts as many as their share of rows takes."""
        if not self.parts:
            return np.arange(len(self.shards) - 1)
        total, weights = len(self.durations_s), sum(part.weight for part in self.parts)
        drawn = []
        for number, part in enumerate(self.parts):
            first, last = np.searchsorted(self.shards, (part.start, part.stop)).tolist()
            mean_rows = (part.stop - part.start) / (last - first)
            count = max(1, round(total * part.weight / weights / mean_rows))
            drawn.append(first + passes(last - first, epoch * count, count, [self.seed, number]))
        return np.concatenate(drawn)

    def _stream(self, shards: NDArray[np.int64], epoch: int, rng: np.random.Generator) -> list[Draw]:
        """Return the batches of one worker."""
        assert self.units is not None
        batches: list[Draw] = []
        for first in range(0, len(shards), self.buffer_shards):
            spans = [
                np.arange(*np.searchsorted(self.units, self.shards[shard : shard + 2]))
                for shard in shards[first : first + self.buffer_shards]
            ]
            units = np.concatenate(spans)
            speeds = self._drawn_speeds(units, rng)
            pieces = self._sorted_pieces(units, speeds, rng)
            batches += [
                self._draw(units[pieces[place]], speeds[pieces[place]], epoch) for place in rng.permutation(len(pieces))
            ]
        return batches

    def _sorted_pieces(
        self, units: NDArray[np.int64], speeds: NDArray[np.float64], rng: np.random.Generator
    ) -> list[NDArray[np.int64]]:
        """Cut groups of rows into batches of about equal duration; positions in ``units``."""
        costs = self.budget.cost(self._longest_s[units] / speeds)
        order = np.argsort(costs * rng.uniform(1 - LENGTH_JITTER, 1 + LENGTH_JITTER, len(units)))
        pieces: list[list[int]] = []
        rows, longest = 0, 0.0
        for place in order.tolist():
            size = int(self._sizes[units[place]])
            longest = max(longest, float(costs[place]))
            if pieces and rows + size <= min(self.budget.utterances, self.budget.seconds / longest):
                pieces[-1].append(place)
                rows += size
            else:
                pieces.append([place])
                rows, longest = size, float(costs[place])
        return [np.array(piece) for piece in pieces]


def _lengthened(batches: list[Draw], count: int) -> list[Draw]:
    """Return as many batches as asked for, by halving the largest where there are fewer."""
    found = list(batches)
    while len(found) < count:
        largest = max(range(len(found)), key=lambda index: len(found[index].rows))
        found[largest : largest + 1] = found[largest].halves()
    return found
