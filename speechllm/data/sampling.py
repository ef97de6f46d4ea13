"""Samplers: a process's share of the batches of an epoch, from where it stopped; and every row once for scoring."""

from collections.abc import Callable, Collection, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch.utils.data import Sampler

from speechllm.data.epoch_plan import Draw, EpochPlan, even_out


class TrainingSampler(Sampler[Draw]):
    """The batches of one process, epoch by epoch.

    All processes have equally many, no row goes to two of them, and all of it depends on the plan's seed, the epoch and
    the number of processes alone. A sampler that is given the state of another goes on with the batches that are left,
    also with another number of processes.

    What counts is what was trained on, not what was asked for, since workers and trainers read ahead. The epochs are
    the sampler's own: Lightning's number goes up too when a run ends within an epoch.

    Args:
        plan: Plan of the epochs.
        rank: This process.
        world_size: Number of processes.
        workers: Workers that read its batches in turn.
        trained: Returns the number of batches that this process has trained on, in all. An iteration begins the next
            epoch if any were since the last began.
    """

    def __init__(
        self,
        plan: EpochPlan,
        rank: int = 0,
        world_size: int = 1,
        workers: int = 1,
        trained: Callable[[], int] = lambda: 0,
    ) -> None:
        self.plan, self.rank, self.world_size, self.workers, self.trained = plan, rank, world_size, workers, trained
        self.epoch, self._workers = 0, workers
        self.seen: list[tuple[int, int]] = []
        self._since = trained()

    def begin_epoch(self, epoch: int) -> None:
        """Let the next iteration be of an epoch from its beginning; for use without a trainer."""
        self.epoch, self.seen, self._workers = epoch, [], self.workers

    def state(self) -> dict[str, Any]:
        """Return what another sampler needs to go on: the epoch, and the batches that each process trained on."""
        seen = [*self.seen, (self.world_size, self.trained() - self._since)]
        return {"epoch": self.epoch, "workers": self._workers, "seen": seen, "plan": self.plan.mark()}

    def resume(self, state: dict[str, Any]) -> bool:
        """Go on where the sampler that gave ``state`` was; return False, and do nothing, if its plan was another."""
        if state["plan"] != self.plan.mark():
            return False
        self.epoch, self._workers = state["epoch"], state["workers"]
        self.seen = [(int(world_size), int(steps)) for world_size, steps in state["seen"]]
        return True

    def __iter__(self) -> Iterator[Draw]:
        trained = self.trained()
        if trained > self._since or not (left := self._left()):
            self.begin_epoch(self.epoch + 1)
            left = self._left()
        self._since = trained
        for step in left:
            yield step[self.rank]

    def batches(self) -> int:
        """Return the number of batches of the epoch, those of earlier runs included."""
        return sum(count for _, count in self.seen) + len(self._left())

    def _left(self) -> list[list[Draw]]:
        steps = self.plan.steps(self.epoch, self.seen[0][0] if self.seen else self.world_size, self._workers)
        for world_size, count in self.seen:
            steps = _dealt(steps, world_size)[count:]
        return _dealt(steps, self.world_size)


def _dealt(steps: list[list[Draw]], world_size: int) -> list[list[Draw]]:
    """Return steps for another number of processes."""
    if not steps or len(steps[0]) == world_size:
        return steps
    batches = even_out([batch for step in steps for batch in step], world_size)
    return [batches[first : first + world_size] for first in range(0, len(batches), world_size)]


class EvaluationSampler(Sampler[Draw]):
    """Batches of rows by falling duration, so that the first one shows whether memory suffices.

    Every row is in exactly one batch of one rank, and all ranks have equally many batches, since sharded models need
    their ranks to stay in step: batches are split to make the numbers even, and where rows are fewer than ranks, some
    ranks get a batch without rows.

    Args:
        durations_s: (N,) float64, duration of each row in seconds.
        batch_seconds: Largest size of a batch in seconds, padding included; a longer row is a batch of its own.
        max_utterances: Largest number of rows of a batch.
        rank: This process.
        world_size: Number of processes.
        without: Rows that are left out. Where that is all of them, each rank has one batch without rows, since trainers
            skip what has no batches.
    """

    def __init__(
        self,
        durations_s: NDArray[np.float64],
        batch_seconds: float,
        max_utterances: int,
        rank: int = 0,
        world_size: int = 1,
        without: Collection[int] = (),
    ) -> None:
        batches: list[list[int]] = []
        longest_s = 0.0
        for row in np.argsort(-durations_s, kind="stable").tolist():
            if row in without:
                continue
            last = batches[-1] if batches else []
            if last and len(last) < max_utterances and longest_s * (len(last) + 1) <= batch_seconds:
                last.append(row)
            else:
                batches.append([row])
                longest_s = float(durations_s[row])
        draws = even_out([Draw(rows, [1.0] * len(rows), 0) for rows in batches or [[]]], world_size)
        self.batches = draws[rank::world_size]

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[Draw]:
        return iter(self.batches)
