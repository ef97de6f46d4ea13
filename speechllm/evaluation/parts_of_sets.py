"""Statistics of large test sets, part by part in several processes."""

import os
import pickle
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray

import speechllm.metrics
from speechllm.metrics.base import Metric, Sample
from speechllm.registry import METRICS
from speechllm.worker_pool import Crash, WorkerPool

LARGE = 20_000
"""Samples from which processes are worth the second that they take to start."""

PART = 2_500
"""Samples that a process computes at once."""

MOST_WORKERS = 8

Job = tuple[Mapping[str, Any], str, str]
"""Spec of a metric, language of the texts, and file of samples."""


class Workers:
    """Processes that start when a large test set first needs them, used as a context manager.

    Samples and statistics go by way of files: what a pool sends must fit into its connections.

    Args:
        workers: Number of processes; that of the cores that may be used, up to 8, where not given.
    """

    def __init__(self, workers: int | None = None) -> None:
        self._workers = min(MOST_WORKERS, len(os.sched_getaffinity(0))) if workers is None else workers
        self._open = ExitStack()
        self._pool: WorkerPool[Job, str] | None = None
        self._folder = Path()

    def __enter__(self) -> "Workers":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._open.close()

    def statistics(self, spec: Mapping[str, Any], metric: Metric, samples: Sequence[Sample]) -> NDArray[np.float64]:
        """Return the metric's statistics of each sample, (N, K), as the metric itself gives them.

        Args:
            spec: What the metric was built from.
            metric: The metric.
            samples: Samples of one test set.
        """
        ours = type(metric).__module__.startswith(f"{speechllm.metrics.__name__}.")  # or processes do not know it
        if len(samples) < LARGE or self._workers < 2 or not metric.divisible or not ours:
            return metric.statistics(samples)
        if self._pool is None:
            self._folder = Path(self._open.enter_context(tempfile.TemporaryDirectory()))
            self._pool = self._open.enter_context(WorkerPool(part_statistics, self._workers))
        jobs = self._write(spec, metric.language, samples)
        parts: list[NDArray[np.float64]] = []
        for (_, _, file), result in self._pool.map(jobs):
            start = len(parts) * PART
            parts.append(
                metric.statistics(samples[start : start + PART]) if isinstance(result, Crash) else np.load(result)
            )
            Path(file).unlink()
        return np.concatenate(parts)

    def _write(self, spec: Mapping[str, Any], language: str, samples: Sequence[Sample]) -> Iterator[Job]:
        """Write samples into files, part by part, and yield the job of each."""
        for start in range(0, len(samples), PART):
            file = self._folder / f"{start}.pickle"
            file.write_bytes(pickle.dumps(samples[start : start + PART]))
            yield spec, language, str(file)


def part_statistics(job: Job) -> str:
    """Compute a metric's statistics of each sample of a part, (N, K), and return the file that they are in."""
    spec, language, file = job
    metric: Metric = METRICS.build(spec, language=language)
    found = Path(file).with_suffix(".npy")
    np.save(found, metric.statistics(pickle.loads(Path(file).read_bytes())))
    return str(found)
