"""Statistics of large test sets, part by part in several processes."""

from collections.abc import Iterator, Mapping, Sequence
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray

import speechllm.metrics
from speechllm.metrics.base import Metric, Sample
from speechllm.registry import METRICS
from speechllm.worker_pool import Crash, WorkerPool, available_cores

LARGE = 20_000
"""Samples from which processes are worth the second that they take to start."""

PART = 2_500
"""Samples that are sent to a process at once."""

MOST_WORKERS = 8

Job = tuple[Mapping[str, Any], str, Sequence[Sample]]
"""Spec of a metric, language of the texts, and samples."""


class Workers:
    """Processes that start when a large test set first needs them, used as a context manager.

    Args:
        workers: Number of processes; that of the cores that may be used, up to 8, where not given.
    """

    def __init__(self, workers: int | None = None) -> None:
        self._workers = min(MOST_WORKERS, available_cores()) if workers is None else workers
        self._pool: WorkerPool[Job, NDArray[np.float64]] | None = None

    def __enter__(self) -> "Workers":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._pool is not None:
            self._pool.__exit__(kind, error, trace)

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
            self._pool = WorkerPool(part_statistics, self._workers).__enter__()
        jobs = ((spec, metric.language, samples[start : start + PART]) for start in range(0, len(samples), PART))
        return np.concatenate(list(self._results(metric, jobs)))

    def _results(self, metric: Metric, jobs: Iterator[Job]) -> Iterator[NDArray[np.float64]]:
        assert self._pool is not None
        for job, result in self._pool.map(jobs):
            yield metric.statistics(job[2]) if isinstance(result, Crash) else result


def part_statistics(job: Job) -> NDArray[np.float64]:
    """Return a metric's statistics of each sample of a part, (N, K)."""
    spec, language, samples = job
    metric: Metric = METRICS.build(spec, language=language)
    return metric.statistics(samples)
