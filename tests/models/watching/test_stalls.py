"""What counts as a stall, when it is reported, and what is said."""

import math
import threading
from types import SimpleNamespace

import pytest

from speechllm.errors import UserError
from speechllm.models.watching import stalls
from speechllm.models.watching.peers import Peer
from speechllm.models.watching.phases import Phase
from speechllm.models.watching.stalls import Limits, StallTimer, describe_stall, furthest_behind, ranges, stack_of
from speechllm.models.watching.watchdog import Watchdog


@pytest.mark.parametrize(
    ("phase", "steps", "median_s", "limit_s"),
    [
        (Phase.FORWARD, 0, None, 900),
        (Phase.FORWARD, 2, 1.0, 900),
        (Phase.FORWARD, 3, 1.0, 60),
        (Phase.BACKWARD, 3, 30.0, 300),
        (Phase.DATA, 9, 1.0, 60),
        (Phase.VALIDATION, 9, 1.0, 900),
        (Phase.CHECKPOINT, 9, 1.0, 900),
        (Phase.SCORING, 9, 1.0, math.inf),
        (Phase.OTHER, 9, 1.0, math.inf),
    ],
)
def test_limits(phase, steps, median_s, limit_s):
    assert Limits().limit_s(phase, SimpleNamespace(steps=steps, median_step_s=median_s)) == limit_s


def test_reports_come_at_growing_intervals(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(stalls.time, "monotonic", lambda: now[0])
    clock = SimpleNamespace(place=(Phase.BACKWARD, 0.0), steps=9, median_step_s=1.0)
    timer, reported = StallTimer(clock, Limits()), []
    for second in range(2000):
        now[0] = float(second)
        if timer.due(timer.stalled):
            reported.append(second)
    assert reported == [61, 121, 181, 301, 541, 1021, 1981]
    clock.place = (Phase.DATA, 1990.0)
    assert not timer.due(timer.stalled)


def peer(rank, step, phase, for_s=90.0, **place):
    return Peer(rank, f"node{rank // 4}", 1000 + rank, {"step": step, "phase": phase.value, "for_s": for_s, **place})


def test_the_report_names_who_the_others_wait_for():
    peers = [peer(rank, 1234, Phase.BACKWARD, 80.0 + rank) for rank in (0, 1, 2, 4)]
    peers.insert(3, peer(3, 1234, Phase.DATA, stack='  File "disk.py", line 7, in read\n'))
    peers.append(Peer(5, "node1", 1005, {}, ended="it ended without a word"))
    assert furthest_behind(peers).rank == 3
    assert describe_stall(peers, 3.1234) == (
        "speechllm: this run stands still. A training batch takes 3.12 s at other times.\n"
        "  ranks 0-2, 4 are in backward of step 1234, for 84 s\n"
        "  rank 3 (node0, process 1003) is in waiting for data of step 1234, for 90 s\n"
        "  rank 5 (node1, process 1005): it ended without a word\n"
        "The main thread of rank 3 (node0, process 1003) stands here:\n"
        '  File "disk.py", line 7, in read'
    )


def test_a_lower_step_is_further_behind_than_an_earlier_phase():
    assert furthest_behind([peer(0, 7, Phase.DATA), peer(1, 6, Phase.OPTIMISER)]).rank == 1
    assert furthest_behind([]) is None


@pytest.mark.parametrize(("ranks", "text"), [([3], "3"), ([0, 1], "0-1"), ([7, 0, 2, 1, 5], "0-2, 5, 7"), ([], "")])
def test_ranges(ranks, text):
    assert ranges(ranks) == text


def test_the_stack_of_a_thread():
    assert "test_the_stack_of_a_thread" in stack_of(threading.get_ident(), frames=3)
    assert "the thread has ended" in stack_of(-1)


@pytest.mark.parametrize("name", ["report_after_s", "report_after_steps", "slow_s", "grace_s"])
def test_times_of_the_watchdog_are_above_zero(name):
    with pytest.raises(UserError, match=f"`watchdog.{name}` must be above 0, but is -3"):
        Watchdog(**{name: -3})
