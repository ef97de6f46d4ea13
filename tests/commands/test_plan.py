"""Plans of the packaged recipes: figures of the papers' sizes, forecasts, what fits, what to change."""

import json
import subprocess
import sys
import time

import pytest
import yaml

from speechllm.cli import main
from speechllm.recipe_files import recipes

ADAPTERS = ("base", "conv", "ctc", "wlq", "cif")


def planned(capsys, *arguments):
    """Return the figures of a plan."""
    capsys.readouterr()
    main(["plan", *arguments, "--json"])
    return json.loads(capsys.readouterr().out)


def fails(capsys, *arguments):
    with pytest.raises(SystemExit) as exit_:
        main(["plan", *arguments])
    assert exit_.value.code == 2
    return capsys.readouterr().err.strip().splitlines()[-1]


def test_what_a_sample_of_paper_a_costs(capsys, monkeypatch, tmp_path):
    """Llama with Whisper: 9.4, 3.4 and 1.9 TFLOP; with their heads over all frames, ctc takes 2.2 and cif 1.9."""
    monkeypatch.chdir(tmp_path)
    found = planned(capsys, "--config", *(f"connect/whisper_{name}_llama" for name in ADAPTERS), "--gpus", "4")
    totals = {plan["recipe"].split("_")[1]: round(plan["tflop_per_sample"]["total"], 1) for plan in found}
    assert totals == {"base": 9.4, "conv": 3.4, "ctc": 2.2, "wlq": 1.9, "cif": 1.9}
    ceilings = [round(plan["forecast"][0]["ceiling_samples_per_s"]) for plan in found]
    assert ceilings == pytest.approx([84, 231, 356, 411, 406], abs=1)
    conv = found[1]
    assert conv["parameters"]["adapter"] == {"all": 36_038_400, "trained": 36_038_400}
    assert conv["parameters"]["encoder"] == {"all": 636_968_960, "trained": 0}
    assert conv["utterances"] == 28_000 * 160
    assert conv["forecast"][0] == {
        "gpu": "H200",
        "ceiling_tflops": 790,
        "ceiling_samples_per_s": pytest.approx(231, abs=1),
        "samples_per_s": pytest.approx(463, abs=1),
        "hours": pytest.approx(2.69, abs=0.02),
        "fits": True,
    }
    assert conv["positions_per_second"] == 12.5
    assert (conv["compression_assumed"], found[2]["compression_assumed"]) == (None, 13)
    assert conv["cache_gb_per_1000_h"] == pytest.approx(460.8)
    assert conv["checkpoint_gb"] == pytest.approx(36_038_400 * 12 / 1e9)
    assert conv["data"]["hours"] is None
    fits = {row["gpu"]: row["fits"] for row in conv["forecast"]}
    assert fits["A100-80GB"]
    assert not fits["A100-40GB"]


def test_a_cache_takes_the_encoder_away(capsys):
    without, with_cache = (
        planned(capsys, "--config", "connect/whisper_conv_mistral", *flags)[0]["tflop_per_sample"]
        for flags in ([], ["--model.encoder.cache", "features"])
    )
    assert with_cache["encoder"] == 0
    assert with_cache["total"] == pytest.approx(without["total"] - without["encoder"])
    assert round(with_cache["total"], 1) == 3.0


def test_options_of_the_recipe_and_of_the_plan(capsys):
    recipe = ("--config", "connect/whisper_ctc_mistral")
    (usual,) = planned(capsys, *recipe)
    (less,) = planned(capsys, *recipe, "--compression", "4", "--efficiency", "0.25")
    assert less["positions_per_second"] == 12.5
    assert less["tflop_per_sample"]["llm"] > 1.5 * usual["tflop_per_sample"]["llm"]
    row = less["forecast"][0]
    assert row["samples_per_s"] == pytest.approx(row["ceiling_samples_per_s"] * 0.25 * 4)
    (wlq,) = planned(capsys, *recipe, "--model.adapter", "{name: wlq}", "--data.batch_seconds=100")
    assert wlq["compression_assumed"] is None
    assert wlq["batch"]["batch_seconds"] == 100
    assert wlq["memory_gib"]["total"] < usual["memory_gib"]["total"]


def test_what_does_not_fit_comes_with_what_to_change(capsys):
    base = ("--config", "connect/whisper_base_mistral", "--gpu", "A100-40GB")
    (tight,) = planned(capsys, *base, "--data.batch_seconds", "600")
    (warning,) = [text for text in tight["warnings"] if "one A100-40GB has 39" in text]
    assert "`decoder.checkpoint_layers: all` brings it to" in warning
    seconds = warning.partition("`data.batch_seconds: ")[2].partition("`")[0]
    (fitting,) = planned(capsys, *base, "--data.batch_seconds", seconds)
    assert fitting["forecast"][0]["fits"]
    assert not any("has 39" in text for text in fitting["warnings"])
    (checkpointed,) = planned(capsys, *base, "--data.batch_seconds=600", "--model.decoder.checkpoint_layers", "all")
    assert checkpointed["forecast"][0]["fits"]
    assert checkpointed["tflop_per_sample"]["recomputed"] > 4
    assert checkpointed["forecast"][0]["samples_per_s"] < tight["forecast"][0]["samples_per_s"]


def test_full_tuning_of_a_large_llm_fits_in_shards_only(capsys):
    full = (
        "--config",
        "connect/whisper_conv_mistral",
        "--model.decoder.tuning",
        "full",
        "--gpus",
        "8",
        "--gpu",
        "A100",
    )
    (whole,) = planned(capsys, *full)
    assert whole["memory_gib"]["optimizer"] > 50
    assert any("FSDP2 over 8 GPUs" in text for text in whole["warnings"])
    (sharded,) = planned(capsys, *full, "--trainer.strategy", "fsdp")
    assert sharded["memory_gib"]["optimizer"] == pytest.approx(whole["memory_gib"]["optimizer"] / 8)


def test_four_bits(capsys):
    lora, qlora = (
        planned(capsys, "--config", "connect/whisper_conv_mistral", "--model.decoder.tuning", tuning)[0]
        for tuning in ("lora", "qlora")
    )
    saved = lora["memory_gib"]["weights"] - qlora["memory_gib"]["weights"]
    assert saved == pytest.approx(6.98e9 * (2 - 0.5625) / 2**30, rel=0.01)


@pytest.mark.parametrize("name", ["quickstart", "nue/hubert_ctc_neox", "joint/hubert_ctc_mistral"])
def test_recipes_of_every_kind(capsys, name):
    main(["plan", "--config", name])
    printed = capsys.readouterr().out
    assert printed.startswith(f"{name}\n")
    assert "Speech positions of the LLM per second" in printed


def test_every_recipe_is_of_known_size():
    from speechllm.models.sizing.random_twin import random_twin

    for path in recipes().values():
        options = yaml.safe_load(path.read_text(encoding="utf-8"))["model"]["init_args"]
        assert random_twin(options)["decoder"]["tokenizer"].startswith("{")


def test_durations_of_manifests_that_are_there(capsys, tmp_path, monkeypatch):
    from tests.corpora.must_c import write_must_c

    monkeypatch.chdir(tmp_path)
    write_must_c(tmp_path / "corpus")
    main(["prepare", "must_c", "--root", "corpus"])
    recipe = yaml.safe_load(recipes()["quickstart"].read_text(encoding="utf-8"))
    recipe["data"] = {"class_path": "MustCDataModule", "init_args": {"root": "corpus", "tasks": ["asr"]}}
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(recipe), encoding="utf-8")
    (plan,) = planned(capsys, "--config", "mine.yaml")
    assert plan["data"]["hours"] > 0
    assert "rows of the recipe's manifests" in plan["data"]["source"]
    assert plan["cache_gb"] is not None


def test_sizes_from_a_folder(capsys, tmp_path):
    config = {"model_type": "llama", "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2}
    config |= {"num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 1000, "architectures": ["x"]}
    (tmp_path / "config.json").write_text(json.dumps(config), encoding="utf-8")
    (plan,) = planned(capsys, "--config", "connect/whisper_conv_mistral", "--model.decoder.pretrained", str(tmp_path))
    layer = 64 * (64 + 32 + 32 + 64) + 3 * 64 * 128 + 2 * 64
    assert plan["parameters"]["decoder"]["all"] == 2 * layer + 2 * 1000 * 64 + 64


def test_wrong_input(capsys):
    conv = ("--config", "connect/whisper_conv_mistral")
    assert "Unknown GPU 'H300'. Did you mean 'H" in fails(capsys, *conv, "--gpu", "H300")
    assert "`--efficiency` is a share" in fails(capsys, *conv, "--efficiency", "50")
    assert "no packaged recipe of that name" in fails(capsys, "--config", "connect/whisper_konv_llama")
    unknown = fails(capsys, *conv, "--model.decoder.pretrained", "meta-llama/Llama-3.1-8B")
    assert "Did you mean 'meta-llama/Llama-3.1-8B-Instruct'?" in unknown
    assert "Did you mean 'conv'" in fails(capsys, *conv, "--model.adapter.name", "konv")

    assert "'data.batch_secnds'. Did you mean 'batch_seconds'?" in fails(capsys, *conv, "--data.batch_secnds", "3")
    assert "`data.batch_seconds` cannot be" in fails(capsys, *conv, "--data.batch_seconds", "many")
    assert "'model.lrr'. Did you mean 'lr'?" in fails(capsys, *conv, "--model.lrr", "1")
    assert "'trainer.max_stepz'. Did you mean 'max_steps'?" in fails(capsys, *conv, "--trainer.max_stepz", "1")
    assert "Did you mean 'MustCDataModule'?" in fails(capsys, *conv, "--data.class_path", "MustDataModule")


def test_a_further_file_changes_every_recipe_before_it(capsys, tmp_path):
    change = {"model": {"class_path": "SpeechLLM", "init_args": {"adapter": {"name": "conv", "layers": 1}}}}
    (tmp_path / "change.yaml").write_text(yaml.safe_dump(change), encoding="utf-8")
    both = ("connect/whisper_wlq_mistral", "connect/whisper_conv_mistral")
    _, whole = planned(capsys, "--config", *both)
    first, second = planned(capsys, "--config", *both, "--config", str(tmp_path / "change.yaml"))
    assert first["recipe"] == f"{both[0]} + {tmp_path / 'change'}"
    assert first["parameters"] == second["parameters"]
    assert second["parameters"]["adapter"]["all"] < whole["parameters"]["adapter"]["all"]
    assert second["parameters"]["decoder"] == whole["parameters"]["decoder"]
    alone = fails(capsys, "--config", str(tmp_path / "change.yaml"))
    assert "no encoder and no decoder" in alone
    assert f"--config RECIPE --config {tmp_path / 'change.yaml'}" in alone


def test_what_is_printed_of_large_and_small(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    main(["plan", "--config", "quickstart", "--gpus", "1"])
    small = capsys.readouterr().out
    assert "Data: utterances of 5.6 s are assumed: no manifest of the split 'train' at" in small
    assert "\nGFLOP " in small
    assert "Checkpoint: 27.7 MB\n" in small
    assert "Cache of the frozen" not in small
    assert " 1 GPU at 50%" in small
    main(["plan", "--config", "connect/whisper_cif_mistral"])
    large = capsys.readouterr().out
    assert "\nTFLOP " in large
    assert "\nmemory of a GPU  weights  gradients  optimizer  encoder  adapter " in large
    assert "Checkpoint: 728 MB\n" in large
    assert max(map(len, large.splitlines())) <= 118


@pytest.mark.parametrize("command", ["plan", "cache"])
def test_help_is_quick(command):
    start_s = time.perf_counter()
    subprocess.run([sys.executable, "-m", "speechllm", command, "--help"], check=True, capture_output=True)
    assert time.perf_counter() - start_s < 2
