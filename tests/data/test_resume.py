"""A run that is stopped within an epoch goes on with the rows that it had not seen, each once."""

import json
import subprocess
import sys
from itertools import chain
from pathlib import Path

import pytest

from tests.data import resumed_run

ROWS = resumed_run.ROWS


def trained(folder, **runs):
    """Train each run, one after the other; return the rows of its steps, process by process."""
    options = [{"folder": str(folder), "out": f"{folder}/{name}", "world_size": 1} | run for name, run in runs.items()]
    subprocess.run([sys.executable, str(Path(resumed_run.__file__)), json.dumps(options)], check=True, timeout=300)
    return [
        [json.loads(Path(f"{run['out']}.{rank}").read_text(encoding="utf-8")) for rank in range(run["world_size"])]
        for run in options
    ]


def rows_of(ranks, start, stop):
    """Return the rows of a stretch of steps of all processes, sorted."""
    return sorted(chain(*(rows for rank in ranks for rows in rank[start:stop])))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return resumed_run.write_corpus(tmp_path_factory.mktemp("resume"))


@pytest.mark.loopback
@pytest.mark.parametrize("num_workers", [0, 2])
@pytest.mark.parametrize("world_size", [1, 2])
def test_a_resumed_run_has_the_batches_of_one_never_stopped(folder, world_size, num_workers):
    options = {"world_size": world_size, "num_workers": num_workers}
    steps = {1: 15, 2: 8}[world_size]  # of an epoch
    saves = {
        "batch": {"hook": "on_train_batch_end", "at": steps + 3},
        "validation": {"hook": "on_validation_end", "at": {1: 20, 2: 10}[world_size]},
        "epoch": {"hook": "on_train_epoch_end", "at": steps},
        "end": {"max_steps": steps + 3},
    }
    runs = {"whole": {"max_epochs": 3}}
    for name, save in saves.items():
        runs[f"first_{name}"] = {"max_steps": 2 * steps, "save": f"{name}.ckpt"} | save
        runs[f"later_{name}"] = {"max_steps": 3 * steps, "resume": f"{name}.ckpt"}
    whole, *others = trained(folder, **{name: options | run for name, run in runs.items()})
    assert [rows_of(whole, epoch * steps, (epoch + 1) * steps) for epoch in range(3)] == [list(range(ROWS))] * 3
    for (name, save), first, later in zip(saves.items(), others[::2], others[1::2], strict=True):
        stop = save.get("at", steps + 3)
        assert [rank[:stop] + more for rank, more in zip(first, later, strict=True)] == whole, name


@pytest.mark.loopback
def test_stopped_in_two_processes_and_resumed_in_one(folder):
    first, later = trained(
        folder,
        first={"max_steps": 11, "save": "two.ckpt", "world_size": 2},
        later={"max_steps": 11 + 40, "resume": "two.ckpt"},
    )
    assert rows_of(first, 0, 8) == list(range(ROWS))
    seen = rows_of(first, 8, None)
    count = next(stop for stop in range(len(later[0])) if len(seen) + len(rows_of(later, 0, stop)) >= ROWS)
    assert sorted(seen + rows_of(later, 0, count)) == list(range(ROWS))
    assert rows_of(later, count, count + 15) == list(range(ROWS))
