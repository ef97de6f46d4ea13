"""Which rows make a batch: buckets of like duration for training, every row exactly once for scoring."""

from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from lhotse import MonoCut
from lhotse.dataset import DynamicBucketingSampler
from lhotse.dataset.sampling.base import TimeConstraint
from torch.utils.data import Sampler

from speechllm.data.rows import TrainingRows

BUFFER_ROWS = 20_000
"""Rows held in memory, from which training batches are drawn at random."""


@dataclass
class BatchLimit(TimeConstraint):  # type: ignore[misc]
    """A limit on batches that holds whatever comes next from their bucket.

    lhotse's own closes a batch when one more row *of the longest length so far* would not fit, so that a longer row at
    the end goes over the limit.

    Attributes:
        bounds_s: Upper bound in seconds of each bucket, in rising order.
    """

    bounds_s: tuple[float, ...] = ()

    def close_to_exceeding(self) -> bool:
        """Return whether a further row from the same bucket might not fit."""
        bucket = min(bisect_right(self.bounds_s, self.longest_seen), len(self.bounds_s) - 1)
        longest_s = self.bounds_s[bucket]
        return bool(self.num_cuts >= self.max_cuts or (self.num_cuts + 1) * longest_s > self.max_duration)


def training_sampler(
    rows: TrainingRows,
    batch_seconds: float,
    max_utterances: int,
    num_buckets: int,
    seed: int,
    rank: int = 0,
    world_size: int = 1,
) -> DynamicBucketingSampler:
    """Return a sampler of shuffled batches of rows of like duration.

    Its batches depend on ``seed``, the epoch (``set_epoch``) and ``world_size`` alone. All ranks get equally many, and
    no row goes to two of them; only where the last step has fewer rows than ranks are some repeated.

    Args:
        rows: Training rows.
        batch_seconds: Largest size of a batch in seconds, padding included.
        max_utterances: Largest number of rows of a batch.
        num_buckets: Number of buckets.
        seed: Seed of the order.
        rank: This process.
        world_size: Number of processes.
    """
    bins = duration_bins(rows.durations_s, num_buckets, batch_seconds, max_utterances)
    limit = BatchLimit(batch_seconds, max_utterances, bounds_s=(*bins, max(*bins, *rows.durations_s)))
    return DynamicBucketingSampler(
        rows,
        constraint=limit,
        duration_bins=bins,
        buffer_size=BUFFER_ROWS,
        shuffle=True,
        seed=seed,
        rank=rank,
        world_size=world_size,
    )


def duration_bins(durations_s: list[float], num_buckets: int, batch_seconds: float, max_utterances: int) -> list[float]:
    """Return the bounds in seconds between buckets that give about equally many batches.

    lhotse draws from every bucket equally often. Were a bucket of more batches than the others, the end of an epoch
    would be made of its batches alone, and a model would forget utterances of other durations meanwhile.

    Args:
        durations_s: Duration of every row in seconds.
        num_buckets: Number of buckets; fewer come back where durations repeat, and never one alone.
        batch_seconds: Largest size of a batch in seconds.
        max_utterances: Largest number of rows of a batch.
    """
    ordered = np.sort(np.asarray(durations_s, dtype=np.float64))
    longest_s = ordered  # of the bucket that each row is in; unknown at first
    bounds = np.empty(0)
    for _ in range(10):
        batches = 1 / np.clip(batch_seconds // longest_s, 1, max_utterances)  # what a row takes of a batch
        share = np.cumsum(batches) / batches.sum()
        places = np.searchsorted(share, np.arange(1, num_buckets) / num_buckets, side="right")
        bounds = np.unique(ordered[np.minimum(places, len(ordered) - 1)])
        bounds = bounds[bounds > ordered[0]]
        longest_s = np.append(bounds, ordered[-1])[np.searchsorted(bounds, ordered, side="right")]
    return [float(bound) for bound in bounds] or [float(ordered[-1]) + 1.0]


class EvaluationSampler(Sampler[list[MonoCut]]):
    """Batches of rows by falling duration, so that the first one shows whether memory suffices.

    Every row is in exactly one batch of one rank, and all ranks have equally many batches, since sharded models need
    their ranks to stay in step: batches are split to make the numbers even, and where rows are fewer than ranks, some
    ranks get a batch without rows.

    Args:
        rows: All rows of the split.
        batch_seconds: Largest size of a batch in seconds, padding included; a longer row is a batch of its own.
        max_utterances: Largest number of rows of a batch.
        rank: This process.
        world_size: Number of processes.
    """

    def __init__(
        self, rows: list[MonoCut], batch_seconds: float, max_utterances: int, rank: int = 0, world_size: int = 1
    ) -> None:
        batches: list[list[MonoCut]] = []
        for cut in sorted(rows, key=lambda cut: (-cut.duration, cut.custom["row"])):
            last = batches[-1] if batches else []
            fits = last and len(last) < max_utterances and last[0].duration * (len(last) + 1) <= batch_seconds
            if fits:
                last.append(cut)
            else:
                batches.append([cut])
        while len(batches) % world_size:
            largest = max(range(len(batches)), key=lambda index: len(batches[index]))
            half = (len(batches[largest]) + 1) // 2
            batches[largest : largest + 1] = [batches[largest][:half], batches[largest][half:]]
        self.batches = batches[rank::world_size]

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[list[MonoCut]]:
        return iter(self.batches)
