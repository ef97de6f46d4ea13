"""Worker processes that may die: results in the order of the jobs, and word of each job that ended its process.

A file that is broken in the right way crashes a decoder written in C, or lets it run without an end. Here that costs
one job, and a new process takes the place of the old one. Workers start as new interpreters that load only what the
function needs: a module that is light to import makes light workers.
"""

import contextlib
import os
import queue
import signal
import subprocess
import sys
import threading
import time
import traceback
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, Pipe, wait
from types import TracebackType
from typing import Any, Generic, TypeVar

from speechllm.errors import UserError

Job = TypeVar("Job")
Result = TypeVar("Result")

QUEUED = 4
"""Jobs that a worker holds, the one in progress among them: it never waits for the next one to be sent."""

AHEAD = 32
"""Jobs per worker that may be done before one that others wait for, since results come in the order of the jobs."""

START_S = 60.0
"""How long a process may take to load what the function needs, in seconds; a tenth of a second where disks are fast."""

ONE_THREAD = dict.fromkeys(("MKL_NUM_THREADS", "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")
"""Environment in which numpy keeps a worker to the core that it is meant for."""

ATTEMPTS = 2
"""Processes that a job may end before it is given up; the first may have ended for another reason."""


def available_cores() -> int:
    """Return the number of cores that this process may use; all of the machine's where the system does not say."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@dataclass(frozen=True)
class Crash:
    """What stands for the result of a job that has none.

    Attributes:
        reason: How its process ended, such as ``the process ended with signal 11 (SIGSEGV)``.
    """

    reason: str


@dataclass
class _Worker:
    process: subprocess.Popen[bytes]
    connection: Connection
    jobs: deque[tuple[int, Any]] = field(default_factory=deque)
    started: bool = False
    since: float = 0.0  # when it last said something, or got a job after having none


class WorkerPool(Generic[Job, Result]):
    """Processes that call one function, used as a context manager so that they end with the block.

    Args:
        function: Function of a module, called with one job. What it imports is what a worker loads.
        workers: Number of processes; 0 calls the function here, where nothing is safe from a crash.
        timeout_s: Longest that a job may take, in seconds, before its process is ended.
    """

    def __init__(self, function: Callable[[Job], Result], workers: int, timeout_s: float = 600.0) -> None:
        self.function = function
        self.workers = workers
        self.timeout_s = timeout_s
        self._pool: list[_Worker] = []
        self._again: deque[tuple[int, Job]] = deque()  # jobs of processes that ended
        self._attempts: Counter[int] = Counter()
        self._done: dict[int, tuple[Job, Result | Crash]] = {}

    def __enter__(self) -> "WorkerPool[Job, Result]":
        self._pool = [self._start() for _ in range(self.workers)]
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for worker in self._pool:
            worker.process.kill()
        for worker in self._pool:
            worker.process.wait()
            worker.connection.close()
        self._pool = []

    def map(self, jobs: Iterable[Job]) -> Iterator[tuple[Job, Result | Crash]]:
        """Yield each job with its result, in the order of the jobs, which are taken only as fast as they are done.

        Raises:
            UserError: If the workers cannot start.
            RuntimeError: If the function raised; the message holds its traceback.
        """
        if not self.workers:
            yield from ((job, self.function(job)) for job in jobs)
            return
        numbered = enumerate(jobs)
        following = 0
        while True:
            self._hand_out(numbered)
            if not (busy := [worker for worker in self._pool if worker.jobs]):
                return
            for worker in self._speaking(busy):
                try:
                    self._hear(worker)
                except (EOFError, OSError):
                    self._replace(worker)
            while following in self._done:
                yield self._done.pop(following)
                following += 1

    def _hand_out(self, numbered: Iterator[tuple[int, Job]]) -> None:
        while len((worker := min(self._pool, key=lambda worker: len(worker.jobs))).jobs) < QUEUED:
            if self._again:
                item = self._again.popleft()
            else:
                held = len(self._done) + sum(len(worker.jobs) for worker in self._pool)
                following = next(numbered, None) if held < AHEAD * self.workers else None
                if following is None:
                    return
                item = following
            if not worker.jobs:
                worker.since = time.monotonic()
            worker.jobs.append(item)
            with contextlib.suppress(OSError):  # it ended in the meantime, which its connection tells as well
                worker.connection.send(item)

    def _speaking(self, busy: list[_Worker]) -> list[_Worker]:
        """Return the workers that have something to say, and end those that have not said anything for too long."""
        found = wait([worker.connection for worker in busy], timeout=min(1.0, self.timeout_s))
        for worker in busy:
            limit = self.timeout_s if worker.started else max(START_S, self.timeout_s)
            if worker.connection not in found and time.monotonic() - worker.since > limit:
                worker.process.kill()
        return [worker for worker in busy if worker.connection in found]

    def _hear(self, worker: _Worker) -> None:
        number, result, error = worker.connection.recv()
        worker.since = time.monotonic()
        worker.started = True
        if error is not None:
            raise RuntimeError(error)
        if number is not None:
            _, job = worker.jobs.popleft()
            self._done[number] = (job, result)

    def _replace(self, worker: _Worker) -> None:
        """Put a new process in the place of one that ended, and keep its jobs."""
        slow = time.monotonic() - worker.since > self.timeout_s
        try:
            status = worker.process.wait(10.0)  # it has closed its end of the connection, and may write a core dump
        except subprocess.TimeoutExpired:
            worker.process.kill()
            status = worker.process.wait()
        reason = f"no end after {self.timeout_s:g} s" if slow else _ending(status)
        worker.connection.close()
        if not worker.started:
            msg = f"A process that decodes audio could not start: {reason}. Use 0 workers to see why."
            raise UserError(msg)
        number, job = worker.jobs[0]
        self._attempts[number] += 1
        if self._attempts[number] >= ATTEMPTS:
            worker.jobs.popleft()
            self._done[number] = (job, Crash(reason))
        self._again.extendleft(reversed(worker.jobs))
        self._pool[self._pool.index(worker)] = self._start()

    def _start(self) -> _Worker:
        here, there = Pipe()
        code = f"import sys; sys.path[:] = {sys.path!r}; from {__name__} import serve; serve({there.fileno()})"
        # Not by way of multiprocessing, which runs a script's own code in every process that it spawns, nor by a fork,
        # which would copy the locks of threads that it does not have. Ctrl-C is for this process, which ends its
        # workers, so they are in a group of their own; and decoders in C print warnings into a progress bar.
        process = subprocess.Popen(
            [sys.executable, "-c", code],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            pass_fds=(there.fileno(),),
            process_group=0,
            env=os.environ | ONE_THREAD,
        )
        there.close()
        with contextlib.suppress(OSError):
            here.send(self.function)
        return _Worker(process, here, since=time.monotonic())


def _ending(exitcode: int) -> str:
    if exitcode >= 0:
        return f"the process ended with status {exitcode}"
    try:
        name = f" ({signal.Signals(-exitcode).name})"
    except ValueError:
        name = ""
    return f"the process ended with signal {-exitcode}{name}"


def serve(descriptor: int) -> None:
    """Be a worker: receive a function, call it for each job, and end when there is nobody to work for."""
    connection: Connection[Any, Any] = Connection(descriptor)
    # Jobs are read while one is done: were this process and the other both to send more than a pipe holds, neither
    # would read, and both would wait for ever.
    jobs: queue.SimpleQueue[tuple[int, Any] | None] = queue.SimpleQueue()
    try:
        function = connection.recv()
        connection.send((None, None, None))
        threading.Thread(target=_read_jobs, args=(connection, jobs), daemon=True).start()
        while (received := jobs.get()) is not None:
            number, job = received
            result, error = None, None
            try:
                result = function(job)
            except Exception:
                error = traceback.format_exc()
            connection.send((number, result, error))
    except (EOFError, OSError):
        return


def _read_jobs(connection: "Connection[Any, Any]", jobs: "queue.SimpleQueue[tuple[int, Any] | None]") -> None:
    """Read jobs until there is nobody to work for."""
    with contextlib.suppress(EOFError, OSError):
        while True:
            jobs.put(connection.recv())
    jobs.put(None)
