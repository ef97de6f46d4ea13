"""Every recipe parses, names parts that exist, and runs fit → test → predict through its tiny twin."""

import json
from pathlib import Path

import pytest
import torch
import yaml

import speechllm.adapters
import speechllm.decoders
import speechllm.encoders
import speechllm.metrics  # noqa: F401
from speechllm.cli import main
from speechllm.predictions import read_predictions
from speechllm.registry import ADAPTERS, DECODERS, ENCODERS, METRICS
from tests.corpora.covost2 import write_covost2
from tests.corpora.must_c import write_must_c

ROOT = Path(__file__).resolve().parents[1]
RECIPES = sorted((ROOT / "recipes").rglob("*.yaml"))
TWINS = sorted((ROOT / "tests" / "conf").rglob("*.yaml"))
COVOST2_SOURCES = ("de", "es", "fr", "it")


def relative(path):
    return str(path.relative_to(ROOT))


def test_there_are_recipes():
    assert len(RECIPES) >= 2
    assert [path.name for path in TWINS] == [path.name for path in RECIPES]


@pytest.fixture
def corpora(tmp_path, monkeypatch):
    """Write tiny corpora where the recipes look for the real ones."""
    monkeypatch.chdir(tmp_path)
    write_must_c(Path("data/must_c"), ("de", "fr", "it", "es"))
    write_covost2(Path("data/covost2"))
    for source in COVOST2_SOURCES:
        write_covost2(Path("data/covost2"), targets=("en",), source=source)
    return tmp_path


@pytest.mark.parametrize("recipe", RECIPES, ids=relative)
def test_form(recipe):
    """Forty lines at most, and a header that says what, how to run it, and with what hardware."""
    lines = recipe.read_text(encoding="utf-8").splitlines()
    assert len(lines) <= 40
    header = [line for line in lines if line.startswith("#")]
    assert lines[0].startswith("# ")
    assert any(line.startswith("# Run:") for line in header)
    assert any(line.startswith("# Hardware:") for line in header)


@pytest.mark.parametrize("recipe", RECIPES, ids=relative)
def test_parses(recipe, capsys):
    with pytest.raises(SystemExit) as exit_:
        main(["fit", "--config", str(recipe), "--print_config"])
    assert exit_.value.code == 0
    model = yaml.safe_load(capsys.readouterr().out)["model"]["init_args"]
    ENCODERS.check(model["encoder"])
    ADAPTERS.check(model["adapter"])
    DECODERS.check(model["decoder"])
    for metric in model["metrics"]:
        METRICS.check({"name": metric} if isinstance(metric, str) else metric)


@pytest.mark.parametrize("recipe", RECIPES, ids=relative)
def test_twin_runs(recipe, corpora, capsys):
    """The recipe with its sizes replaced: two steps, then the whole test set, then predictions."""
    twin = ROOT / "tests" / "conf" / recipe.name
    given = ["--config", str(recipe), "--config", str(twin), "--trainer.enable_progress_bar", "false"]
    main(["fit", *given])
    run = corpora / "runs" / recipe.stem
    checkpoint = torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)
    assert checkpoint["global_step"] == yaml.safe_load(twin.read_text())["trainer"]["max_steps"]
    assert (run / "checkpoints" / "best.ckpt").is_file()
    assert (run / "config.yaml").is_file()
    assert list((run / "logs").glob("events*"))
    capsys.readouterr()

    main(["test", *given])
    printed = capsys.readouterr().out
    predictions = read_predictions(run / "test" / "predictions.jsonl")
    metrics = json.loads((run / "test" / "metrics.json").read_text())
    assert [p.row for p in predictions] == list(range(len(predictions)))
    assert metrics["counts"]["utterances"] == len(predictions) > 0
    named = yaml.safe_load((run / "config.yaml").read_text())["model"]["init_args"]["metrics"]
    names = {metric if isinstance(metric, str) else metric["name"] for metric in named}
    assert {score["metric"] for score in metrics["scores"]} == names
    for score in metrics["scores"]:
        assert score["signature"] in printed
    assert metrics["speed"]["real_time_factor"] > 0
    assert printed.count("  hypothesis  ") >= 3

    main(["predict", *given])
    again = read_predictions(run / "predict" / "predictions.jsonl")
    assert [(p.id, p.task, p.text) for p in again] == [(p.id, p.task, p.text) for p in predictions]
