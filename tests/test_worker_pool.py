"""Worker processes: results in order, whatever becomes of the processes."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from speechllm.errors import UserError
from speechllm.worker_pool import AHEAD, Crash, WorkerPool
from tests.worker_jobs import work

ROOT = Path(__file__).resolve().parents[1]


def alive(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


@pytest.mark.parametrize("workers", [0, 1, 3])
def test_results_come_in_the_order_of_the_jobs(workers):
    jobs = ["sleep 0.05", *(f"square {number}" for number in range(20))]
    with WorkerPool(work, workers) as pool:
        assert list(pool.map(jobs)) == [(jobs[0], "0.05"), *((job, n**2) for n, job in enumerate(jobs[1:]))]


def test_jobs_and_results_larger_than_a_pipe_holds():
    texts = [str(number) * 3_000_000 for number in range(10)]
    with WorkerPool(work, 2, timeout_s=20) as pool:
        assert [result for _, result in pool.map(f"reverse {text}" for text in texts)] == texts


def test_a_crash_costs_the_job_that_crashed_and_no_other():
    jobs = [f"square {number}" for number in range(10)] + ["crash"] + [f"square {number}" for number in range(10)]
    with WorkerPool(work, 2) as pool:
        found = dict(enumerate(result for _, result in pool.map(jobs)))
    assert found.pop(10) == Crash("the process ended with signal 11 (SIGSEGV)")
    assert list(found.values()) == [number**2 for number in range(10)] * 2


def test_what_ended_one_process_gets_another(tmp_path):
    with WorkerPool(work, 1) as pool:
        results = [result for _, result in pool.map([f"once {tmp_path / 'mark'}", "exit 3", "square 3"])]
    assert results == ["survived", Crash("the process ended with status 3"), 9]


def test_a_job_without_an_end_is_ended():
    with WorkerPool(work, 1, timeout_s=0.2) as pool:
        began = time.monotonic()
        assert list(pool.map(["sleep 60", "square 2"])) == [("sleep 60", Crash("no end after 0.2 s")), ("square 2", 4)]
    assert time.monotonic() - began < 8


def test_jobs_are_taken_only_as_fast_as_they_are_done():
    taken = []

    def jobs():
        for number in range(10 * AHEAD):
            taken.append(number)
            yield f"square {number}"

    with WorkerPool(work, 1) as pool:
        results = pool.map(jobs())
        next(results)
        assert len(taken) <= AHEAD + 1
        assert len(list(results)) == 10 * AHEAD - 1


@pytest.mark.parametrize("workers", [0, 1])
def test_what_the_function_raises_is_raised(workers):
    with WorkerPool(work, workers) as pool, pytest.raises((RuntimeError, ZeroDivisionError), match="by design"):
        list(pool.map(["raise"]))


def test_workers_end_with_the_block():
    with WorkerPool(work, 2) as pool:
        pids = {result for _, result in pool.map(["pid"] * 50)}
        assert all(alive(pid) for pid in pids)
    assert not any(alive(pid) for pid in pids)


def test_a_worker_that_cannot_start_is_said(monkeypatch):
    monkeypatch.setattr(sys, "executable", "/bin/false")
    with (
        WorkerPool(work, 1) as pool,
        pytest.raises(UserError, match="could not start: the process ended with status 1"),
    ):
        list(pool.map(["square 1"]))


def test_interruption_from_the_terminal_ends_all_without_a_word_from_workers(tmp_path):
    """A terminal sends Ctrl-C to the whole group; what workers do with it must not be seen."""
    script = (
        "from speechllm.worker_pool import WorkerPool\nfrom tests.worker_jobs import work\n"
        "with WorkerPool(work, 2) as pool:\n"
        "    try:\n"
        "        for _, pid in pool.map(['pid', 'sleep 60', 'sleep 60']):\n"
        "            print(pid, flush=True)\n"
        "    except KeyboardInterrupt:\n"
        "        print('interrupted', flush=True)\n"
    )
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    run = subprocess.Popen(
        [sys.executable, "-c", script], env=environment, start_new_session=True, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    worker = int(run.stdout.readline())
    assert os.getpgid(worker) != run.pid, "Ctrl-C is not for workers"
    os.killpg(run.pid, signal.SIGINT)
    out, error = run.communicate(timeout=20)
    assert (out, error, run.returncode) == ("interrupted\n", "", 0)
    assert not alive(worker)


def test_workers_end_when_their_parent_is_killed():
    script = (
        "from speechllm.worker_pool import WorkerPool\nfrom tests.worker_jobs import work\n"
        "with WorkerPool(work, 1) as pool:\n"
        "    for _, pid in pool.map(['pid', 'sleep 0.1', 'sleep 0.1', 'sleep 0.1', 'sleep 0.1']):\n"
        "        print(pid, flush=True)\n"
    )
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    with subprocess.Popen([sys.executable, "-c", script], env=environment, text=True, stdout=subprocess.PIPE) as run:
        worker = int(run.stdout.readline())
        run.kill()
    deadline = time.monotonic() + 20
    while alive(worker) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not alive(worker)
