"""`speechllm cache`: what it prints, that it goes on where it stopped, and that several may fill one folder."""

import os
import queue
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from speechllm.cli import main
from speechllm.commands.cache_filling import Job, _process
from speechllm.feature_cache.folder import SHARDS
from speechllm.feature_cache.store import FeatureStore
from speechllm.registry import ENCODERS
from tests.models.conftest import SPECS
from tests.models.tested_run import ROWS, write_corpus

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def recipe(tmp_path, monkeypatch):
    """Write a recipe, its corpus and its encoder's checkpoint, and go there."""
    monkeypatch.chdir(tmp_path)
    Path("corpus").mkdir()
    write_corpus(Path("corpus"))
    write_checkpoint(Path("whisper"))
    write_recipe()
    return tmp_path


def write_checkpoint(folder, seed=5):
    from transformers import WhisperConfig
    from transformers.models.whisper.modeling_whisper import WhisperEncoder

    torch.manual_seed(seed)
    WhisperEncoder(WhisperConfig(**ENCODERS.get("whisper").tiny["config"])).save_pretrained(folder)


def write_recipe(name="r.yaml", data=None, **encoder):
    spec = {"name": "whisper", "pretrained": "whisper", "cache": "cached"} | encoder
    options = {"root": "corpus", "source": "en", "target": "de", "tasks": ["asr", "st"], "num_workers": 0}
    options |= {"num_buckets": 1, "batch_seconds": 1.5, "max_utterances": 4} | (data or {})
    trainer = {"max_steps": 2, "accelerator": "cpu", "enable_progress_bar": False, "val_check_interval": 1}
    recipe = {
        "seed_everything": 1,
        "model": {"class_path": "SpeechLLM", "init_args": {**SPECS, "encoder": spec, "max_new_tokens": 4}},
        "data": {"class_path": "TableDataModule", "init_args": options},
        "trainer": trainer | {"enable_model_summary": False, "logger": False},
    }
    Path(name).write_text(yaml.safe_dump(recipe))


def fill(*arguments):
    main(["cache", "--config", "r.yaml", *arguments])


def fails(capsys, *arguments):
    capsys.readouterr()
    with pytest.raises(SystemExit) as exit_:
        fill(*arguments)
    assert exit_.value.code == 2
    return capsys.readouterr().err.strip().splitlines()[-1]


def test_it_says_what_it_will_do_and_what_it_did(recipe, capsys):
    fill()
    printed = capsys.readouterr().out
    assert f"{ROWS} of {3 * ROWS} utterances to read, 0.00 h of audio, at most about" in printed
    assert "GB are free" in printed
    assert f"Added {ROWS} utterances" in printed
    assert re.search(
        rf"The cache holds {ROWS} utterances, 0\.00 h, \d+\.\d kB in bf16; what is stored .* 0\.1\d%", printed
    )
    fill()
    printed = capsys.readouterr().out
    assert "0 of 39 utterances to read" in printed
    assert "Added 0 utterances" in printed


def test_training_needs_neither_audio_nor_encoder(recipe, monkeypatch, capsys):
    """All of fit and test read the cache."""
    fill()
    shutil.rmtree("whisper")  # known by its content: with the folder gone, the name cannot be looked up
    Path("whisper").mkdir()
    message = fit_fails(capsys)
    assert "`weights.digest` is" in message
    write_checkpoint(Path("whisper"))

    def forbidden(*args, **kwargs):
        raise AssertionError("read")

    monkeypatch.setattr("speechllm.data.dataset.read_audio", forbidden)
    monkeypatch.setattr("speechllm.encoders.whisper._load_encoder", forbidden)
    main(["fit", "--config", "r.yaml"])
    main(["test", "--config", "r.yaml"])
    lines = Path("runs/r/test/predictions.jsonl").read_text().splitlines()
    assert len(lines) == 2 * ROWS


def fit_fails(capsys, *arguments):
    capsys.readouterr()
    with pytest.raises(SystemExit):
        main(["fit", "--config", "r.yaml", *arguments])
    return capsys.readouterr().err


def test_a_missing_cache_stops_training_before_weights_are_loaded(recipe, monkeypatch, capsys):
    monkeypatch.setattr("speechllm.encoders.whisper._load_encoder", lambda *args: pytest.fail("loaded"))
    assert "Fill it first: `speechllm cache --config RECIPE`" in fit_fails(capsys)


def test_another_encoder_is_refused(recipe, capsys):
    fill()
    assert "`pad_to_30s` is false in the cache and true" in fails(capsys, "--model.encoder.pad_to_30s", "true")
    assert '"bf16" in the cache and "int8"' in fails(capsys, "--model.encoder.cache", "{dir: cached, format: int8}")
    write_checkpoint(Path("whisper"), seed=6)
    assert "`weights.digest` is" in fails(capsys)
    assert "`weights.digest` is" in fit_fails(capsys)


def test_random_weights_are_those_of_the_seed(recipe, capsys):
    write_recipe(pretrained=None, **ENCODERS.get("whisper").tiny)
    fill()
    main(["fit", "--config", "r.yaml"])
    assert "`weights.digest` is" in fails(capsys, "--seed_everything", "2")


def test_mistakes_are_answered(recipe, capsys):
    assert "names no cache" in fails(capsys, "--model.encoder.cache", "null")
    assert "`part` must be such as 1/4" in fails(capsys, "--part", "3/2")
    assert "`devices` must be at least 1" in fails(capsys, "--devices", "0")
    assert "exclude each other" in fails(capsys, "--data.augment.speeds", "[0.9, 1.0]")
    assert "Did you mean 'devices'" in fails(capsys, "--devcies", "3")
    if not torch.cuda.is_available():
        assert "more GPUs than the 0" in fails(capsys, "--accelerator", "cuda", "--devices", "2")


def test_a_small_disk_is_named_before_anything_is_written(recipe, capsys, monkeypatch):
    usage = shutil.disk_usage(".")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=1000))
    assert "will take about" in fails(capsys)
    assert not list(Path("cached", SHARDS).iterdir())


def test_parts_make_the_whole(recipe, capsys):
    fill("--part", "1/3")
    first = len(FeatureStore(Path("cached")))
    fill("--part", "2/3", "--splits", "[train, dev]")
    fill("--part", "3/3")
    assert 0 < first < ROWS
    assert len(FeatureStore(Path("cached"))) == ROWS


def test_two_processes_fill_one_folder(recipe, capsys):
    fill("--accelerator", "cpu", "--devices", "2")
    store = FeatureStore(Path("cached"))
    writers = {path.name.rsplit("-", 1)[0] for path in Path("cached", SHARDS).glob("*.npz")}
    assert (len(store), len(writers)) == (ROWS, 2)
    assert f"Added {ROWS} utterances" in capsys.readouterr().out


def test_a_folder_that_cannot_be_written_is_named(recipe, capsys):
    fill("--part", "1/3")
    shutil.rmtree(Path("cached", SHARDS))
    Path("cached", SHARDS).write_text("in the way")
    assert re.search(r"Writing to 'cached/shards' failed: File exists", fails(capsys))


def test_an_error_in_another_process_is_told(tmp_path):
    """As the first process hears of it, without the other one's start."""
    messages = queue.SimpleQueue()
    job = Job({"name": "whisper", "size": 3}, None, tmp_path, None, [], np.zeros((0, 16)), 1.0, ["cpu"], 0)
    _process(job, 0, messages)
    kind, message = messages.get()
    assert kind == "user error"
    assert "does not take 'size'" in message
    _process(None, 0, messages)
    kind, message = messages.get()
    assert kind == "error"
    assert "Traceback" in message


KILLED = """
import os, signal, sys
from speechllm.cli import main
from speechllm.commands.cache_filling import Job, _process
from speechllm.feature_cache import filling, shards

shards.ShardWriter.__init__.__defaults__ = (600, 120.0)
fill = filling.CacheFiller._fill

def killed(self, *args):
    for number, counts in enumerate(fill(self, *args)):
        if number == 3:
            os.kill(os.getpid(), signal.SIGKILL)
        yield counts

filling.CacheFiller._fill = killed
main(["cache", "--config", "r.yaml"])
"""


def test_a_killed_fill_is_usable_and_goes_on(recipe, capsys):
    done = subprocess.run([sys.executable, "-c", KILLED], env=os.environ | {"PYTHONPATH": str(ROOT)}, timeout=120)
    assert done.returncode == -9
    half = FeatureStore(Path("cached"))
    assert 0 < len(half) < ROWS
    assert not half.damaged
    with pytest.warns(UserWarning, match=r"of \d+ utterances were not in the cache 'cached' and were computed live"):
        main(["fit", "--config", "r.yaml", "--run_dir", "half"])
    capsys.readouterr()
    fill()
    printed = capsys.readouterr().out
    assert f"Added {ROWS - len(half)} utterances" in printed
    assert not list(Path("cached", SHARDS).glob("*.part"))


def test_damage_is_found_and_made_good(recipe, capsys):
    fill()
    shard = next(Path("cached", SHARDS).glob("*.bin"))
    content = bytearray(shard.read_bytes())
    content[100] ^= 1
    shard.write_bytes(content)
    fill()
    assert "Added 0 utterances" in capsys.readouterr().out
    fill("--verify", "true")
    assert f"computed anew: {shard.stem}" in (printed := capsys.readouterr().out)
    assert f"Added {ROWS} utterances" in printed
    fill("--verify", "true")
    assert f"Verified {ROWS} utterances: all are as they were written" in capsys.readouterr().out
    os.truncate(next(Path("cached", SHARDS).glob("*.bin")), 10)
    fill()
    assert f"Added {ROWS} utterances" in capsys.readouterr().out


def test_a_moved_corpus_is_known_by_its_samples(recipe, capsys):
    fill()
    Path("corpus").rename("elsewhere")
    shutil.rmtree("elsewhere/manifests", ignore_errors=True)
    fill("--data.root", "elsewhere")
    printed = capsys.readouterr().out
    assert "Added 0 utterances" in printed
    assert f"{ROWS} utterances had the same audio as another" in printed
    fill("--data.root", "elsewhere")
    assert "0 of 39 utterances to read" in capsys.readouterr().out


def test_a_clip_that_cannot_be_read_is_counted(recipe, capsys):
    Path("corpus/3.wav").write_bytes(b"no audio")
    fill("--splits", "[test]")
    printed = capsys.readouterr().out
    assert "could not be read" in printed or f"Added {ROWS - 1}" in printed


def test_parallel_encoders_fill_a_folder_each(recipe, capsys):
    from tests.feature_cache.caches import spec_of

    inner = [spec_of("whisper", "first"), spec_of("hubert", "second")]
    fusion = ENCODERS.get("parallel").tiny["fusion"]
    write_recipe()
    recipe = yaml.safe_load(Path("r.yaml").read_text())
    recipe["model"]["init_args"]["encoder"] = {"name": "parallel", "encoders": inner, "fusion": fusion}
    Path("r.yaml").write_text(yaml.safe_dump(recipe))
    fill()
    assert len(FeatureStore(Path("first"))) == len(FeatureStore(Path("second"))) == ROWS
    assert FeatureStore(Path("second")).settings.encoder == "hubert"
