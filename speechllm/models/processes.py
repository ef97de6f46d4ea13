"""What the processes of a run tell each other beside tensors."""

from collections.abc import Callable
from datetime import timedelta
from typing import Any, TypeVar

import torch
from lightning.pytorch import Trainer
from torch import Tensor

from speechllm.errors import UserError

T = TypeVar("T")

PATIENCE = timedelta(days=1)
"""How long processes wait for the first one to score: a metric may take hours, and a collective of NCCL may not."""


def sum_of_all(values: Tensor) -> Tensor:
    """Return the sum of a tensor over all processes, which must all call this; ``values`` may be overwritten.

    No process waits for its GPU, as it does in Lightning's own ``reduce``, which begins with a barrier.
    """
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.all_reduce(values)
    return values


class Processes:
    """The processes of a trainer; a single one talks to itself.

    Args:
        trainer: The trainer.
    """

    def __init__(self, trainer: Trainer) -> None:
        self.rank, self.count = trainer.global_rank, trainer.world_size
        self._group: Any = None

    @property
    def is_first(self) -> bool:
        """Whether this is the process that writes and scores."""
        return self.rank == 0

    def gather(self, own: T) -> list[T]:
        """Return what each process has, on the first; an empty list on the others. All must call it."""
        if self.count == 1:
            return [own]
        shares: list[Any] | None = [None] * self.count if self.is_first else None
        torch.distributed.gather_object(own, shares, dst=0, group=self._patient_group())
        return shares or []

    def share(self, own: T) -> list[T]:
        """Return what each process has, by rank, on all of them. All must call it."""
        if self.count == 1:
            return [own]
        shares: list[Any] = [None] * self.count
        torch.distributed.all_gather_object(shares, own, group=self._patient_group())
        return shares

    def on_first(self, work: Callable[[], T]) -> T:
        """Run ``work`` on the first process and return its result on all, which must all call this.

        Raises:
            UserError: If ``work`` raised one; on all of them, so that none waits for the others.
            RuntimeError: If it raised anything else, which the first process raises itself.
        """
        answer: list[Any] = [None, None]
        failure: Exception | None = None
        if self.is_first:
            try:
                answer[0] = work()
            except Exception as error:
                failure = error
                answer[1] = (isinstance(error, UserError), str(error))
        if self.count > 1:
            torch.distributed.broadcast_object_list(answer, src=0, group=self._patient_group())
        result, problem = answer
        if failure is not None:
            raise failure
        if problem is not None:
            by_user, message = problem
            raise UserError(message) if by_user else RuntimeError(f"The first process failed: {message}")
        value: T = result
        return value

    def _patient_group(self) -> Any:
        """Return a group for objects: on the CPU, whatever tensors travel by."""
        if self._group is None:
            self._group = torch.distributed.new_group(backend="gloo", timeout=PATIENCE)
        return self._group
