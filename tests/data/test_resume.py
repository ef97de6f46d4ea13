"""A run that is stopped within an epoch goes on with the rows that it had not seen, each once."""

import json
import subprocess
import sys
from itertools import chain
from pathlib import Path

import pytest

from tests.data import resumed_run

ROWS = resumed_run.ROWS


def trained(folder, name, world_size=1, **options):
    """Train in a process of its own; return the (epoch, rows) of each step and process."""
    out = folder / f"{name}.json"
    arguments = {"folder": str(folder), "out": str(out), "world_size": world_size} | options
    subprocess.run([sys.executable, str(Path(resumed_run.__file__)), json.dumps(arguments)], check=True, timeout=300)
    return [
        tuple(step) for rank in range(world_size) for step in json.loads((folder / f"{name}.json.{rank}").read_text())
    ]


def in_epoch(steps, number):
    return sorted(chain(*(rows for epoch, rows in steps if epoch == number)))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return resumed_run.write_corpus(tmp_path_factory.mktemp("resume"))


@pytest.mark.loopback
@pytest.mark.parametrize("num_workers", [0, 2])
@pytest.mark.parametrize("world_size", [1, 2])
def test_stopped_in_the_middle_of_an_epoch(folder, world_size, num_workers):
    options = {"world_size": world_size, "num_workers": num_workers}
    whole = trained(folder, "whole", max_epochs=3, **options)
    assert [in_epoch(whole, epoch) for epoch in range(3)] == [list(range(ROWS))] * 3
    first = trained(folder, "first", max_steps=resumed_run.STOP, save="stopped.ckpt", **options)
    later = trained(folder, "later", max_epochs=3, resume="stopped.ckpt", **options)
    seen, left = in_epoch(first, 1), in_epoch(later, 1)
    assert seen, "the first run must stop within the second epoch"
    assert left
    assert sorted(seen + left) == list(range(ROWS))
    assert in_epoch(later, 0) == []
    assert in_epoch(later, 2) == list(range(ROWS))
    assert sorted(map(str, first + later)) == sorted(map(str, whole)), "the same batches as a run never stopped"


@pytest.mark.loopback
def test_stopped_in_two_processes_and_resumed_in_one(folder):
    first = trained(folder, "first", 2, max_steps=resumed_run.STOP, save="two.ckpt")
    later = trained(folder, "later", 1, max_epochs=3, resume="two.ckpt")
    assert sorted(in_epoch(first, 1) + in_epoch(later, 1)) == list(range(ROWS))
    assert in_epoch(later, 2) == list(range(ROWS))
