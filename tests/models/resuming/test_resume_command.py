"""``speechllm fit --resume auto``: one command for every start of a run."""

from pathlib import Path

import pytest
import torch

from speechllm.cli import main
from tests.test_cli import fails, recipe  # noqa: F401

LAST = "runs/tiny/checkpoints/last.ckpt"
FIT = ("fit", "--config", "tiny.yaml")


def steps():
    return torch.load(LAST, weights_only=True)["global_step"]


def test_one_command_begins_goes_on_and_ends(recipe, capsys, monkeypatch):  # noqa: F811
    auto = [*FIT, "--resume", "auto"]
    main(auto)
    assert steps() == 1
    main([*auto, "--trainer.max_steps", "3"])
    assert steps() == 3
    written = Path(LAST).stat().st_mtime_ns
    for resume in (["--resume", "auto"], ["--ckpt_path", "last"]):
        capsys.readouterr()
        main([*FIT, *resume, "--trainer.max_steps", "3"])
        printed = "".join(capsys.readouterr())
        assert "The run in 'runs/tiny' is finished: it stands at step 3 of `trainer.max_steps: 3`" in printed
    assert Path(LAST).stat().st_mtime_ns == written
    assert "Leave out one of them" in fails(capsys, *auto, "--overwrite", "true")
    assert "`--resume` takes `auto` alone, but is 'yes'" in fails(capsys, *FIT, "--resume", "yes")
    assert "already holds checkpoints" in fails(capsys, *FIT)
    monkeypatch.setenv("SLURM_RESTART_COUNT", "1")  # a requeued job has the command line of the first start
    main([*FIT, "--trainer.max_steps", "4"])
    assert steps() == 4
    monkeypatch.delenv("SLURM_RESTART_COUNT")
    Path(LAST).write_bytes(Path(LAST).read_bytes()[:5000])
    with pytest.warns(
        UserWarning, match=r"last.ckpt' is not a readable checkpoint: it is cut off.*of step 3: the steps"
    ):
        main([*auto, "--trainer.max_steps", "5"])
    assert steps() == 5


def test_starting_anew_forgets_the_run_before(recipe, capsys):  # noqa: F811
    """Nothing may fall back to its checkpoints later."""
    main([*FIT, "--trainer.max_steps", "3", "--last_checkpoint.every_steps", "1"])
    assert Path(LAST).with_name("last-1.ckpt").exists()
    main([*FIT, "--overwrite", "true"])
    assert steps() == 1
    assert not Path(LAST).with_name("last-1.ckpt").exists()
    message = fails(capsys, *FIT, "--overwrite", "true", "--last_checkpoint.keep", "0")
    assert "`last_checkpoint.keep` must be at least 1, but is 0." in message
