"""Every recipe parses, names parts that exist, and trains through its tiny twin; some go on to test and predict."""

import json
import shutil
from pathlib import Path

import pytest
import soundfile
import torch
import yaml

import speechllm.adapters
import speechllm.decoders
import speechllm.encoders
import speechllm.metrics  # noqa: F401
from speechllm.cli import main
from speechllm.models import SpeechLLM
from speechllm.predictions import read_predictions
from speechllm.recipe_files import recipes
from speechllm.registry import METRICS
from tests.corpora import csj, mlc_slm, reazonspeech
from tests.corpora.covost2 import write_covost2, write_table
from tests.corpora.must_c import tone, write_must_c
from tests.twins import make_twin, write_tokenizers

ROOT = Path(__file__).resolve().parents[1]
RECIPES = sorted(path for path in (ROOT / "recipes").rglob("*.yaml") if not path.is_symlink())
HAND_MADE_TWINS = {path.stem: path for path in (ROOT / "tests" / "conf").rglob("*.yaml")}
COVOST2_SOURCES = ("de", "es", "fr", "it")
TESTED = {
    "quickstart",
    "whisper_conv_llama",
    "hubert_ctc_gemma2_9b",
    "hubert_conv_neox_lora",
    "whisper_mhubert_projector_qwen_2",
    "starter",
}
"""Recipes that go on to test and predict: one of each folder and prompt."""

EXPECTED = {"connect": 20, "joint": 8, "nue": 6, "parallel": 2, "recipes": 2}
"""Number of recipes in each folder."""


def relative(path):
    return str(path.relative_to(ROOT / "recipes").with_suffix(""))


def read(recipe):
    return yaml.safe_load(recipe.read_text(encoding="utf-8"))


def test_all_recipes_are_there():
    found = {}
    for path in RECIPES:
        found[path.parent.name] = found.get(path.parent.name, 0) + 1
    assert found == EXPECTED
    assert set(recipes().values()) == set(RECIPES)
    assert len({path.stem for path in RECIPES}) == len(RECIPES), "run folders are named after recipes"
    assert set(HAND_MADE_TWINS) <= {path.stem for path in RECIPES}


def test_the_first_recipe_is_where_it_was():
    assert (ROOT / "recipes/whisper_conv_llama.yaml").resolve() == ROOT / "recipes/connect/whisper_conv_llama.yaml"


@pytest.mark.parametrize("recipe", RECIPES, ids=relative)
def test_form(recipe):
    """Forty lines at most, and a header that says what, how to run it, on what hardware, and what it should reach."""
    lines = recipe.read_text(encoding="utf-8").splitlines()
    assert len(lines) <= 40
    header = [line for line in lines if line.startswith("#")]
    assert max(map(len, header)) <= 120
    assert lines[: len(header)] == header
    assert lines[0].startswith("# ")
    name = recipe.relative_to(ROOT) if recipe.stem == "quickstart" else relative(recipe)
    assert any(line.startswith("# Run:") and line.split("--config ")[1].split(",")[0] == str(name) for line in header)
    assert any(line.startswith("# Hardware:") for line in header)
    assert "Not trained by us yet." in "".join(header) or any(line.startswith("# Test: WER") for line in header)


@pytest.mark.parametrize("recipe", RECIPES, ids=relative)
def test_parses(recipe, capsys):
    """By its name, as a user gives it."""
    with pytest.raises(SystemExit) as exit_:
        main(["fit", "--config", relative(recipe), "--print_config"])
    assert exit_.value.code == 0
    model = yaml.safe_load(capsys.readouterr().out)["model"]["init_args"]
    SpeechLLM(**model)  # checks the specs, and loads nothing
    for metric in model["metrics"]:
        METRICS.check({"name": metric} if isinstance(metric, str) else metric)


REPLACED = {
    *("model.encoder.pretrained", "model.encoder.config", "model.decoder.pretrained", "model.warmup_steps"),
    *("data.num_workers", "data.held_out_hours"),
    *("model.max_new_tokens", "data.max_utterances", "trainer.devices", "trainer.strategy", "trainer.max_steps"),
    *("trainer.max_epochs", "trainer.accumulate_grad_batches", "trainer.val_check_interval"),
}
"""Settings of recipes that a twin may have otherwise: checkpoints, sizes, steps and hardware."""


@pytest.mark.parametrize("recipe", RECIPES, ids=relative)
def test_a_twin_keeps_every_other_setting(recipe, tmp_path):
    given, twin = flat(read(recipe)), flat(make_twin(read(recipe), tmp_path))
    changed = {key for key, value in given.items() if twin.get(key) != value}
    sizes = {f"model.adapter.{size}" for size in ("dim", "heads", "layers")}
    assert changed <= REPLACED | sizes | {key for key in changed if ".config." in key or key.endswith(".pretrained")}


def flat(value, prefix=""):
    """Return nested settings by their dotted names, without the levels `class_path` and `init_args`."""
    if not isinstance(value, dict):
        items = enumerate(value) if isinstance(value, list) and any(isinstance(item, dict) for item in value) else None
        if items is None:
            return {prefix: value}
        value = {str(index): item for index, item in items}
    found = {}
    for key, item in value.items():
        found |= flat(item, prefix if key == "init_args" else f"{prefix}.{key}".lstrip("."))
    return found


@pytest.fixture(scope="module")
def workplace(tmp_path_factory):
    """Go to a folder with tiny corpora where the recipes look for the real ones, and tokenizers for the twins."""
    folder = tmp_path_factory.mktemp("recipes")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        write_must_c(Path("data/must_c"), ("de", "fr", "it", "es"))
        write_covost2(Path("data/covost2"))
        for source in COVOST2_SOURCES:
            write_covost2(Path("data/covost2"), targets=("en",), source=source)
        for corpus in (csj, mlc_slm, reazonspeech):
            corpus.write_fake(Path("data") / corpus.__name__.rpartition(".")[2])
        shutil.copy("data/reazonspeech/tsv/small.tsv", "data/reazonspeech/tsv/all.tsv")
        write_tables(Path("data/mine"))
        write_tokenizers(folder / "tokenizers")
        yield folder


def write_tables(folder):
    """Write a table a split, of three tones."""
    folder.mkdir(parents=True)
    for split in ("train", "dev", "test"):
        rows = []
        for number in range(3):
            soundfile.write(folder / f"{split}_{number}.wav", tone(0.4 + 0.1 * number), 16_000)
            rows.append((f"{split}_{number}.wav", "Hello again.", "en"))
        write_table(folder / f"{split}.tsv", ("audio", "transcript", "source"), rows)


def fit(recipe, workplace):
    """Train a recipe's twin, and before it the one that it starts from, unless that is done; return its arguments."""
    if recipe.stem in HAND_MADE_TWINS:
        given = ["--config", str(recipe), "--config", str(HAND_MADE_TWINS[recipe.stem])]
        given += ["--trainer.enable_progress_bar", "false"]
    else:
        twin = workplace / f"{recipe.stem}.yaml"
        given = ["--config", str(twin)]
        content = make_twin(read(recipe), workplace / "tokenizers")
        twin.write_text(yaml.safe_dump(content), encoding="utf-8")
        if (before := content["model"]["init_args"].get("init_from")) is not None:
            fit(next(path for path in RECIPES if path.stem == Path(before).name), workplace)
    if not (workplace / "runs" / recipe.stem).exists():
        main(["fit", *given])
    return given


@pytest.mark.parametrize("recipe", RECIPES, ids=relative)
def test_twin_trains(recipe, workplace):
    """Two steps, and a run folder with what was trained."""
    fit(recipe, workplace)
    run = workplace / "runs" / recipe.stem
    checkpoint = torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)
    assert checkpoint["global_step"] == 2
    assert (run / "checkpoints" / "best.ckpt").is_file()
    assert (run / "config.yaml").is_file()
    assert list((run / "logs").glob("events*"))
    model = SpeechLLM(**{key: value for key, value in checkpoint["hyper_parameters"].items() if key[0] != "_"})
    model.configure_model()
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    expected = TRAINED.get(recipe.stem, TRAINED.get(recipe.parent.name))
    assert {what_is_trained(name) for name in trained} == expected
    if "feature_encoder" in recipe.read_text():
        assert not any(".feature_extractor." in name for name in trained)


TRAINED = {
    "connect": {"adapter"},
    "joint": {"adapter", "decoder lora"},
    "nue": {"encoder", "adapter", "decoder"},
    "hubert_conv_neox_frozen_hubert": {"adapter", "decoder"},
    "hubert_conv_neox_frozen_llm": {"encoder", "adapter"},
    "hubert_conv_neox_frozen_both": {"adapter"},
    "hubert_conv_neox_lora": {"decoder lora"},
    "whisper_mhubert_projector_qwen_1": {"encoder fusion", "adapter"},
    "whisper_mhubert_projector_qwen_2": {"encoder fusion", "adapter", "decoder lora"},
    "quickstart": {"encoder", "adapter", "decoder"},
    "starter": {"adapter", "decoder lora"},
}
"""What the papers train (spec §15), by folder, or by recipe where those of a folder differ."""


def what_is_trained(name):
    """Return a parameter's part, and whether it is the fusion's or LoRA's."""
    inside = next((inside for inside in ("lora", "fusion") if f".{inside}" in name), "")
    return f"{name.split('.')[0]} {inside}".strip()


@pytest.mark.parametrize("recipe", [path for path in RECIPES if path.stem in TESTED], ids=relative)
def test_twin_tests_and_predicts(recipe, workplace, capsys):
    """The whole test set, each row once, every metric with its signature, and the same texts in prediction."""
    given = fit(recipe, workplace)
    run = workplace / "runs" / recipe.stem
    capsys.readouterr()

    main(["test", *given])
    printed = capsys.readouterr().out
    predictions = read_predictions(run / "test" / "predictions.jsonl")
    record = json.loads((run / "test" / "run.json").read_text())
    assert [p.row for p in predictions] == list(range(len(predictions)))
    assert sum(test_set["utterances"] for test_set in record["test_sets"]) == len(predictions) > 0
    named = yaml.safe_load((run / "config.yaml").read_text())["model"]["init_args"]["metrics"]
    specs = [{"name": metric} if isinstance(metric, str) else metric for metric in named]
    figures = {METRICS.build(spec, language="en").figures[0].name for spec in specs}
    assert figures <= {score["figure"] for score in record["scores"]}
    for score in record["scores"]:
        shown = score["signature"] in printed
        assert shown or score["signature"].startswith(("health|", "speed|")) or score["kind"] != "test set"
    assert (record["wall_s"] > 0, record["processes"], record["taken_over"]) == (True, 1, 0)
    assert record["recipe"]["model"]["init_args"]["metrics"] == named
    assert record["step"] in (1, 2)
    assert Path(record["checkpoint"]["path"]).name in ("best.ckpt", "last.ckpt")
    assert printed.count("  hypothesis  ") >= 3

    main(["predict", *given])
    again = read_predictions(run / "predict" / "predictions.jsonl")
    assert [(p.id, p.task, p.text) for p in again] == [(p.id, p.task, p.text) for p in predictions]


def test_tested_recipes_exist():
    assert {path.stem for path in RECIPES} >= TESTED
    assert {path.parent.name for path in RECIPES if path.stem in TESTED} == set(EXPECTED)
