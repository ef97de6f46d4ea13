"""Two processes, one of which dies, fails or stands still: the other says so and ends."""

import os
import signal
import socket
import subprocess
import sys
import time

import pytest

from speechllm.models.watching.watchdog import EXIT_STATUS

pytestmark = pytest.mark.loopback

BOUND_S = 60


def launch(harm, folder, hang):
    """Start both processes as torchrun does; return what each ended with, what it printed, and how long it lived on."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    shared = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "GROUP_RANK": "0"}
    shared |= {"TORCHELASTIC_RUN_ID": "test", "LOCAL_WORLD_SIZE": "2", "HANG": str(int(hang)), "OMP_NUM_THREADS": "1"}
    processes = [
        subprocess.Popen(
            [sys.executable, "-m", "tests.models.watching.watched_run", harm, str(folder)],
            env={**os.environ, **shared, "RANK": str(rank), "LOCAL_RANK": str(rank)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    try:
        ended_at = {}
        deadline = time.monotonic() + 240
        while len(ended_at) < 2 and time.monotonic() < deadline:
            for rank, process in enumerate(processes):
                if process.poll() is not None:
                    ended_at.setdefault(rank, time.monotonic())
            time.sleep(0.05)
        assert len(ended_at) == 2, f"processes {set(range(2)) - set(ended_at)} hang"
    finally:
        for process in processes:
            process.kill()
    printed = [process.communicate() for process in processes]
    between_s = abs(ended_at[0] - ended_at[1])
    return [process.returncode for process in processes], ["".join(texts) for texts in printed], between_s


def test_where_the_first_process_dies_the_other_ends(tmp_path):
    """It hangs, as in a collective of NCCL, and is ended; before, the first process stood still for a while."""
    status, printed, between_s = launch("kill 0", tmp_path, hang=True)
    assert status == [-signal.SIGKILL, EXIT_STATUS]
    assert between_s < BOUND_S
    assert "speechllm: rank 0 (" in printed[1]
    assert "is gone: it ended without a word" in printed[1]
    assert "It was last in between steps of step 6." in printed[1]
    assert "Rank 1 cannot go on without it, and ends within 3 s" in printed[1]
    assert f"rank 1 ends with status {EXIT_STATUS}" in printed[1]
    log = (tmp_path / "logs" / "watchdog_1.log").read_text()
    assert "time.sleep(600)" in log, "the stack of the main thread"

    assert "speechllm: this run stands still." in printed[0]
    assert "is in waiting for data of step 4" in printed[0]
    assert "time.sleep(4)" in printed[0], "the stack of the process that the other waits for"
    assert "speechllm: the run goes on." in printed[0]


def test_where_another_dies_the_first_process_ends(tmp_path):
    """Gloo breaks the collective; whichever comes first, the message names the process."""
    status, printed, between_s = launch("kill 1", tmp_path, hang=False)
    assert status[1] == -signal.SIGKILL
    assert status[0] not in (0, -signal.SIGKILL)
    assert between_s < BOUND_S
    assert "rank 1 (" in printed[0]
    assert "is gone: it ended without a word" in printed[0]
    assert "of step 6." in printed[0]


def test_where_one_fails_the_other_says_why(tmp_path):
    status, printed, between_s = launch("fail 1", tmp_path, hang=True)
    assert status == [EXIT_STATUS, 1]
    assert between_s < BOUND_S
    assert "is gone: it failed with RuntimeError: no memory left" in printed[0]
    assert "RuntimeError: no memory left" in printed[1]
    for text in printed:
        assert "6 steps of 24 utterances" in text, "two of each process and step"
