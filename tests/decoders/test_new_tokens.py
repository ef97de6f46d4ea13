"""Tokens that a prompt adds to a checkpoint's vocabulary: trained whatever the tuning, and nothing else with them."""

import copy

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

import speechllm.adapters
import speechllm.encoders  # noqa: F401
from speechllm.batch import AdapterOutput
from speechllm.decoders.base import Decoding
from speechllm.decoders.causal_lm import CausalLM
from speechllm.decoders.tokenizer import load_tokenizer
from speechllm.lora import merge_lora
from speechllm.models import SpeechLLM
from speechllm.registry import ADAPTERS, ENCODERS
from tests.decoders.families import MODELS, save_tokenizer
from tests.tiny import LLM_FAMILIES, SIZES, make_batch, noise

ATTENTION = {"r": 2, "dropout": 0.0, "targets": ["q_proj", "v_proj"]}
TUNINGS = {
    "frozen": {"tuning": "frozen"},
    "lora": {"tuning": "lora", "lora": ATTENTION},
    "lora_embeddings": {"tuning": "lora", "lora": {**ATTENTION, "targets": ["q_proj", "embed_tokens", "lm_head"]}},
    "lora_input": {"tuning": "lora", "lora": {**ATTENTION, "targets": ["q_proj", "embed_tokens"]}},
    "lora_output": {"tuning": "lora", "lora": {**ATTENTION, "targets": ["q_proj", "lm_head"]}},
    "qlora": {"tuning": "qlora", "lora": ATTENTION},
    "full": {"tuning": "full"},
}
CHECKPOINTS = {"llama_2": False, "gemma": True}
"""Tokenizers, and whether input and output share one table."""
NEW = slice(-3, None)


@pytest.fixture
def checkpoint(tmp_path):
    """Return a function that saves a family's checkpoint in the real format and returns its folder."""

    def save(family, vocab_size=None):
        folder = save_tokenizer(family, tmp_path / family)
        model_type, tokenizer = MODELS[family], load_tokenizer(folder)
        config = AutoConfig.for_model(
            model_type,
            **{**SIZES, "hidden_size": 64, "intermediate_size": 64},
            **LLM_FAMILIES[model_type],
            vocab_size=vocab_size or len(tokenizer),
            tie_word_embeddings=CHECKPOINTS.get(family, False),
            eos_token_id=tokenizer.eos_token_id,
            initializer_range=0.3,
        )
        AutoModelForCausalLM.from_config(config).save_pretrained(folder)
        return folder

    return save


@pytest.fixture
def build(checkpoint):
    """Return a function that builds a family's decoder with paper B's prompt."""
    return lambda family, **tuning: CausalLM(checkpoint(family), prompt={"style": "joint"}, **tuning).eval()


def texts():
    batch = make_batch(noise(8000, 16_000, 4000))
    batch.tasks = ["asr+st"] * 3
    batch.transcripts, batch.translations = ["good day", "you", "good"], ["guten Tag", "Tag", "guten"]
    return batch


def speech():
    generator = torch.Generator().manual_seed(3)
    return AdapterOutput(torch.randn(3, 7, 64, generator=generator), torch.tensor([3, 7, 1]))


def trained(decoder):
    return {name: parameter for name, parameter in decoder.named_parameters() if parameter.requires_grad}


@pytest.mark.parametrize("family", CHECKPOINTS)
def test_new_rows_are_the_mean_of_the_old_ones(family, build):
    """Old tokens keep their logits, new ones get the old ones' mean; no noise: loaded again, the rows are the same."""
    decoder = build(family)
    old = AutoModelForCausalLM.from_pretrained(decoder.pretrained)
    mean = old.get_input_embeddings().weight.mean(dim=0)
    ids = decoder.prompt.new_ids
    scale = 8.0 if family == "gemma" else 1.0  # √64
    torch.testing.assert_close(decoder.llm.get_input_embeddings()(torch.tensor(ids)), (mean * scale).expand(3, -1))
    hidden = torch.randn(5, 64)
    logits = decoder.llm.get_output_embeddings()(hidden)
    old_logits = old.get_output_embeddings()(hidden)
    torch.testing.assert_close(logits[:, : ids[0]], old_logits)
    torch.testing.assert_close(logits[:, ids], old_logits.mean(dim=1, keepdim=True).expand(-1, 3))
    again = CausalLM(pretrained=decoder.pretrained, prompt={"style": "joint"})
    for key, value in decoder.state_dict().items():
        assert torch.equal(value, again.state_dict()[key]), key


@pytest.mark.parametrize("family", CHECKPOINTS)
def test_frozen_llm_trains_the_new_rows_alone(family, build):
    decoder = build(family)
    expected = {"new_tokens.input"} if CHECKPOINTS[family] else {"new_tokens.input", "new_tokens.output"}
    assert set(trained(decoder)) == expected
    assert all(parameter.shape == (3, 64) for parameter in trained(decoder).values())
    before = copy.deepcopy(decoder.state_dict())
    optimizer = torch.optim.AdamW(trained(decoder).values(), lr=0.05)
    losses = []
    for _ in range(20):
        optimizer.zero_grad()
        loss = decoder(speech(), texts()).losses.sum()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.9 * losses[0]
    for key, value in decoder.state_dict().items():
        assert torch.equal(value, before[key]) == (key not in expected), key


@pytest.mark.parametrize("family", CHECKPOINTS)
def test_gradients_are_those_of_the_rows_of_a_table_that_is_trained_whole(family, build):
    frozen = build(family)
    full = CausalLM(pretrained=frozen.pretrained, prompt={"style": "joint"}, tuning="full").eval()
    assert set(full.state_dict()) == {key for key in frozen.state_dict() if not key.startswith("new_tokens")}
    for decoder in (frozen, full):
        decoder(speech(), texts()).losses.sum().backward()
    tables = (full.llm.get_input_embeddings().weight, full.llm.get_output_embeddings().weight)
    torch.testing.assert_close(frozen.new_tokens.input.grad, tables[0].grad[NEW], rtol=1e-4, atol=1e-5)
    assert frozen.new_tokens.input.grad.abs().sum(dim=1).min() > 0
    if not CHECKPOINTS[family]:
        torch.testing.assert_close(frozen.new_tokens.output.grad, tables[1].grad[NEW], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("tuning", TUNINGS)
@pytest.mark.parametrize("family", CHECKPOINTS)
def test_every_tuning_trains_the_new_tokens_once(family, tuning, build):
    """Whatever is trained: the same start, a gradient for the new rows on both sides, and no table of another size."""
    decoder = build(family, **TUNINGS[tuning])
    reference = CausalLM(pretrained=decoder.pretrained, prompt={"style": "joint"}).eval()
    if tuning != "qlora":  # four bits change the linear layers
        torch.testing.assert_close(decoder(speech(), texts()).losses, reference(speech(), texts()).losses)
    rows = {name for name in trained(decoder) if name.startswith("new_tokens")}
    sides = {
        "frozen": {"input", "output"},
        "lora": {"input", "output"},
        "lora_embeddings": set(),
        "lora_input": {"input"} if CHECKPOINTS[family] else {"output"},
        "lora_output": {"input"},
        "qlora": {"input", "output"},
        "full": set(),
    }[tuning]
    if CHECKPOINTS[family]:
        sides -= {"output"}
    assert rows == {f"new_tokens.{side}" for side in sides}
    decoder.train()
    for parameter in trained(decoder).values():  # away from the start, where LoRA's B is zero and A has no gradient
        parameter.data += 0.01 * torch.randn_like(parameter)
    decoder(speech(), texts()).losses.sum().backward()
    for name, parameter in trained(decoder).items():
        assert parameter.grad.abs().sum() > 0, name
    assert decoder.dim == 64
    assert decoder.llm.get_input_embeddings().weight.shape[0] == decoder.vocab_size == decoder.prompt.new_ids[-1] + 1


@pytest.mark.parametrize("tuning", TUNINGS)
@pytest.mark.parametrize("family", CHECKPOINTS)
def test_trained_rows_survive_a_checkpoint_and_merging(family, tuning, build, tmp_path):
    """A checkpoint restores them; merging LoRA keeps the keys; moved back, a plain Hugging Face model says the same."""
    tiny = {
        "encoder": {"name": "whisper", **ENCODERS.get("whisper").tiny},
        "adapter": {"name": "mlp", **ADAPTERS.get("mlp").tiny},
    }
    folder = build(family).pretrained
    spec = {"name": "causal_lm", "pretrained": folder, "prompt": {"style": "joint"}, **TUNINGS[tuning]}
    model = SpeechLLM(**tiny, decoder=spec)
    model.configure_model()
    for parameter in trained(model).values():
        parameter.data += 0.05 * torch.randn_like(parameter)
    saved = {"state_dict": model.state_dict(), "hyper_parameters": dict(model.hparams)}
    model.on_save_checkpoint(saved)
    rows = {key for key in model.state_dict() if key.startswith("decoder.new_tokens")}
    assert rows <= set(saved["state_dict"])
    if tuning == "frozen":
        assert {key for key in saved["state_dict"] if key.startswith("decoder")} == rows
    torch.save(saved, tmp_path / "last.ckpt")
    loaded = SpeechLLM.load(tmp_path / "last.ckpt", device="cpu").decoder
    decoder = model.decoder.eval()
    given, asked = speech(), Decoding(max_new_tokens=12, min_new_tokens=3)
    with torch.no_grad():
        expected, hypotheses = decoder(given, texts()).losses, decoder.generate(given, texts(), asked)
        assert torch.equal(loaded(given, texts()).losses, expected)
        merge_lora(loaded)
        assert {f"decoder.{key}" for key in loaded.state_dict() if key.startswith("new_tokens")} == rows
        torch.testing.assert_close(loaded(given, texts()).losses, expected, rtol=1e-4, atol=1e-4)
        loaded.new_tokens.move_back(loaded.llm)
        torch.testing.assert_close(loaded(given, texts()).losses, expected, rtol=1e-4, atol=1e-4)
        assert loaded.generate(given, texts(), asked) == hypotheses
        if not (CHECKPOINTS[family] and tuning.startswith("lora_")):  # merging gives tied tables weights of their own
            loaded.llm.save_pretrained(tmp_path / "merged")
            loaded.tokenizer.save_pretrained(tmp_path / "merged")
            plain = CausalLM(pretrained=str(tmp_path / "merged"), prompt={"style": "joint"}).eval()
            assert plain.new_tokens is None
            torch.testing.assert_close(plain(given, texts()).losses, expected, rtol=1e-4, atol=1e-4)


def test_a_table_larger_than_the_vocabulary_keeps_its_size(checkpoint):
    """Qwen's has rows to spare, of no meaning: their content must not reach the new tokens."""
    folder = checkpoint("qwen_25", vocab_size=340)
    decoder = CausalLM(pretrained=folder, prompt={"style": "joint"}).eval()
    table = AutoModelForCausalLM.from_pretrained(folder).get_input_embeddings().weight
    assert decoder.prompt.new_ids == [318, 319, 320]
    embed = decoder.llm.get_input_embeddings()
    assert embed.weight.shape[0] == 340
    torch.testing.assert_close(embed(torch.tensor([320])), table[:318].mean(dim=0, keepdim=True))
    assert torch.equal(embed(torch.tensor([321, 317])), table[[321, 317]])


def test_rows_of_a_half_precision_llm_are_trained_in_float32(checkpoint):
    """Steps of a usual size would be lost in bfloat16."""
    decoder = CausalLM(pretrained=checkpoint("gemma"), prompt={"style": "joint"}, dtype="bfloat16").eval()
    assert decoder.new_tokens.input.dtype == torch.float32
    output = decoder(speech(), texts())
    output.losses.sum().backward()
    assert output.losses.isfinite().all()
    assert decoder.new_tokens.input.grad.abs().sum() > 0
    with torch.autocast("cpu", torch.bfloat16):
        plain = CausalLM(pretrained=decoder.pretrained, prompt={"style": "joint"}).eval()
        torch.testing.assert_close(plain(speech(), texts()).losses, output.losses, rtol=0.05, atol=0.5)


def test_a_copy_has_rows_of_its_own(build):
    decoder = build("gemma")
    copied = copy.deepcopy(decoder)
    expected = decoder(speech(), texts()).losses
    decoder.new_tokens.input.data.zero_()
    torch.testing.assert_close(copied(speech(), texts()).losses, expected)
    assert (decoder(speech(), texts()).losses - expected).abs().max() > 1e-3


def test_no_new_tokens_no_rows(checkpoint):
    decoder = CausalLM(pretrained=checkpoint("llama_2"), prompt={"style": "plain"})
    assert decoder.new_tokens is None
    assert not trained(decoder)
