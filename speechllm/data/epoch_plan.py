"""Which rows make up the batches of an epoch: a pure function of seed, epoch and number of processes."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray


class Draw(NamedTuple):
    """The rows of one batch.

    Attributes:
        rows: Numbers of the rows.
        speeds: Speed at which each row's audio is played.
        epoch: The epoch; augmentation differs from one to the next.
    """

    rows: list[int]
    speeds: list[float]
    epoch: int

    def halves(self) -> tuple["Draw", "Draw"]:
        """Return the batch cut into two, of which the second is empty where there are no two rows."""
        half = (len(self.rows) + 1) // 2
        return Draw(self.rows[:half], self.speeds[:half], self.epoch), Draw(
            self.rows[half:], self.speeds[half:], self.epoch
        )


@dataclass(frozen=True)
class BatchBudget:
    """What a batch may hold.

    Attributes:
        seconds: Largest size in seconds, padding included: rows times the longest one.
        utterances: Largest number of rows.
        quadratic_s: Duration at which a row counts twice, since attention costs its square: d seconds count as
            d · (1 + d / ``quadratic_s``). None counts seconds as they are.
    """

    seconds: float
    utterances: int
    quadratic_s: float | None = None

    def cost(self, durations_s: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return what rows of these durations count, in seconds."""
        return durations_s * (1 + durations_s / self.quadratic_s) if self.quadratic_s else durations_s

    def capacity(self, longest: NDArray[np.float64]) -> NDArray[np.int64]:
        """Return how many rows of a cost fit in a batch; at least one."""
        return np.clip(self.seconds // longest, 1, self.utterances).astype(np.int64)


@dataclass
class Part:
    """Rows that are drawn from with a share of their own.

    Attributes:
        start: Number of the first row.
        stop: Number after the last row.
        weight: Share of the epoch's rows, in proportion to the other parts' weights.
    """

    start: int
    stop: int
    weight: float


@dataclass
class EpochPlan:
    """Batches of rows of like duration.

    Rows are dealt into buckets by duration, shuffled there, and cut into batches of about equal size, as many for every
    process. The steps of all buckets are shuffled, and the batches of one step come from one bucket, so that no
    process waits long for another.

    Attributes:
        durations_s: (N,) float64, duration of each row in seconds.
        budget: What a batch may hold.
        num_buckets: Number of buckets.
        seed: Seed of the order.
        units: (U + 1,) int64, where each group of rows begins that is drawn together; N at the end. None: every row is
            drawn for itself.
        parts: Parts that are drawn from by weight; none for all rows once an epoch.
        speeds: Speeds, one of which is drawn for each group of rows and epoch; none makes a row longer than the longest
            one is.
    """

    durations_s: NDArray[np.float64]
    budget: BatchBudget
    num_buckets: int
    seed: int
    units: NDArray[np.int64] | None = None
    parts: list[Part] = field(default_factory=list)
    speeds: tuple[float, ...] = (1.0,)

    def __post_init__(self) -> None:
        if self.units is None:
            self.units = np.arange(len(self.durations_s) + 1)
        self._longest_s = self.durations_s[self.units[:-1]]
        self._sizes = np.diff(self.units)
        slowest = self.budget.cost(np.minimum(self._longest_s / min(self.speeds), self._longest_s.max(initial=0.0)))
        self._bounds = bucket_bounds(np.sort(slowest), self.num_buckets, self.budget)

    def mark(self) -> str:
        """Return a hash of all that the batches depend on: of another plan the same step holds other rows."""
        told = hashlib.sha256()
        for value in vars(self).values():
            told.update(value.tobytes() if isinstance(value, np.ndarray) else repr(value).encode())
        return told.hexdigest()[:16]

    def steps(self, epoch: int, world_size: int, workers: int = 1) -> list[list[Draw]]:
        """Return the steps of an epoch, each with one batch for every process.

        Args:
            epoch: The epoch.
            world_size: Number of processes.
            workers: Workers that read a process's batches in turn; of no account here.
        """
        rng = np.random.default_rng([self.seed, epoch])
        units = self._drawn(epoch)
        speeds = self._drawn_speeds(units, rng)
        costs = self.budget.cost(self._longest_s[units] / speeds)
        places = np.searchsorted(self._bounds, costs, side="left")
        groups = [
            (members[rng.permutation(len(members))], int(self.budget.capacity(self._bounds[bucket : bucket + 1])[0]))
            for bucket in range(len(self._bounds))
            if len(members := np.nonzero(places == bucket)[0])
        ]
        steps = []
        for members, capacity in _filled(groups, world_size):
            batches = [
                self._draw(units[some], speeds[some], epoch) for some in self._cut(units, members, capacity, world_size)
            ]
            steps += [batches[first : first + world_size] for first in range(0, len(batches), world_size)]
        return [steps[place] for place in rng.permutation(len(steps))]

    def _drawn(self, epoch: int) -> NDArray[np.int64]:
        """Return the groups of rows of an epoch; those of a part in an order of its own, from epoch to epoch on."""
        assert self.units is not None
        if not self.parts:
            return np.arange(len(self._sizes))
        bounds = [np.searchsorted(self.units, (part.start, part.stop)) for part in self.parts]
        total, weights = sum(int(stop - start) for start, stop in bounds), sum(part.weight for part in self.parts)
        drawn = []
        for number, (part, (start, stop)) in enumerate(zip(self.parts, bounds, strict=True)):
            count = max(1, round(total * part.weight / weights))
            drawn.append(start + passes(int(stop - start), epoch * count, count, [self.seed, number]))
        return np.concatenate(drawn)

    def _drawn_speeds(self, units: NDArray[np.int64], rng: np.random.Generator) -> NDArray[np.float64]:
        """Return a speed for each group of rows, 1 where another would make it longer than any row is."""
        speeds = np.asarray(self.speeds)[rng.integers(len(self.speeds), size=len(units))]
        return np.where(self._longest_s[units] / speeds > self._longest_s.max(), 1.0, speeds)

    def _cut(
        self, units: NDArray[np.int64], members: NDArray[np.int64], capacity: int, multiple: int
    ) -> list[NDArray[np.int64]]:
        """Cut a bucket into batches of about equally many rows, a multiple of ``multiple`` of them."""
        sizes = self._sizes[units[members]]
        # A group is never divided, so that a piece may be larger than its share by all of a group but one row.
        share = max(1, capacity - int(sizes.max()) + 1)
        total = int(sizes.sum())
        pieces = min(-(-total // share), len(members))
        pieces = -(-pieces // multiple) * multiple
        places = (np.cumsum(sizes) - sizes) * pieces // total
        if (sizes == 1).all() or len(np.unique(places)) < min(pieces, len(members)):
            return np.array_split(members, pieces)
        return np.split(members, np.searchsorted(places, np.arange(1, pieces)))

    def _draw(self, units: NDArray[np.int64], speeds: NDArray[np.float64], epoch: int) -> Draw:
        assert self.units is not None
        rows = [np.arange(self.units[unit], self.units[unit + 1]) for unit in units]
        flat = np.concatenate([np.empty(0, dtype=np.int64), *rows]).tolist()
        return Draw(flat, np.repeat(speeds, self._sizes[units]).tolist(), epoch)


def bucket_bounds(costs: NDArray[np.float64], num_buckets: int, budget: BatchBudget) -> NDArray[np.float64]:
    """Return the upper bounds, included, of buckets that give about equally many batches.

    Args:
        costs: (N,) float64, what each row counts, in rising order.
        num_buckets: Number of buckets; fewer come back where costs repeat.
        budget: What a batch may hold.

    Returns:
        At most ``num_buckets`` bounds in rising order, the last one the largest cost.
    """
    if not len(costs):
        return np.ones(1)
    longest = costs
    bounds = costs[-1:]
    for _ in range(10):  # what a row takes of a batch depends on its bucket, and the other way round
        share = np.cumsum(1 / budget.capacity(longest)) * (1 + 1e-9)  # sums of thirds fall short of 1
        places = np.searchsorted(share, np.arange(1, num_buckets) / num_buckets * share[-1] / (1 + 1e-9), side="left")
        bounds = np.unique(np.append(costs[np.minimum(places, len(costs) - 1)], costs[-1]))
        longest = bounds[np.searchsorted(bounds, costs, side="left")]
    return bounds


def even_out(batches: Sequence[Draw], multiple: int) -> list[Draw]:
    """Return batches of which there are a multiple of some number, by halving the largest; empty ones at worst."""
    found = list(batches)
    while len(found) % multiple:
        largest = max(range(len(found)), key=lambda index: len(found[index].rows))
        found[largest : largest + 1] = found[largest].halves()
    return found


def _filled(groups: list[tuple[NDArray[np.int64], int]], least: int) -> list[tuple[NDArray[np.int64], int]]:
    """Merge groups of fewer members than ``least`` with a neighbour, under the smaller of their capacities."""
    groups = list(groups)
    place = 0
    while len(groups) > 1 and place < len(groups):
        if len(groups[place][0]) >= least:
            place += 1
            continue
        first = place if place + 1 < len(groups) else place - 1
        (some, many), (more, few) = groups[first : first + 2]
        groups[first : first + 2] = [(np.concatenate([some, more]), min(many, few))]
        place = first
    return groups


def passes(count: int, skip: int, take: int, seed: list[int]) -> NDArray[np.int64]:
    """Return a stretch of an endless row of shuffled passes over ``count`` things."""
    found = []
    while take > 0:
        number, offset = divmod(skip, count)
        order = np.random.default_rng([*seed, number, 1]).permutation(count)[offset : offset + take]
        found.append(order)
        skip, take = skip + len(order), take - len(order)
    return np.concatenate(found)
