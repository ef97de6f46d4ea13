"""A run that is stopped, in whatever way, and goes on ends as one that was never stopped."""

import json
import random
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.models.resuming.stopped_run import write_corpus

ROOT = Path(__file__).resolve().parents[3]
TWO = {"trainer": {"accumulate_grad_batches": 2, "max_steps": 30}}
SIGUSR1, SIGINT, KILLED, TERMINATED = 10, 2, -9, 143


def end(folder, name):
    """Return all that a run leaves which another has to leave as well."""
    checkpoint = torch.load(folder / name / "checkpoints" / "last.ckpt", weights_only=True)
    (best,) = (state for key, state in checkpoint["callbacks"].items() if key.startswith("ModelCheckpoint"))
    loops = checkpoint["loops"]["fit_loop"]
    del loops["epoch_loop.automatic_optimization.optim_progress"]["optimizer"]["zero_grad"]  # counted, and never read
    kept = ("global_step", "state_dict", "optimizer_states", "lr_schedulers", "random_state", "skipped_steps")
    return {key: checkpoint[key] for key in kept} | {
        "loops": loops,
        "best": best["best_model_score"],
        "epoch of the data": checkpoint["TableDataModule"]["epoch"],
    }


def differences(one, other, at=""):
    """Return where two nested structures are not the same, bit by bit."""
    if isinstance(one, torch.Tensor):
        return [] if one.dtype == other.dtype and torch.equal(one, other) else [at]
    if isinstance(one, dict):
        assert set(one) == set(other), at
        return [found for key in one for found in differences(one[key], other[key], f"{at}/{key}")]
    if isinstance(one, list | tuple):
        assert len(one) == len(other), at
        return [
            found for i, pair in enumerate(zip(one, other, strict=True)) for found in differences(*pair, f"{at}/{i}")
        ]
    return [] if one == other else [f"{at}: {one!r} is not {other!r}"]


def assert_same_end(folder, name, whole="whole"):
    assert differences(end(folder, whole), end(folder, name)) == []
    notes = [json.loads((folder / run / "end.json").read_text(encoding="utf-8")) for run in (whole, name)]
    draws = [{step: values for step, *values in note.pop("draws")} for note in notes]
    assert notes[0] == notes[1]
    assert all(draws[0][step] == values for step, values in draws[1].items())
    assert notes[0]["logged"] == notes[0]["step"]


SLURM = {
    "SLURM_NTASKS": "1",
    "SLURM_NNODES": "1",
    "SLURM_JOB_ID": "77",
    "SLURM_JOB_NAME": "train",
    "SLURM_PROCID": "0",
    "SLURM_LOCALID": "0",
    "SLURM_NODEID": "0",
}
PLACES = {
    "in a step": ("on_before_backward", 10),
    "in the step after": ("on_before_backward", 1),
    "before a validation": ("on_before_backward", 3),
    "in that validation": ("on_validation_batch_start", 1),
    "in it again": ("on_validation_batch_start", 2),
    "at the end of an epoch": ("on_train_epoch_end", 1),
    "between steps": ("on_train_batch_end", 3),
}
OPTIONS = {"single": {}, "accumulated": TWO, "workers": {"num_workers": 2}}
ERRORS = {
    "in a step": {"hook": "on_before_backward", "at": 10, "error": "out of memory"},
    "in validation": {"hook": "on_validation_start", "at": 2, "error": "a metric"},
    "Ctrl-C": {"hook": "on_before_zero_grad", "at": 10, "number": SIGINT},
}
SELDOM = {"every_steps": None}
UNVALIDATED = {"trainer": TWO["trainer"] | {"limit_val_batches": 0}}
TIMED = {"trainer": UNVALIDATED["trainer"] | {"max_time": {"seconds": 0.2}}}


SLOW = pytest.mark.slow


def kills(any_time, in_a_write):
    """Draw moments to kill a run at, and among them those while a checkpoint is being written."""
    draw = random.Random(5)
    lives = [{"kill": {"batches": draw.randint(5, 11), "delay_s": draw.uniform(0, 0.08)}} for _ in range(any_time)]
    lives += [{"write": draw.randint(2, 3), "kill": {}} for _ in range(in_a_write)]
    draw.shuffle(lives)
    return lives


KILLS = {"three": kills(2, 1), "ten": kills(7, 3)}


def quick_runs(tools):
    """Return the lives of the runs of every test run, by the run's name."""
    runs = {"whole": [{}], "killed three": [*KILLS["three"], {}]}
    stops = [{"stop": {"hook": hook, "at": at}, "last": SELDOM} for hook, at in list(PLACES.values())[:5]]
    runs["signals single"] = [*stops, {}]
    runs["error in a step"] = [{"stop": ERRORS["in a step"], "last": SELDOM}, {}]
    for change in ("flipped", "earlier version"):
        runs[f"changed {change}"] = [{"kill": {"batches": 50}}, {"change": change}, {}]
    slurm = SLURM | {"PATH": f"{tools}:/bin:/usr/bin"}
    stop = {"hook": "on_before_backward", "at": 30, "number": SIGUSR1}
    runs["requeued"] = [{"environment": slurm, "stop": stop}, {"environment": slurm}]
    return runs


def slow_runs():
    """Return the lives of the other runs."""
    runs = {"whole": [{}], "two": [TWO], "killed ten": [*KILLS["ten"], {}]}
    for name in ("accumulated", "workers"):
        options = OPTIONS[name]
        places = list(PLACES.values())[3 if name == "workers" else 0 :]
        stops = [{"stop": {"hook": hook, "at": at}, "last": SELDOM} for hook, at in places]
        runs[f"signals {name}"] = [*(options | stop for stop in stops), options]
    for name in ("in validation", "Ctrl-C"):
        runs[f"error {name}"] = [{"stop": ERRORS[name], "last": SELDOM}, {}]
    runs |= {"timed": [TIMED, TIMED, UNVALIDATED], "unlimited": [UNVALIDATED]}
    runs |= {"early": [{"early": 3, "kill": {"batches": 18}}, {"early": 3}], "patient": [{"early": 3}]}
    for change in ("cut off", "empty"):
        runs[f"changed {change}"] = [{"kill": {"batches": 50}}, {"change": change}, {}]
    return runs


def live(folder, runs):
    """Live all runs in one process, whose start takes as long as many of them."""
    command = [sys.executable, "-m", "tests.models.resuming.stopped_run", str(folder), json.dumps(runs)]
    subprocess.run(command, check=True, timeout=900, cwd=ROOT)
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Return where the quick runs were lived."""
    folder = write_corpus(tmp_path_factory.mktemp("stopped"))
    tools = folder / "tools"
    tools.mkdir()
    (tools / "scontrol").write_text(f'#!/bin/sh\necho "$@" >> {folder}/scontrol.txt\n', encoding="utf-8")
    (tools / "scontrol").chmod(0o755)
    return live(folder, quick_runs(tools))


@pytest.fixture(scope="module")
def slow(tmp_path_factory):
    """Return where the slow runs were lived."""
    return live(write_corpus(tmp_path_factory.mktemp("slow")), slow_runs())


@pytest.fixture
def place(request):
    """Return where the runs of a test were lived."""
    return request.getfixturevalue("slow" if request.node.get_closest_marker("slow") else "folder")


def told(folder, name):
    """Return how each life of a run ended."""
    return json.loads((folder / f"{name}.json").read_text(encoding="utf-8"))


def last(folder, name):
    return torch.load(folder / name / "checkpoints" / "last.ckpt", weights_only=True)


def test_the_runs_depend_on_what_is_restored(folder):
    """The run that others are compared with steps, shuffles and draws: without its random state it ends elsewhere."""
    whole = end(folder, "whole")
    assert whole["global_step"] == 60
    assert whole["epoch of the data"] >= 4
    _, _, life = told(folder, "changed earlier version")
    assert life["exit"] == 0
    assert "holds no random state, as those of earlier versions" in life["log"]
    assert any(at.startswith("/state_dict") for at in differences(whole, end(folder, "changed earlier version")))


@pytest.mark.parametrize("count", ["three", pytest.param("ten", marks=SLOW)])
def test_killed_at_random_moments(place, count):
    """Among them some while a checkpoint is being written."""
    lives = told(place, f"killed {count}")
    assert [life["exit"] for life in lives] == [KILLED] * len(KILLS[count]) + [0]
    written_in = [ended for life, ended in zip(KILLS[count], lives, strict=False) if "write" in life]
    assert written_in
    for ended in written_in:  # which checkpoint it is depends on when one is due by the clock
        assert ended["unfinished"] in (["..last.ckpt.new.unfinished"], [".best.ckpt.unfinished"])
    assert lives[-1]["unfinished"] == []
    assert_same_end(place, f"killed {count}")


@pytest.mark.parametrize("name", [name if name == "single" else pytest.param(name, marks=SLOW) for name in OPTIONS])
def test_stopped_by_signals(place, name):
    lives = told(place, f"signals {name}")
    assert [life["exit"] for life in lives] == [TERMINATED] * (len(lives) - 1) + [0]
    # one that comes in validation or at the end of an epoch may be heeded when a batch is at hand, but not trained on
    assert 60 <= sum(life["batches"] for life in lives) <= 62, "no step is done twice, and none is lost"
    assert_same_end(place, f"signals {name}", "two" if name == "accumulated" else "whole")


@pytest.mark.parametrize("name", [name if name == "in a step" else pytest.param(name, marks=SLOW) for name in ERRORS])
def test_exceptions_lose_no_step(place, name):
    first, second = told(place, f"error {name}")
    assert first["exit"] != 0
    assert second["exit"] == 0
    assert first["batches"] + second["batches"] <= 61
    assert_same_end(place, f"error {name}")


@SLOW
def test_max_time_is_that_of_each_start(slow):
    """Where it runs out within the accumulation of a step, the step is brought to its end."""
    lives = told(slow, "timed")
    assert [life["exit"] for life in lives] == [0] * 3
    assert all(0 < life["batches"] < 60 for life in lives)
    assert sum(life["batches"] for life in lives) == 60
    assert differences(last(slow, "unlimited")["state_dict"], last(slow, "timed")["state_dict"]) == []


@SLOW
def test_early_stopping_goes_on_counting(slow):
    """No validation is better by the margin: the third after the first ends the run, wherever it was killed."""
    assert [life["exit"] for life in told(slow, "early")] == [KILLED, 0]
    runs = [last(slow, name) for name in ("early", "patient")]
    assert [(run["global_step"], run["finished"]) for run in runs] == [(28, "early stopping")] * 2
    assert differences(runs[1]["state_dict"], runs[0]["state_dict"]) == []


@pytest.mark.parametrize("damage", ["flipped", *(pytest.param(name, marks=SLOW) for name in ("cut off", "empty"))])
def test_a_damaged_last_one_gives_way_to_the_one_before(place, damage):
    _, (step, before), life = told(place, f"changed {damage}")
    assert before < step
    lost = f": the {step - before} steps from there to step {step} are trained again"
    assert f"last-1.ckpt', of step {before}{lost if damage == 'flipped' else ''}" in life["log"]
    assert "last.ckpt' is not a readable checkpoint" in life["log"]
    assert_same_end(place, f"changed {damage}")


def test_requeued_by_slurm(folder):
    """The signal by which SLURM says that the time of a job is nearly over saves, and puts the job into the queue."""
    assert [life["exit"] for life in told(folder, "requeued")] == [TERMINATED, 0]
    assert (folder / "scontrol.txt").read_text(encoding="utf-8") == "requeue 77\n"
    assert not list((folder / "requeued").glob("hpc_ckpt*"))
    assert_same_end(folder, "requeued")
