"""One function over many items, in several processes, with the results in order."""

import gc
import multiprocessing
import os
import signal
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from itertools import chain, islice
from typing import TypeVar

from speechllm.errors import UserError
from speechllm.worker_pool import available_cores

Item = TypeVar("Item")
Result = TypeVar("Result")

MAX_PROCESSES = 16
"""More would wait for each other at one disk."""


def map_in_processes(
    function: Callable[[Item], Result], items: Iterable[Item], chunk: int = 256, processes: int | None = None
) -> Iterator[Result]:
    """Yield ``function(item)`` of each item, in the items' order, computed in several processes at a time.

    Opening a small audio file is mostly work of Python, which threads cannot share: on two cores eight threads read
    8,000 headers a second, one 14,000 and two processes 25,000. The processes are forks, so that they start in
    milliseconds and share the memory of this one. Items are taken as the results are asked for, a few chunks ahead.
    Where there are no more than two chunks, or the system has no fork, everything happens in this process.

    Args:
        function: A function of a module, whose result can be pickled. It does its work without torch, whose threads do
            not survive a fork.
        items: What it is called with.
        chunk: Number of items that go to a process at a time.
        processes: Number of processes; one a core where it is not given, but at least 4, since disks are slow.

    Raises:
        UserError: If a process is killed, as the system does where memory ends.
    """
    remaining = iter(items)
    head = list(islice(remaining, 2 * chunk))
    if len(head) < 2 * chunk or "fork" not in multiprocessing.get_all_start_methods():
        yield from map(function, chain(head, remaining))
        return
    processes = processes or min(MAX_PROCESSES, max(4, available_cores()))
    pool = ProcessPoolExecutor(processes, multiprocessing.get_context("fork"), initializer=_prepare_process)
    waiting: deque[Future[list[Result]]] = deque()
    try:
        while head:
            waiting.append(pool.submit(_apply, function, head))
            head = list(islice(remaining, chunk))
            if len(waiting) > 2 * processes:
                yield from waiting.popleft().result()
        while waiting:
            yield from waiting.popleft().result()
    except BrokenProcessPool as error:
        msg = (
            "A process that reads audio was killed. Look at the memory that is left, and at the system's log; a "
            "damaged file may be the cause too."
        )
        raise UserError(msg) from error
    finally:
        pool.shutdown(cancel_futures=True)


def _prepare_process() -> None:
    """Leave interruptions and words to the parent, and its memory alone, which a collection would write to and copy."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    gc.disable()
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # decoders in C print warnings into the progress bar


def _apply(function: Callable[[Item], Result], items: list[Item]) -> list[Result]:
    return [function(item) for item in items]
