"""``speechllm merge``."""

import json

import pytest
import torch
import yaml
from safetensors import safe_open
from transformers import AutoModelForCausalLM, AutoTokenizer

from speechllm.cli import main
from speechllm.commands.merge import merge
from speechllm.errors import UserError
from speechllm.models import SpeechLLM
from speechllm.registry import ADAPTERS, DECODERS, ENCODERS
from tests.corpora.must_c import write_must_c
from tests.decoders.families import save_tokenizer
from tests.named import save_llm
from tests.tiny import LLM_FAMILIES, SIZES, make_batch, noise

SPECS = {
    "encoder": {"name": "whisper", **ENCODERS.get("whisper").tiny},
    "adapter": {"name": "conv", **ADAPTERS.get("conv").tiny, "dropout": 0.0},
    "decoder": {"name": "causal_lm", **DECODERS.get("causal_lm").tiny},
}
TOLERANCE = 1e-5
BFLOAT16_TOLERANCE = 3e-2
"""Of logits up to about 1: W + B A is rounded to bfloat16 once, where LoRA adds the two after rounding each product."""


@pytest.fixture
def adapted(tmp_path):
    """Return a function that saves a run whose LLM's LoRA is far from zero, as training leaves it."""

    def adapted(decoder, lora=None, **options):
        from lightning.pytorch import Trainer

        spec = {**decoder, "tuning": "lora", "lora": {"r": 2, **(lora or {})}} | options
        model = SpeechLLM(**{**SPECS, "decoder": spec})
        model.configure_model()
        with torch.no_grad():
            for name, parameter in model.decoder.named_parameters():
                if ".lora_" in name or name.startswith("new_tokens."):
                    parameter.normal_(std=0.1)
        trainer = Trainer(accelerator="cpu", logger=False, enable_checkpointing=False, default_root_dir=tmp_path)
        trainer.strategy.connect(model)
        trainer.save_checkpoint(tmp_path / "run" / "checkpoints" / "last.ckpt", weights_only=True)
        return model.eval(), tmp_path / "run"

    return adapted


def logits(model):
    with torch.no_grad():
        return model.decoder.llm(torch.arange(12)[None]).logits.float()


@pytest.mark.parametrize("tuning", ["lora", "qlora"])
@pytest.mark.parametrize("family", LLM_FAMILIES)
def test_a_merged_run_gives_the_same_logits_and_hypotheses(family, tuning, adapted, tmp_path, capsys):
    """Of every family, with both tables adapted, from random weights: also where they were one table before."""
    tables = ["embed_in", "lm_head"] if family == "gpt_neox" else ["embed_tokens", "lm_head"]
    layers = ["query_key_value"] if family == "gpt_neox" else ["q_proj", "up_proj"]
    decoder = {"name": "causal_lm", "config": {"model_type": family, **SIZES, **LLM_FAMILIES[family]}}
    model, run = adapted(decoder, {"targets": layers + tables}, tuning=tuning)
    merge(str(run), tmp_path / "merged")
    assert f"Merged LoRA of {2 * len(layers) + 2} layers" in capsys.readouterr().out
    loaded = SpeechLLM.load(tmp_path / "merged", device="cpu")
    assert loaded.decoder.tuning == "frozen"
    assert not any(".lora_" in key for key in loaded.state_dict())
    torch.testing.assert_close(logits(loaded), logits(model), rtol=0, atol=TOLERANCE)
    batch = make_batch(noise(8000, 12_345))
    assert loaded.decode(batch, 1) == model.decode(batch, 1)


@pytest.mark.parametrize("tuning", ["lora", "qlora"])
def test_merging_in_bfloat16_rounds(tuning, adapted, tmp_path):
    model, run = adapted(SPECS["decoder"], tuning=tuning, dtype="bfloat16")
    merge(str(run), tmp_path / "merged")
    loaded = SpeechLLM.load(tmp_path / "merged", device="cpu")
    assert loaded.decoder.llm.dtype == torch.bfloat16
    assert logits(model).abs().max() < 1
    torch.testing.assert_close(logits(loaded), logits(model), rtol=0, atol=BFLOAT16_TOLERANCE)


def test_other_programs_load_the_folder(adapted, tmp_path):
    """An ordinary Hugging Face folder: weights as safetensors, configuration and tokenizer."""
    model, run = adapted(SPECS["decoder"], tuning="qlora")
    merge(str(run), tmp_path / "merged")
    folder = tmp_path / "merged" / "llm"
    assert json.loads((folder / "config.json").read_text())["model_type"] == "llama"
    with safe_open(folder / "model.safetensors", "pt") as file:
        names = set(file.keys())
    plain = AutoModelForCausalLM.from_config(model.decoder.llm.config)
    assert names == set(plain.state_dict())
    llm = AutoModelForCausalLM.from_pretrained(folder).eval()
    with torch.no_grad():
        torch.testing.assert_close(llm(torch.arange(12)[None]).logits, logits(model), rtol=0, atol=TOLERANCE)
    assert AutoTokenizer.from_pretrained(folder)("hello")["input_ids"] == model.decoder.tokenizer("hello")["input_ids"]


@pytest.mark.parametrize("table", ["embed_tokens", "lm_head", None])
@pytest.mark.parametrize("family", ["llama", "gemma"])
def test_new_tokens_are_written_into_the_tables(family, table, adapted, tmp_path):
    """Rows trained by themselves, whether LoRA adapts one table, shared in Gemma, or none (spec §14.5)."""
    named = save_llm(tmp_path / "llm", family, tokenizer=save_tokenizer("llama_2", tmp_path / "tokenizer"))
    targets = ["q_proj", *([table] if table else [])]
    model, run = adapted(named, {"targets": targets}, prompt={"style": "joint"})
    assert list(model.decoder.new_tokens.parameters())
    merge(str(run), tmp_path / "merged")
    loaded = SpeechLLM.load(tmp_path / "merged", device="cpu")
    assert loaded.decoder.new_tokens is None
    assert len(loaded.decoder.tokenizer) == len(model.decoder.tokenizer)
    batch = make_batch(noise(8000, 12_345))
    batch.tasks = ["asr+st"] * 2
    with torch.no_grad():
        torch.testing.assert_close(loaded.losses(batch).llm, model.losses(batch).llm, rtol=1e-5, atol=0)


def test_a_run_is_trained_merged_and_tested_from_the_shell(tmp_path, monkeypatch, capsys):
    """QLoRA of the LLM and LoRA of the encoder on a CPU: fit, resume, test, merge, test again: the same predictions."""
    monkeypatch.chdir(tmp_path)
    write_must_c(tmp_path / "corpus")
    specs = {
        **SPECS,
        "encoder": {**SPECS["encoder"], "tuning": "lora", "lora": {"r": 2}},
        "decoder": {**SPECS["decoder"], "tuning": "qlora", "lora": {"r": 2, "alpha": 4, "targets": ["q_proj"]}},
        "lr": 1e-2,
        "max_new_tokens": 8,
    }
    recipe = {
        "model": {"class_path": "SpeechLLM", "init_args": specs},
        "data": {
            "class_path": "MustCDataModule",
            "init_args": {"root": "corpus", "tasks": ["asr+st"], "num_workers": 0, "num_buckets": 1},
        },
        "trainer": {"max_steps": 2, "accelerator": "cpu", "enable_progress_bar": False, "val_check_interval": 1},
    }
    (tmp_path / "tiny.yaml").write_text(yaml.safe_dump(recipe))
    main(["fit", "--config", "tiny.yaml"])
    main(["fit", "--config", "tiny.yaml", "--ckpt_path", "last", "--trainer.max_steps", "3"])
    main(["test", "--config", "tiny.yaml"])
    main(["merge", "runs/tiny", "--out", "merged"])
    assert "Merged LoRA of 2 layers" in capsys.readouterr().out
    main(["test", "--config", "merged/config.yaml"])
    before, after = (
        [json.loads(line)["text"] for line in (tmp_path / run / "test" / "predictions.jsonl").read_text().splitlines()]
        for run in ("runs/tiny", "merged")
    )
    assert before == after
    assert len(before) > 1


@pytest.mark.parametrize("tuning", ["full", "frozen"])
def test_without_lora(tuning, adapted, tmp_path):
    """A fully trained LLM is written as it is; a frozen one is where it was."""
    model, run = adapted(SPECS["decoder"])
    path = run / "checkpoints" / "last.ckpt"
    checkpoint = torch.load(path, weights_only=True)
    checkpoint["hyper_parameters"]["decoder"] = {**SPECS["decoder"], "tuning": tuning}
    state = {key: value for key, value in checkpoint["state_dict"].items() if ".lora_" not in key}
    checkpoint["state_dict"] = {key.replace(".base_layer.", "."): value for key, value in state.items()}
    torch.save(checkpoint, path)
    if tuning == "frozen":
        with pytest.raises(UserError, match="was frozen in training: there is nothing to merge"):
            merge(str(run), tmp_path / "merged")
    else:
        merge(str(run), tmp_path / "merged")
        loaded = SpeechLLM.load(tmp_path / "merged", device="cpu")
        assert torch.equal(logits(loaded), logits(SpeechLLM.load(run, device="cpu")))
        assert not torch.equal(logits(loaded), logits(model))


def test_nothing_is_written_over(adapted, tmp_path):
    _, run = adapted(SPECS["decoder"])
    with pytest.raises(UserError, match=r"run' exists already\. Name a new folder with `--out`"):
        merge(str(run), run)
    with pytest.raises(UserError, match="There is no trained model at"):
        merge(str(tmp_path / "none"), tmp_path / "merged")
