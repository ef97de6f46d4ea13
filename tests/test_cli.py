"""The command line: fast help, one door, flags that beat checkpoints, run folders, clear lines for wrong input."""

import importlib.util
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import soundfile
import torch
import yaml
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from speechllm.cli import COMMANDS, main
from speechllm.models import SpeechLLM
from tests.corpora.must_c import write_must_c
from tests.tiny import noise

ROOT = Path(__file__).resolve().parents[1]
TINY = {
    "encoder": yaml.safe_load((ROOT / "tests/conf/quickstart.yaml").read_text())["model"]["init_args"]["encoder"],
    "adapter": {"name": "conv", "dim": 16, "heads": 2, "layers": 2},
    "decoder": {
        "name": "causal_lm",
        "config": {"model_type": "llama", "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1}
        | {"num_attention_heads": 2, "num_key_value_heads": 2},
    },
    "max_new_tokens": 4,
}


@pytest.fixture
def recipe(tmp_path, monkeypatch):
    """Write a tiny recipe and corpus, and go there."""
    monkeypatch.chdir(tmp_path)
    write_must_c(Path("corpus"))
    data = {"root": "corpus", "tasks": ["asr+st"], "num_workers": 0, "num_buckets": 1}
    write_recipe(
        {"class_path": "SpeechLLM", "init_args": TINY},
        {"class_path": "MustCDataModule", "init_args": data},
        {"max_steps": 1, "accelerator": "cpu", "enable_progress_bar": False, "val_check_interval": 1},
    )
    return tmp_path


def write_recipe(model, data, trainer):
    Path("tiny.yaml").write_text(yaml.safe_dump({"model": model, "data": data, "trainer": trainer}))


def fails(capsys, *args):
    """Run a command that a user got wrong; return the one line it prints."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as exit_:
        main(list(args))
    assert exit_.value.code == 2
    error = capsys.readouterr().err
    assert "Traceback" not in error
    return error.strip().splitlines()[-1]


def test_help_is_fast_and_light():
    """Neither torch nor Lightning nor transformers is loaded for it."""
    code = (
        "import sys; from speechllm.cli import main; main(['--help']); "
        "heavy = {'torch', 'lightning', 'transformers', 'lhotse', 'numpy'} & set(sys.modules); assert not heavy, heavy"
    )
    start_s = time.perf_counter()
    printed = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout
    assert time.perf_counter() - start_s < 2
    for command, summary in COMMANDS.items():
        assert f"  {command}" in printed
        assert summary in printed


def test_python_m_and_version():
    done = subprocess.run([sys.executable, "-m", "speechllm", "--version"], check=True, capture_output=True, text=True)
    assert done.stdout.startswith("speechllm 0.")


@pytest.mark.parametrize("command", ["prepare", "transcribe"])
def test_help_of_a_command_answers_in_two_seconds(command):
    start_s = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-m", "speechllm", command, "--help"], check=True, capture_output=True, text=True
    )
    assert time.perf_counter() - start_s < 2
    assert ("(required" if command == "transcribe" else "must_c") in done.stdout


def test_nothing_prints_the_help(capsys):
    main([])
    assert "usage: speechllm COMMAND" in capsys.readouterr().out


def test_unknown_command(capsys):
    assert "Unknown command. Did you mean 'transcribe'?" in fails(capsys, "trancribe")


def test_flags_and_recipe_beat_the_checkpoint(recipe, monkeypatch):
    """Lightning would let the hyperparameters stored in the checkpoint overrule both, silently."""
    main(["fit", "--config", "tiny.yaml"])
    checkpoint = "runs/tiny/checkpoints/last.ckpt"
    assert torch.load(checkpoint, weights_only=True)["hyper_parameters"]["num_beams"] == 1
    seen = []
    decode = SpeechLLM.decode
    monkeypatch.setattr(
        SpeechLLM, "decode", lambda self, batch, beams: seen.append(beams) or decode(self, batch, beams)
    )
    main(["test", "--config", "tiny.yaml", "--ckpt_path", checkpoint, "--model.num_beams", "3"])
    assert set(seen) == {3}
    changed = yaml.safe_load(Path("tiny.yaml").read_text())
    changed["model"]["init_args"]["num_beams"] = 2
    Path("tiny.yaml").write_text(yaml.safe_dump(changed))
    seen.clear()
    main(["test", "--config", "tiny.yaml", "--ckpt_path", checkpoint])
    assert set(seen) == {2}


def test_options_of_a_part_from_the_shell(recipe):
    main(["fit", "--config", "tiny.yaml", "--model.adapter.layers", "0", "--run_dir", "runs/flags"])
    hyper_parameters = torch.load("runs/flags/checkpoints/last.ckpt", weights_only=True)["hyper_parameters"]
    assert hyper_parameters["adapter"] == {**TINY["adapter"], "layers": 0}


def test_run_folders(recipe, capsys):
    main(["fit", "--config", "tiny.yaml"])
    assert {path.name for path in Path("runs/tiny").iterdir()} == {"checkpoints", "config.yaml", "fit.json", "logs"}
    message = fails(capsys, "fit", "--config", "tiny.yaml")
    assert "'runs/tiny' already holds checkpoints. Resume with `--ckpt_path last`" in message
    main(["fit", "--config", "tiny.yaml", "--ckpt_path", "last", "--trainer.max_steps", "2"])
    assert torch.load("runs/tiny/checkpoints/last.ckpt", weights_only=True)["global_step"] == 2
    main(["fit", "--config", "tiny.yaml", "--overwrite", "true"])
    assert torch.load("runs/tiny/checkpoints/last.ckpt", weights_only=True)["global_step"] == 1
    main(["validate", "--config", "tiny.yaml"])
    main(["test", "--config", "runs/tiny/config.yaml", "--run_dir", "runs/tiny"])
    assert Path("runs/tiny/test/report.txt").read_text().startswith("metric")
    record = yaml.safe_load(Path("runs/tiny/test/run.json").read_text())
    assert record["command"] == "speechllm test --config runs/tiny/config.yaml --run_dir runs/tiny"
    assert record["recipe"]["model"]["init_args"]["adapter"] == TINY["adapter"]
    main(["test", "--config", "tiny.yaml", "--data.test_noise_snr", "5"])
    assert "tst-COMMON+white_5dB" in Path("runs/tiny/test_white_5dB/report.txt").read_text()
    noisy = ["--data.augment", "{noise: white, gain_db: [-6, 0]}", "--data.augment.noise", "null"]
    main(["fit", "--config", "tiny.yaml", "--run_dir", "runs/noisy", *noisy])
    augment = yaml.safe_load(Path("runs/noisy/config.yaml").read_text())["data"]["init_args"]["augment"]
    assert (augment.get("noise"), augment["gain_db"]) == (None, [-6.0, 0.0])
    message = fails(capsys, "fit", "--config", "tiny.yaml", "--run_dir", "runs/x", "--data.augment", "{nois: white}")
    assert "Did you mean 'noise'" in message
    assert "There is no last checkpoint" in fails(
        capsys, "fit", "--config", "tiny.yaml", "--run_dir", "x", "--ckpt_path", "last"
    )


def test_what_was_stopped_does_not_look_done(recipe, monkeypatch, capsys):
    """A shell would go on with results that are not there."""
    stop = lambda *_: os.kill(os.getpid(), signal.SIGTERM)  # noqa: E731
    monkeypatch.setattr(SpeechLLM, "on_train_batch_start", stop)
    with pytest.raises(SystemExit) as exit_:
        main(["fit", "--config", "tiny.yaml", "--trainer.max_steps", "9"])
    assert exit_.value.code == 143
    assert capsys.readouterr().err.endswith("speechllm fit: stopped by SIGTERM before the end\n")


def test_last_checkpoint_is_the_newest_whatever_its_score(recipe):
    """Three validations: `last.ckpt` follows each of them, though the score cannot rise every time."""
    flags = ["--trainer.max_steps", "4", "--trainer.val_check_interval", "1", "--model.lr", "0"]
    main(["fit", "--config", "tiny.yaml", *flags])
    steps = {
        name: torch.load(f"runs/tiny/checkpoints/{name}.ckpt", weights_only=True)["global_step"]
        for name in ("best", "last")
    }
    assert steps == {"best": 1, "last": 4}
    assert not list(Path("runs/tiny/checkpoints").glob(".*"))


def test_transcribe_gives_what_the_notebook_gives(recipe, capsys):
    main(["fit", "--config", "tiny.yaml"])
    for number, clip in enumerate(noise(8000, 12_000)):
        soundfile.write(f"{number}.wav", clip.numpy(), 16_000, subtype="FLOAT")
    model = SpeechLLM.load("runs/tiny", device="cpu")
    expected = model.transcribe(["0.wav", "1.wav"])
    capsys.readouterr()
    main(["transcribe", "0.wav", "1.wav", "--model", "runs/tiny", "--device", "cpu"])
    assert capsys.readouterr().out == "".join(f"{i}.wav\t{text}\n" for i, text in enumerate(expected))
    main(["transcribe", "0.wav", "--model", "runs/tiny", "--translate_to", "de", "--device", "cpu"])
    assert capsys.readouterr().out == f"{model.translate('0.wav', target='de')[0]}\n"
    main(["transcribe", "0.wav", "--model", "runs/tiny", "--format", "jsonl", "--device", "cpu"])
    assert yaml.safe_load(capsys.readouterr().out)["text"] == expected[0]


def test_wrong_specs(recipe, capsys):
    fit = ("fit", "--config", "tiny.yaml")
    assert "Unknown adapter 'con'. Did you mean 'conv'?" in fails(capsys, *fit, "--model.adapter.name", "con")
    assert "does not take 'kernel'. Did you mean 'kernel_size'?" in fails(capsys, *fit, "--model.adapter.kernel", "3")
    assert "Unknown tuning 'lorra'. Did you mean 'lora'?" in fails(capsys, *fit, "--model.encoder.tuning", "lorra")
    assert "'lrr'" in fails(capsys, *fit, "--model.lrr", "1") or "lrr" in fails(capsys, *fit, "--model.lrr", "1")


def test_null_inside_a_spec_given_as_a_flag(recipe):
    main(["fit", "--config", "tiny.yaml", "--model.adapter.hidden_channels", "null", "--trainer.max_steps", "1"])
    kept = torch.load("runs/tiny/checkpoints/last.ckpt", weights_only=True)["hyper_parameters"]["adapter"]
    assert kept["hidden_channels"] is None


def test_wrong_fields_and_values_of_a_configuration(recipe, capsys):
    fit = ("fit", "--config", "tiny.yaml")
    encoder, decoder = ("--model.encoder.config", "--model.decoder.config")
    assert "has no field 'd_modl'. Did you mean 'd_model'?" in fails(capsys, *fit, encoder, "{d_modl: 8}")
    assert "do not go together" in fails(capsys, *fit, encoder, "{d_model: 8, encoder_attention_heads: 3}")
    wrong = "{model_type: llama, hiden_size: 8}"
    assert "has no field 'hiden_size'. Did you mean 'hidden_size'?" in fails(capsys, *fit, decoder, wrong)


def test_wrong_data(recipe, capsys):
    fit = ("fit", "--config", "tiny.yaml")
    assert "No MuST-C partition en-de in 'nowhere'" in fails(capsys, *fit, "--data.root", "nowhere")
    assert "Unknown language 'ge'" in fails(capsys, *fit, "--data.targets", "[ge]").replace("unknown", "Unknown")
    os.rename("corpus/en-de/data/train/wav", "corpus/gone")
    assert "None of the audio files of the split 'train' exists" in fails(capsys, *fit)


def test_wrong_checkpoints(recipe, capsys):
    test = ("test", "--config", "tiny.yaml")
    assert "There is no trained model at 'runs/tiny'" in fails(capsys, *test)
    main(["fit", "--config", "tiny.yaml"])
    message = fails(capsys, *test, "--model.adapter.dim", "8")
    assert "The checkpoint is of another recipe: shape: " in message
    assert "adapter: checkpoint {dim: 16, " in message
    assert "recipe {dim: 8, " in message
    Path("damaged.ckpt").write_bytes(Path("runs/tiny/checkpoints/last.ckpt").read_bytes()[:1000])
    assert "damaged.ckpt' is not a readable checkpoint" in fails(capsys, *test, "--ckpt_path", "damaged.ckpt")


def test_wrong_files_to_transcribe(recipe, capsys):
    main(["fit", "--config", "tiny.yaml"])
    Path("empty.wav").touch()
    for name in ("empty.wav", "none.wav", "tiny.yaml"):
        assert name in fails(capsys, "transcribe", name, "--model", "runs/tiny")
    assert "Unknown language 'dee'" in fails(
        capsys, "transcribe", "empty.wav", "--model", "runs/tiny", "--translate_to", "dee"
    )


def test_a_defect_of_the_program_keeps_its_traceback(recipe, monkeypatch):
    monkeypatch.setattr(SpeechLLM, "losses", lambda self, batch: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        main(["fit", "--config", "tiny.yaml"])


def test_what_watches_a_run(recipe, capsys, monkeypatch):
    """Options of the watchdog reach it, figures reach TensorBoard, and the end of training is summed up."""
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *rest: None if name == "wandb" else find(name, *rest))
    message = fails(capsys, "fit", "--config", "tiny.yaml", "--wandb", "project")
    assert "pip install 'speechllm[wandb]'" in message
    limits = ["--watchdog.report_after_s", "5", "--watchdog.grace_s", "7"]
    main(["fit", "--config", "tiny.yaml", "--trainer.log_every_n_steps", "1", *limits])
    assert json.loads(Path("runs/tiny/fit.json").read_text())["steps"] == 1
    options = yaml.safe_load(Path("runs/tiny/config.yaml").read_text())
    assert (options["watchdog"]["report_after_s"], options["watchdog"]["grace_s"], options.get("wandb")) == (5, 7, None)
    events = EventAccumulator("runs/tiny/logs")
    events.Reload()
    tags = {"train_loss", "train_loss_llm", "lr", "grad_norm", "speed/utterances_per_s", "memory/peak_gib", "val_loss"}
    assert tags <= set(events.Tags()["scalars"])


def test_checkpoints_by_any_figure(recipe, capsys):
    """The better end follows from the figure; a name that will not be logged is known before weights are loaded."""
    fit = ("fit", "--config", "tiny.yaml", "--checkpoint.monitor")
    message = fails(capsys, *fit, "val_wr")
    assert "`monitor: val_wr`: no such figure will be logged. Did you mean 'val_wer'?" in message
    assert "val_wer_whisper" in message
    message = fails(capsys, "fit", "--config", "tiny.yaml", "--model.metrics", "[wer, {name: wer, normalizer: none}]")
    assert "Two metrics of the recipe give the figure 'wer'" in message
    main([*fit, "val_wer"])
    callbacks = torch.load("runs/tiny/checkpoints/best.ckpt", weights_only=True)["callbacks"]
    (state,) = [state for key, state in callbacks.items() if key.startswith("ModelCheckpoint")]
    assert (state["monitor"], float(state["best_model_score"]) > 0) == ("val_wer", True)
    (key,) = [key for key in callbacks if key.startswith("ModelCheckpoint")]
    assert "'mode': 'min'" in key
    events = EventAccumulator("runs/tiny/logs")
    events.Reload()
    assert {"val_wer", "val_bleu", "val_score", "val_empty_rate_transcript"} <= set(events.Tags()["scalars"])
    assert not any("real_time_factor" in name for name in events.Tags()["scalars"])
    assert "| Thank you. |" in events.Tensors("val_samples/text_summary")[0].tensor_proto.string_val[0].decode()
    for command in ("validate", "test"):
        main([command, "--config", "tiny.yaml"])
    events.Reload()
    steps = {name: [event.step for event in events.Scalars(name)] for name in ("val_wer", "test_wer")}
    assert steps == {"val_wer": [0, 1], "test_wer": [1]}, "the step of the checkpoint"
