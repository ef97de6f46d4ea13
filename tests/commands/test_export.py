"""``speechllm export``: what is written, that it answers as before, its card, and pushing it."""

import json
import shutil

import pytest
import soundfile
import torch
import yaml
from huggingface_hub import ModelCard
from transformers import AutoModelForCausalLM, AutoTokenizer

from speechllm.cli import main
from speechllm.evaluation.run_record import Run
from speechllm.evaluation.test_folder import write_test_folder
from speechllm.models import SpeechLLM
from speechllm.models.publishing import exporting
from speechllm.models.publishing.export_check import Answers, compare
from speechllm.registry import ADAPTERS, DECODERS, ENCODERS
from tests.evaluation.predicted import predicted, translated
from tests.named import save_llm, save_whisper
from tests.tiny import make_batch, noise

SPECS = {
    "encoder": {"name": "whisper", **ENCODERS.get("whisper").tiny},
    "adapter": {"name": "conv", **ADAPTERS.get("conv").tiny, "dropout": 0.0},
    "decoder": {"name": "causal_lm", **DECODERS.get("causal_lm").tiny},
}
RECIPE = {
    "seed_everything": 3,
    "model": {"class_path": "SpeechLLM"},
    "data": {
        "class_path": "speechllm.data.MustCDataModule",
        "init_args": {"root": "/data/must_c", "targets": ["de"], "tasks": ["st", "asr"]},
    },
    "trainer": {"max_steps": 2, "precision": "bf16-mixed"},
}


@pytest.fixture
def saved(tmp_path, monkeypatch):
    """Return a function that saves a run of a tiny model, with weights as training leaves them."""
    monkeypatch.chdir(tmp_path)

    def saved(**options):
        torch.manual_seed(0)
        model = SpeechLLM(**{**SPECS, "max_new_tokens": 6, **options})
        model.configure_model()
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if ".lora_" in name or name.startswith("adapter."):
                    parameter.normal_(std=0.1)
        model.trained_on = {("asr", "en", "en"), ("st", "en", "de")}
        checkpoint = {"state_dict": model.state_dict(), "hyper_parameters": dict(model.hparams), "global_step": 40}
        model.on_save_checkpoint(checkpoint)
        (tmp_path / "run" / "checkpoints").mkdir(parents=True)
        torch.save(checkpoint, "run/checkpoints/last.ckpt")
        (tmp_path / "run" / "config.yaml").write_text(yaml.safe_dump(RECIPE))
        return model.eval()

    return saved


def write_test(folder, step):
    """Write a test into a run folder."""
    predictions = [*(predicted(row) for row in range(3)), *(translated(row) for row in range(3, 6))]
    run = Run(step=step, decoding={"num_beams": 1})
    write_test_folder(folder / "run" / "test", predictions, [{"name": "wer"}, {"name": "bleu"}, {"name": "speed"}], run)


def failing(arguments, capsys):
    """Run a command that must fail and return its message."""
    with pytest.raises(SystemExit) as end:
        main(arguments)
    assert end.value.code == 2
    return capsys.readouterr().err


def described(folder):
    return json.loads((folder / "speechllm.json").read_text())


def test_random_weights_are_all_there_and_the_folder_moves(saved, tmp_path, capsys):
    model = saved()
    main(["export", "run", "--to", "out", "--device", "cpu"])
    printed = capsys.readouterr().out
    assert "logits before and after: 0 (0 allowed); the same token chosen at 100.0 % of positions" in printed
    shutil.rmtree(tmp_path / "run")
    moved = (tmp_path / "out").rename(tmp_path / "elsewhere")
    torch.manual_seed(99)
    loaded = SpeechLLM.load(moved, device="cpu")
    assert set(loaded.state_dict()) == set(model.state_dict())
    for key, value in model.state_dict().items():
        assert torch.equal(loaded.state_dict()[key], value), key
    assert loaded.trained_on == model.trained_on
    batch = make_batch(noise(8000, 12_345))
    assert loaded.decode(batch, 1) == model.decode(batch, 1)
    assert {path.name for path in moved.iterdir()} == {
        "README.md",
        "config.yaml",
        "model.safetensors",
        "speechllm.json",
        "tokenizer",
    }
    assert not list(tmp_path.glob(".*")), "nothing half-written stays"
    soundfile.write("talk.wav", noise(32_000)[0].numpy(), 16_000)
    main(["transcribe", "talk.wav", "--model", "elsewhere", "--device", "cpu"])
    assert capsys.readouterr().out == model.transcribe("talk.wav")[0] + "\n"


def test_named_parts_are_named_and_not_written(saved, tmp_path):
    encoder, decoder = save_whisper(tmp_path / "whisper"), save_llm(tmp_path / "llama")
    model = saved(encoder=encoder, decoder={**decoder, "tuning": "lora", "lora": {"r": 2, "targets": ["q_proj"]}})
    main(["export", "run", "--to", "out", "--device", "cpu"])
    checkpoint = exporting.read_export(tmp_path / "out")
    trained = {key for key, parameter in model.named_parameters() if parameter.requires_grad}
    assert trained <= set(checkpoint["state_dict"])
    assert all(key.startswith("adapter.") or ".lora_" in key for key in checkpoint["state_dict"])
    assert described(tmp_path / "out")["frozen"] == [
        {"part": "encoder", "name": encoder["pretrained"], "revision": None, "tuning": "frozen"},
        {"part": "decoder", "name": decoder["pretrained"], "revision": None, "tuning": "lora"},
    ]
    batch = make_batch(noise(8000, 12_345))
    assert SpeechLLM.load(tmp_path / "out", device="cpu").decode(batch, 2) == model.decode(batch, 2)


def test_tied_tables_are_written_once(saved, tmp_path):
    config = {**SPECS["decoder"]["config"], "tie_word_embeddings": True}
    model = saved(decoder={"name": "causal_lm", "config": config})
    main(["export", "run", "--to", "out", "--device", "cpu"])
    same = described(tmp_path / "out")["same"]
    assert same == {"decoder.llm.lm_head.weight": "decoder.llm.model.embed_tokens.weight"}
    batch = make_batch(noise(8000))
    assert SpeechLLM.load("out", device="cpu").decode(batch, 1) == model.decode(batch, 1)


@pytest.mark.parametrize(("tuning", "dtype"), [("lora", "float32"), ("qlora", "float32"), ("qlora", "bfloat16")])
def test_a_merged_llm_is_a_folder_that_others_load(tuning, dtype, saved, tmp_path, capsys):
    decoder = save_llm(tmp_path / "llama") | {"tuning": tuning, "dtype": dtype, "lora": {"r": 2}}
    model = saved(decoder=decoder)
    main(["export", "run", "--to", "out", "--merge", "--device", "cpu"])
    largest = float(capsys.readouterr().out.partition("before and after: ")[2].split()[0])
    assert 0 < largest < (1e-4 if dtype == "float32" else 3e-2)
    moved = (tmp_path / "out").rename(tmp_path / "moved")
    loaded = SpeechLLM.load(moved, device="cpu")
    assert not any(".lora_" in key for key in loaded.state_dict())
    assert loaded.decoder.llm.dtype == getattr(torch, dtype)
    assert str(tmp_path) not in str(described(moved)["options"])
    if dtype == "float32":
        batch = make_batch(noise(8000, 12_345))
        assert loaded.decode(batch, 1) == model.decode(batch, 1)
    plain = AutoModelForCausalLM.from_pretrained(moved / "llm").eval()
    ids = torch.arange(12)[None]
    with torch.no_grad():
        torch.testing.assert_close(plain(ids).logits.float(), loaded.decoder.llm(ids).logits.float(), rtol=0, atol=3e-2)
    assert len(AutoTokenizer.from_pretrained(moved / "llm")) == len(model.decoder.tokenizer)


@pytest.mark.parametrize("merge", [False, True])
def test_a_model_that_answers_otherwise_is_not_written(merge, saved, tmp_path, monkeypatch, capsys):
    saved(decoder={**SPECS["decoder"], "tuning": "lora", "lora": {"r": 2}})
    distinct = exporting._distinct

    def damaged(state):
        tensors, same = distinct(state)
        key = next(key for key in tensors if key.startswith("adapter."))
        return tensors | {key: tensors[key] + 0.5}, same

    monkeypatch.setattr(exporting, "_distinct", damaged)
    error = failing(["export", "run", "--to", "out", "--merge", str(merge).lower(), "--device", "cpu"], capsys)
    assert "The exported model does not answer as the run does. Largest difference of" in error
    assert "Nothing was written." in error
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


@pytest.mark.parametrize(
    ("change", "speech", "dtype", "tolerance", "passes"),
    [
        (0.0, 0.0, None, None, True),
        (1e-6, 0.0, None, None, False),
        (1e-5, 0.0, torch.float32, None, True),
        (1e-2, 0.0, torch.float32, None, False),
        (1e-2, 0.0, torch.bfloat16, None, True),
        (1e-1, 0.0, torch.bfloat16, None, False),
        (1e-1, 0.0, torch.bfloat16, 0.2, True),
        (float("nan"), 0.0, torch.bfloat16, None, False),
        (0.0, 1e-7, torch.bfloat16, 0.2, False),
    ],
)
def test_what_the_check_allows(change, speech, dtype, tolerance, passes):
    before = Answers(torch.zeros(1, 2, 4), torch.ones(1, 2, 3))
    after = Answers(before.speech + speech, before.logits + change)
    assert compare(before, after, dtype, tolerance).passes == passes


def test_files_that_parts_name_are_taken_along(saved, tmp_path):
    from speechllm.decoders.tokenizer import load_tokenizer

    (tmp_path / "labels.json").write_text(load_tokenizer("bytes").backend_tokenizer.to_str())
    adapter = {"name": "ctc", **ADAPTERS.get("ctc").tiny, "vocabulary": "labels.json"}
    encoder = {"name": "hubert", **ENCODERS.get("hubert").tiny}
    model = saved(adapter=adapter, encoder=encoder)
    main(["export", "run", "--to", "out", "--device", "cpu"])
    (tmp_path / "labels.json").unlink()
    moved = (tmp_path / "out").rename(tmp_path / "moved")
    batch = make_batch(noise(8000, 12_345))
    assert SpeechLLM.load(moved, device="cpu").decode(batch, 1) == model.decode(batch, 1)


def test_the_card_has_the_figures_of_the_test(saved, tmp_path):
    decoder = save_llm(tmp_path / "llama") | {"tuning": "lora"}
    saved(decoder=decoder)
    checkpoint = torch.load("run/checkpoints/last.ckpt", weights_only=True)
    write_test(tmp_path, 40)
    main(["export", "run", "--to", "out", "--license", "cc-by-4.0", "--device", "cpu"])
    text = (tmp_path / "out" / "README.md").read_text()
    card = ModelCard(text)
    front = card.data.to_dict()
    assert front["license"] == "cc-by-4.0"
    assert front["library_name"] == "speechllm"
    assert front["language"] == ["en", "de"]
    assert front["metrics"] == ["wer", "bleu"]
    assert {"speech-recognition", "speech-translation", "whisper", "conv"} <= set(front["tags"])
    found = {(r.metric_type, r.dataset_type, r.dataset_split, r.dataset_config): r for r in card.data.eval_results}
    assert found["wer", "fake", "test", "en"].metric_value == 25.0
    bleu = found["bleu", "fake", "test", "en-de"]
    (score,) = [
        s
        for s in json.loads((tmp_path / "run/test/run.json").read_text())["scores"]
        if (s["figure"], s["kind"]) == ("bleu", "test set")
    ]
    assert bleu.metric_value == round(score["value"], 4)
    assert bleu.metric_args["signature"] == score["signature"]
    assert "| fake test en | asr | wer | 25.00 % |" in text
    assert "`MustCDataModule`: targets `['de']`, tasks `['st', 'asr']`" in text
    assert "/data/must_c" not in text
    assert "40 optimiser steps" in text
    assert 'model.translate("talk.wav", target="de")' in text
    assert "a folder of the machine that trained it" in text
    assert "Largest difference of" in text
    assert checkpoint["global_step"] == 40


def test_base_models_are_those_with_a_name(saved, monkeypatch, tmp_path):
    from speechllm.models.publishing.model_card import Origin, model_card

    saved()
    main(["export", "run", "--to", "out", "--device", "cpu"])
    description = described(tmp_path / "out")
    description["base_models"] = ["openai/whisper-large-v3", "/disk/llm", "meta-llama/Llama-3.1-8B"]
    front = ModelCard(model_card(Origin("m", description, None, None, False, "same"))).data.to_dict()
    assert front["base_model"] == ["openai/whisper-large-v3", "meta-llama/Llama-3.1-8B"]
    assert "license" not in front


@pytest.mark.parametrize(
    ("step", "said"),
    [(None, "There are no test figures at"), (20, "is of step 20, and the exported weights are of step 40")],
)
def test_an_untested_model_says_so(step, said, saved, tmp_path, capsys):
    saved()
    if step is not None:
        write_test(tmp_path, step)
    main(["export", "run", "--to", "out", "--device", "cpu"])
    assert said in capsys.readouterr().out
    text = (tmp_path / "out" / "README.md").read_text()
    assert "This model was not tested" in text
    assert "model-index" not in text


class FakeHub:
    """What is asked of the hub."""

    def __init__(self, calls, error=None):
        self.calls, self.error = calls, error

    def create_repo(self, repo_id, **options):
        self.calls.append(("create", repo_id, options))
        if self.error:
            raise self.error

    def upload_folder(self, repo_id, folder_path, commit_message):
        self.calls.append(("upload", repo_id, sorted(path.name for path in folder_path.iterdir())))


def test_push(saved, monkeypatch, tmp_path, capsys):
    saved()
    calls = []
    monkeypatch.setattr("huggingface_hub.get_token", lambda: "token")
    monkeypatch.setattr("huggingface_hub.HfApi", lambda: FakeHub(calls))
    main(["export", "run", "--to", "out", "--push", "anna/small", "--private", "--device", "cpu"])
    files = ["README.md", "config.yaml", "model.safetensors", "speechllm.json", "tokenizer"]
    assert calls == [("create", "anna/small", {"private": True, "exist_ok": True}), ("upload", "anna/small", files)]
    assert "Load it as hf://anna/small" in capsys.readouterr().out
    assert 'SpeechLLM.load("hf://anna/small")' in (tmp_path / "out" / "README.md").read_text()
    monkeypatch.setattr("huggingface_hub.HfApi", lambda: FakeHub(calls, OSError("403 forbidden")))
    error = failing(["export", "run", "--to", "two", "--push", "anna/small", "--device", "cpu"], capsys)
    assert "could not be pushed to 'anna/small': 403 forbidden The folder itself is whole." in error
    assert (tmp_path / "two" / "model.safetensors").is_file()


def test_a_model_on_the_hub_is_loaded_where_asked(saved, monkeypatch, tmp_path):
    model = saved()
    main(["export", "run", "--to", "out", "--device", "cpu"])
    asked = []

    def download(name, revision):
        asked.append((name, revision))
        if name == "anna/none":
            raise OSError("404 not found")
        return str(tmp_path / ("run" if name == "anna/other" else "out"))

    monkeypatch.setattr("huggingface_hub.snapshot_download", download)
    batch = make_batch(noise(8000))
    assert SpeechLLM.load("hf://anna/small@v1", device="cpu").decode(batch, 1) == model.decode(batch, 1)
    assert asked == [("anna/small", "v1")]
    for name, message in (
        ("hf://anna", "is not a name on the hub"),
        ("hf://anna/none", "could not be downloaded: 404 not found"),
        ("hf://anna/other", "is not a model of speechllm"),
        ("anna/small", "There is no trained model at 'anna/small'"),
    ):
        with pytest.raises(ValueError, match=message):
            SpeechLLM.load(name)


@pytest.mark.parametrize("damage", ["weights", "description", "later"])
def test_a_damaged_folder(damage, saved, tmp_path):
    saved()
    main(["export", "run", "--to", "out", "--device", "cpu"])
    if damage == "weights":
        path = tmp_path / "out" / "model.safetensors"
        path.write_bytes(path.read_bytes()[:-100])
    elif damage == "description":
        (tmp_path / "out" / "speechllm.json").write_text("{}")
    else:
        description = described(tmp_path / "out") | {"format": 99}
        (tmp_path / "out" / "speechllm.json").write_text(json.dumps(description))
    with pytest.raises(ValueError, match="a later one" if damage == "later" else "is damaged or not whole"):
        SpeechLLM.load("out", device="cpu")


def test_wrong_input(saved, monkeypatch, tmp_path, capsys):
    monkeypatch.setattr("huggingface_hub.get_token", lambda: None)
    assert "There is no trained model at 'run'" in failing(["export", "run", "--to", "out"], capsys)
    saved()
    assert "'run' exists already" in failing(["export", "run", "--to", "run"], capsys)
    assert "there is nothing to merge" in failing(["export", "run", "--to", "out", "--merge"], capsys)
    assert "`--push` takes OWNER/NAME" in failing(["export", "run", "--to", "out", "--push", "small"], capsys)
    assert "There is no token" in failing(["export", "run", "--to", "out", "--push", "anna/small"], capsys)
    (tmp_path / "empty").mkdir()
    main(["export", "run", "--to", "empty", "--device", "cpu"])
    assert "is an exported model already" in failing(["export", "empty", "--to", "out"], capsys)
