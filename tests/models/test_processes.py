"""A single process among itself; two are in test_tested_runs.py."""

from types import SimpleNamespace

import pytest
import torch

from speechllm.errors import UserError
from speechllm.models.processes import Processes, sum_of_all
from speechllm.models.resuming.last_checkpoint import LastCheckpoint


def fail(error):
    raise error


def test_a_single_process():
    processes = Processes(SimpleNamespace(global_rank=0, world_size=1))
    assert processes.is_first
    assert processes.gather("own") == ["own"]
    assert processes.on_first(lambda: 3) == 3
    with pytest.raises(UserError, match="no reference"):
        processes.on_first(lambda: fail(UserError("no reference")))
    with pytest.raises(ZeroDivisionError):
        processes.on_first(lambda: 1 / 0)


@pytest.mark.parametrize(
    ("answer", "kind", "message"),
    [
        ([None, (True, "no reference")], UserError, "^no reference$"),
        ([None, (False, "boom")], RuntimeError, "failed: boom"),
    ],
)
def test_the_others_raise_what_the_first_one_sends(answer, kind, message, monkeypatch):
    processes = Processes(SimpleNamespace(global_rank=1, world_size=2))
    monkeypatch.setattr(Processes, "_patient_group", lambda self: None)

    def receive(given, src, group):
        given[:] = answer

    monkeypatch.setattr("torch.distributed.broadcast_object_list", receive)
    with pytest.raises(kind, match=message):
        processes.on_first(lambda: pytest.fail("only the first one works"))


def test_sums_of_all_processes_have_no_barrier(monkeypatch):
    """A barrier of NCCL waits for the GPU."""
    assert sum_of_all(torch.tensor([3.0])).tolist() == [3.0]

    def barrier(**options):
        raise AssertionError

    monkeypatch.setattr("torch.distributed.is_initialized", lambda: True)
    monkeypatch.setattr("torch.distributed.barrier", barrier)
    monkeypatch.setattr("torch.distributed.all_reduce", lambda values: values.mul_(2))
    assert sum_of_all(torch.tensor([3.0])).tolist() == [6.0]


@pytest.mark.parametrize(
    ("others", "due", "stops", "requeues"),
    [
        ((False, False, False), False, False, False),
        ((True, False, False), True, False, False),
        ((False, True, True), False, True, True),
    ],
)
def test_what_one_process_is_asked_all_heed(others, due, stops, requeues, monkeypatch):
    """They agree by way of the CPU: nobody asks a GPU."""
    monkeypatch.setattr(Processes, "share", lambda self, own: [own, others])
    callback = LastCheckpoint(None)
    callback._agree(SimpleNamespace(global_rank=0, world_size=2, global_step=4))
    assert (callback._due, callback._agreed, callback._requeue) == (due, stops, requeues)
