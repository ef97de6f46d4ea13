"""Statistics computed in several processes are those of one."""

import numpy as np
import pytest

from speechllm.evaluation import parts_of_sets
from speechllm.evaluation.parts_of_sets import Workers
from speechllm.metrics.base import Sample
from speechllm.metrics.error_rate import WordErrorRate
from speechllm.registry import METRICS
from speechllm.worker_pool import Crash, WorkerPool

SAMPLES = [
    Sample(
        f"the colour of {row % 7} cats isn't {'x ' * (row % 5)}", f"the color of {row % 5} cats is not x", source="la"
    )
    for row in range(230)
]


@pytest.fixture
def small(monkeypatch):
    """Let a set of a hundred samples be a large one."""
    monkeypatch.setattr(parts_of_sets, "LARGE", 100)
    monkeypatch.setattr(parts_of_sets, "PART", 40)


@pytest.fixture
def started(monkeypatch):
    """Return a list of the pools that start."""
    found = []
    enter = WorkerPool.__enter__
    monkeypatch.setattr(WorkerPool, "__enter__", lambda pool: found.append(pool) or enter(pool))
    return found


def test_several_processes_give_what_one_gives(small, started):
    with Workers(2) as workers:
        for spec in ({"name": "wer", "normalizer": "whisper"}, {"name": "chrf"}, {"name": "health"}):
            metric = METRICS.build(spec, language="en")
            np.testing.assert_array_equal(workers.statistics(spec, metric, SAMPLES), metric.statistics(SAMPLES))
    assert len(started) == 1, "one pool serves all metrics"


def test_parts_larger_than_a_connection_holds_do_not_stop_it(monkeypatch):
    monkeypatch.setattr(parts_of_sets, "LARGE", 100)
    samples = [Sample(f"{row} " + "word " * 40, "word " * 40) for row in range(5000)] * 4
    spec = {"name": "wer"}
    metric = METRICS.build(spec, language="en")
    with Workers(2) as workers:
        found = workers.statistics(spec, metric, samples)
    assert found[:, 1].sum() == len(samples) == len(found)


def test_one_core_and_small_sets_start_no_process(small, started):
    spec = {"name": "wer"}
    metric = METRICS.build(spec, language="en")
    for workers, samples in ((1, SAMPLES), (2, SAMPLES[:99])):
        with Workers(workers) as pool:
            assert pool.statistics(spec, metric, samples).shape == (len(samples), 6)
    assert started == []


def test_metrics_of_users_and_those_that_cannot_be_divided_stay_here(small, started):
    class Own(WordErrorRate):
        pass

    with Workers(2) as workers:
        speed = METRICS.build({"name": "speed"}, language="en")
        for spec, metric in (({"name": "own"}, Own("en")), ({"name": "speed"}, speed)):
            assert len(workers.statistics(spec, metric, SAMPLES)) == len(SAMPLES)
    assert started == []


def test_a_process_that_dies_costs_no_figure(small, monkeypatch):
    monkeypatch.setattr(WorkerPool, "__enter__", lambda pool: pool)
    monkeypatch.setattr(WorkerPool, "map", lambda pool, jobs: ((job, Crash("signal 11")) for job in jobs))
    spec = {"name": "wer"}
    metric = METRICS.build(spec, language="en")
    with Workers(2) as workers:
        np.testing.assert_array_equal(workers.statistics(spec, metric, SAMPLES), metric.statistics(SAMPLES))
