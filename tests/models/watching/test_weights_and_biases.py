"""Weights & Biases by a flag: a package that is not installed, and one that is not real."""

import importlib.util
import sys
from types import ModuleType, SimpleNamespace

import pytest
from jsonargparse import Namespace

from speechllm.errors import UserError
from speechllm.lightning_cli import add_wandb
from speechllm.models.watching.weights_and_biases import ID_FILE, log_recipe, logger_options, run_id


class FakeRun:
    """What the package would send."""

    def __init__(self, **options):
        self.options, self.logged, self.config = options, [], FakeConfig()
        self.id, self.name = options["id"], options["name"]

    def log(self, values):
        self.logged.append(values)

    def finish(self):
        pass


class FakeConfig(dict):
    """Its configuration."""

    def update(self, values, allow_val_change=False):
        super().update(values)


@pytest.fixture
def fake(monkeypatch):
    """Install a package of that name for a test; return the runs it begins."""
    runs = []
    package, sdk, lib, wandb_run = (
        ModuleType(name) for name in ("wandb", "wandb.sdk", "wandb.sdk.lib", "wandb.wandb_run")
    )
    package.Table = lambda columns, data, dataframe: (columns, data)
    package.run, package.init = None, lambda **options: runs.append(FakeRun(**options)) or runs[-1]
    lib.RunDisabled, wandb_run.Run = type("RunDisabled", (), {}), type("Run", (), {})
    for module in (package, sdk, lib, wandb_run):
        module.__spec__ = importlib.util.spec_from_loader(module.__name__, loader=None)
        monkeypatch.setitem(sys.modules, module.__name__, module)
    monkeypatch.setattr("lightning.pytorch.loggers.wandb._WANDB_AVAILABLE", True)
    return runs


def test_a_missing_package_is_named_with_what_to_do(tmp_path, monkeypatch):
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "wandb" else find(name))
    with pytest.raises(UserError, match=r"not installed\. Install it with `pip install 'speechllm\[wandb\]'`"):
        logger_options("project", tmp_path, goes_on=False)
    assert not list(tmp_path.iterdir())


def test_a_restart_goes_on_with_the_same_run(fake, tmp_path):
    options = logger_options("team/project", tmp_path / "x", goes_on=False)
    assert options == {
        "project": "project",
        "entity": "team",
        "name": "x",
        "save_dir": str(tmp_path / "x"),
        "id": (tmp_path / "x" / ID_FILE).read_text().strip(),
    }
    assert logger_options("project", tmp_path / "x", goes_on=True)["id"] == options["id"]
    assert run_id(tmp_path / "x", goes_on=False) != options["id"], "a run that starts anew is another"
    (tmp_path / "x" / ID_FILE).write_text("../../etc")
    assert run_id(tmp_path / "x", goes_on=True) != "../../etc"


def test_only_the_first_process_writes_the_id(fake, tmp_path, monkeypatch):
    monkeypatch.setattr("lightning.pytorch.utilities.rank_zero_only.rank", 1)
    assert run_id(tmp_path / "x", goes_on=False)
    assert not (tmp_path / "x").exists()


@pytest.mark.parametrize(("others", "count"), [(None, 2), (False, 1), ([Namespace(class_path="a")], 2)])
def test_it_stands_beside_the_other_loggers(others, count):
    others = Namespace(class_path="TensorBoardLogger") if others is None else others
    trainer = Namespace(logger=others)
    add_wandb(trainer, {"project": "p"})
    assert len(trainer.logger) == count
    assert trainer.logger[-1].init_args.project == "p"


def test_figures_and_recipe_arrive(fake, build, trainer, eight, as_loader, tmp_path):
    from lightning.pytorch.loggers import CSVLogger, WandbLogger

    logger = WandbLogger(**logger_options("project", tmp_path / "x", goes_on=False))
    fitted = trainer(max_steps=2, log_every_n_steps=1, logger=[CSVLogger(tmp_path), logger])
    log_recipe(fitted.loggers, {"command": "speechllm fit", "recipe": {"model": {"lr": 1}}})
    fitted.fit(build(), as_loader([eight] * 2))
    [run] = fake
    assert (run.options["project"], run.options["resume"]) == ("project", "allow")
    assert run.config["command"] == "speechllm fit"
    assert run.config["recipe"] == {"model": {"lr": 1}}
    assert [values["trainer/global_step"] for values in run.logged if "train_loss" in values] == [0, 1]
    assert {"train_loss", "speed/utterances_per_s", "memory/peak_gib", "lr"} <= set(run.logged[-1])
    log_recipe([SimpleNamespace()], {})


def test_samples_of_validation_arrive(fake, build, trainer, eight, as_loader, tmp_path):
    from lightning.pytorch.loggers import WandbLogger

    logger = WandbLogger(**logger_options("project", tmp_path / "x", goes_on=False))
    data = as_loader([eight.select([0, 1])])
    trainer(logger=logger, num_sanity_val_steps=0).fit(build(), data, data)
    [(columns, rows)] = [values["val_samples"] for values in fake[0].logged if "val_samples" in values]
    assert columns == ["utterance", "reference", "hypothesis"]
    assert {row[0].split(" ")[0] for row in rows} == set(eight.ids[:2])
