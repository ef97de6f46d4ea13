"""Random numbers go on where they were, from plain tensors and numbers; counters take one form."""

import random

import numpy as np
import pytest
import torch

from speechllm.models.resuming.checkpoint_files import write_checkpoint
from speechllm.models.resuming.loop_progress import between_batches
from speechllm.models.resuming.random_state import gather_random_states, random_state, set_random_state, unpack


def draw(device="cpu"):
    """Draw from every generator, of numpy and Python also an odd number of normal ones, of which they keep one."""
    normal = [np.random.standard_normal(), random.gauss(0, 1)]
    return [float(torch.rand((), device=device)), float(torch.rand(())), np.random.rand(), random.random(), *normal]


def through_a_file(state, path):
    write_checkpoint({"random_state": gather_random_states(state, processes=1)}, path)
    (packed,) = torch.load(path, weights_only=True)["random_state"]
    return unpack(packed)


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def test_random_numbers_go_on_where_they_were(tmp_path, device):
    if device == "cuda" and not torch.cuda.is_available():
        pytest.skip("there is no CUDA device")
    draw(device)
    state = random_state()
    expected = draw(device)
    assert draw(device) != expected
    set_random_state(through_a_file(state, tmp_path / "state.ckpt"))
    assert draw(device) == expected


def counts(ready, started, processed, completed):
    return {"ready": ready, "completed": completed, "started": started, "processed": processed}


def loops(batch, last, epoch, validation=(0, 0, 0, 0)):
    """Return counters as Lightning's loop has them, totals being 100 more than those of the epoch."""
    progress = lambda values: {"total": counts(*(v + 100 for v in values)), "current": counts(*values)}  # noqa: E731
    return {
        "state_dict": {},
        "epoch_progress": {"total": counts(*epoch), "current": counts(*epoch)},
        "epoch_loop.batch_progress": progress(batch) | {"is_last_batch": last},
        "epoch_loop.scheduler_progress": {
            "total": {"ready": 9, "completed": 9},
            "current": {"ready": 4, "completed": 3},
        },
        "epoch_loop.automatic_optimization.optim_progress": {
            "optimizer": {"step": {"total": {"ready": 9, "completed": 8}, "current": {"ready": 5, "completed": 4}}}
        },
        "epoch_loop.val_loop.batch_progress": progress(validation) | {"is_last_batch": True},
    }


@pytest.mark.parametrize(
    ("batch", "last", "epoch", "done", "epochs"),
    [
        ((5, 5, 5, 4), False, (3, 3, 2, 2), 5, counts(3, 3, 2, 2)),  # when a batch ends
        ((5, 5, 4, 4), False, (3, 3, 2, 2), 4, counts(3, 3, 2, 2)),  # in a step
        ((5, 4, 4, 4), True, (3, 3, 2, 2), 4, counts(3, 3, 2, 2)),  # before the last one's step
        ((5, 5, 5, 5), False, (3, 3, 3, 3), 5, counts(3, 3, 2, 2)),  # where max_steps ended training within an epoch
        ((5, 5, 5, 5), True, (3, 3, 3, 2), 0, counts(3, 3, 3, 3)),  # when an epoch ends
        ((5, 5, 5, 4), True, (3, 3, 2, 2), 0, counts(3, 3, 3, 3)),  # when its last batch ends
        ((1, 0, 0, 0), False, (4, 4, 3, 3), 0, counts(4, 4, 3, 3)),  # at the first batch of the next
    ],
)
def test_counters_are_those_between_two_batches(batch, last, epoch, done, epochs):
    state = between_batches(loops(batch, last, epoch), validation_due=False)
    progress = state["epoch_loop.batch_progress"]
    assert progress["current"] == counts(*[done] * 4)
    assert progress["total"] == counts(*[100 + batch[2]] * 4)
    assert not progress["is_last_batch"]
    assert state["epoch_progress"]["total"] == epochs
    next_epoch = last and done == 0
    step = state["epoch_loop.automatic_optimization.optim_progress"]["optimizer"]["step"]
    assert step["total"] == {"ready": 8, "completed": 8}
    assert step["current"] == dict.fromkeys(("ready", "completed"), 0 if next_epoch else 4)


@pytest.mark.parametrize("last", [True, False])
def test_a_validation_that_is_due_is_begun_anew(last):
    given = loops((5, 5, 5, 4), last, (3, 3, 2, 2), validation=(2, 2, 1, 1))
    state = between_batches(given, validation_due=True)
    assert state["epoch_loop.val_loop.batch_progress"] == {
        "total": counts(102, 102, 101, 101),
        "current": counts(1, 1, 0, 0),
        "is_last_batch": False,
    }
    assert state["epoch_loop.batch_progress"]["current"] == counts(5, 5, 5, 5)
    assert state["epoch_loop.batch_progress"]["is_last_batch"] == last
    assert state["epoch_progress"]["total"] == counts(3, 3, 2, 2)
