"""Packed sequences against padded ones, what attends where, and a step that asks the device for nothing."""

import sys
from itertools import pairwise

import pytest
import torch

from speechllm.batch import AdapterOutput
from speechllm.decoders.attention import Layout, attend
from speechllm.decoders.packing import Kernel, choose_kernel, compute_dtype
from speechllm.errors import UserError
from tests.tiny import LLM_FAMILIES, make_batch, noise, tiny_decoder

CPU = torch.device("cpu")
LENGTHS = [5, 23, 2]
MORE_FAMILIES = {"cohere": {"num_key_value_heads": 1}, "granite": {"num_key_value_heads": 1}}


def speech(requires_grad=True):
    torch.manual_seed(0)
    values = torch.randn(3, max(LENGTHS), 16)
    return AdapterOutput(values.requires_grad_(requires_grad), torch.tensor(LENGTHS))


def batch():
    return make_batch(noise(8000, 16_000, 4000))


def step(decoder):
    """Return losses and every gradient of a step."""
    given = speech()
    output = decoder(given, batch())
    (output.losses * torch.tensor([1.0, 0.3, 2.0])).sum().backward()
    gradients = {key: p.grad for key, p in decoder.named_parameters() if p.grad is not None}
    decoder.zero_grad()
    return {"losses": output.losses.detach(), "speech": given.values.grad, **gradients}


def assert_same(got, expected):
    assert set(got) == set(expected)
    for key, value in expected.items():
        torch.testing.assert_close(got[key], value, rtol=1e-4, atol=1e-5 * float(value.abs().max()), msg=key)


def build(monkeypatch, family, **options):
    monkeypatch.setitem(LLM_FAMILIES, family, {**LLM_FAMILIES, **MORE_FAMILIES}[family])
    torch.manual_seed(0)
    return tiny_decoder(family, **options)


@pytest.mark.parametrize("tuning", ["frozen", "full", "lora"])
@pytest.mark.parametrize("family", [*LLM_FAMILIES, *MORE_FAMILIES])
def test_losses_and_gradients_are_those_of_padded_sequences(family, tuning, monkeypatch):
    lora = {"lora": {"dropout": 0.0}} if tuning == "lora" else {}
    padded = build(monkeypatch, family, tuning=tuning, packing=False, **lora)
    packed = build(monkeypatch, family, tuning=tuning, packing=True, **lora)
    packed.load_state_dict(padded.state_dict())
    expected, shapes = step(padded), []
    packed.llm.base_model.layers[0].register_forward_pre_hook(lambda _, inputs: shapes.append(inputs[0].shape))
    assert_same(step(packed), expected)
    assert shapes[0][0] == 1, "one row"


@pytest.mark.parametrize("family", LLM_FAMILIES)
@pytest.mark.parametrize("packed", [False, True])
def test_flex_attention(family, packed, monkeypatch):
    """Uncompiled and forward alone, which is what it can do on a CPU; masks and soft caps are those of a GPU."""
    expected = step(build(monkeypatch, family, packing=False))["losses"]
    decoder = build(monkeypatch, family, packing=packed, attn_implementation="flex_attention")
    with torch.no_grad():
        assert_same({"losses": decoder(speech(), batch()).losses}, {"losses": expected})
    with pytest.raises(UserError, match="`attn_implementation: flex_attention` trains on a GPU only"):
        step(decoder)


@pytest.mark.parametrize("family", LLM_FAMILIES)
def test_transformers_own_attention_gives_the_same(family, monkeypatch):
    """Its masks are made from the padding, by other code, windows and all."""
    ours = build(monkeypatch, family, tuning="full", packing=True)
    monkeypatch.setattr("speechllm.decoders.causal_lm.install", lambda llm: False)
    theirs = build(monkeypatch, family, tuning="full")
    kernel = theirs.kernel(CPU)
    assert (kernel.name, kernel.packed) == ("eager" if family == "gemma2" else "sdpa", False)
    assert_same(step(ours), step(theirs))


@pytest.mark.parametrize("packing", [False, True])
def test_windows_matter_here(packing, monkeypatch):
    """Otherwise the tests above would hold with no window at all."""
    decoder = build(monkeypatch, "mistral", packing=packing)
    narrow = step(decoder)["losses"]
    decoder.llm.config.sliding_window = None
    assert (step(decoder)["losses"] - narrow).abs().min() > 1e-4


@pytest.mark.parametrize("kernel", ["varlen", "flash_attention_2"])
def test_boundaries_of_kernels_that_need_a_gpu(kernel, monkeypatch):
    """What is handed to the kernel: rows without padding, where they begin, and a window that counts the position."""
    calls = []

    def varlen(query, key, value, first, _, longest, __, **options):
        calls.append((query.shape, key.shape, first.tolist(), longest, options["window_size"]))
        return torch.zeros_like(query)

    monkeypatch.setattr("torch.nn.attention.varlen.varlen_attn", varlen)
    flash = type("flash_attn", (), {"flash_attn_varlen_func": staticmethod(varlen)})
    monkeypatch.setitem(sys.modules, "flash_attn", flash)
    layout = Layout.of(kernel, [3, 5, 1], True, torch.device("cpu"))
    query, key = torch.randn(1, 4, 9, 8), torch.randn(1, 2, 9, 8)
    for window, expected in ((None, -1), (4, 3), (5, -1)):
        attended, _ = attend(torch.nn.Module(), query, key, key, None, layout, sliding_window=window)
        assert attended.shape == (1, 9, 4, 8)
        heads = 4 if kernel == "varlen" else 2
        assert calls[-1] == ((9, 4, 8), (9, heads, 8), [0, 3, 8, 9], 5, (expected, 0))


def attend_each(query, key, value, first, _, longest, __, **options):
    """Do what the kernels of a GPU do: (P, A, D) rows, sequence by sequence, in the plainest way."""
    scale, (left, right) = options.get("scale", options.get("softmax_scale")), options["window_size"]
    assert right == 0
    heads, parts = query.shape[1], []
    key, value = (rows.repeat_interleave(heads // rows.shape[1], dim=1) for rows in (key, value))
    for start, end in pairwise(first.tolist()):
        assert end - start <= longest
        scores = torch.einsum("qhd,khd->hqk", query[start:end], key[start:end]) * scale
        if cap := options.get("softcap"):
            scores = torch.tanh(scores / cap) * cap
        places = torch.arange(end - start)
        distance = places[:, None] - places
        seen = (distance >= 0) & ((distance <= left) | (left < 0))
        weights = scores.masked_fill(~seen, -torch.inf).softmax(dim=-1)
        parts.append(torch.einsum("hqk,khd->qhd", weights, value[start:end]))
    return torch.cat(parts)


@pytest.mark.parametrize(
    ("family", "kernel"),  # varlen knows no soft caps, and is not chosen for them
    [(f, k) for f in LLM_FAMILIES for k in ("varlen", "flash_attention_2") if (f, k) != ("gemma2", "varlen")],
)
def test_a_step_by_kernels_that_need_a_gpu(family, kernel, monkeypatch):
    """All of it but the kernel itself, in whose place stands plain attention of the same arguments."""
    expected = step(build(monkeypatch, family, tuning="full", packing=False))
    monkeypatch.setattr("torch.nn.attention.varlen.varlen_attn", attend_each)
    flash = type("flash_attn", (), {"flash_attn_varlen_func": staticmethod(attend_each)})
    monkeypatch.setitem(sys.modules, "flash_attn", flash)
    monkeypatch.setattr("speechllm.decoders.causal_lm.choose_kernel", lambda *_: Kernel(kernel, True))
    decoder = build(monkeypatch, family, tuning="full")
    assert_same(step(decoder), expected)
    decoder.check_output_layer()


def test_what_is_chosen(monkeypatch):
    cpu, gpu = CPU, torch.device("cuda")
    half, single = torch.bfloat16, torch.float32
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: (9, 0))
    monkeypatch.setattr("speechllm.decoders.packing.has_flash_attention", lambda: False)

    def chosen(asked, packing, soft_capped, dropout, device, dtype, head_width=128):
        kernel = choose_kernel(asked, packing, soft_capped, dropout, head_width, device, dtype)
        return kernel.name, kernel.packed

    assert chosen(None, "auto", False, 0.0, cpu, half) == ("sdpa", False)
    assert chosen(None, "auto", True, 0.0, cpu, half) == ("eager", False)
    assert chosen(None, True, False, 0.0, cpu, single) == ("sdpa", True)
    assert chosen(None, "auto", False, 0.0, gpu, half) == ("varlen", True)
    assert chosen(None, "auto", False, 0.0, gpu, half, head_width=80) == ("varlen", True)
    assert chosen(None, "auto", False, 0.0, gpu, half, head_width=84) == ("sdpa", False)
    assert chosen(None, "auto", False, 0.0, gpu, half, head_width=512) == ("sdpa", False)
    assert chosen(None, "auto", True, 0.0, gpu, half) == ("flex_attention", True)
    assert chosen(None, "auto", False, 0.1, gpu, half) == ("sdpa", False)
    assert chosen(None, "auto", False, 0.0, gpu, single) == ("sdpa", False)
    assert chosen(None, False, False, 0.0, gpu, half) == ("sdpa", False)
    assert chosen("sdpa", "auto", False, 0.0, gpu, half) == ("sdpa", False)
    assert chosen("flex_attention", "auto", False, 0.0, gpu, single) == ("flex_attention", True)
    assert chosen("varlen", "auto", False, 0.0, gpu, half) == ("varlen", True)
    monkeypatch.setattr("speechllm.decoders.packing.has_flash_attention", lambda: True)
    assert chosen(None, "auto", True, 0.0, gpu, half) == ("flash_attention_2", True)
    assert chosen(None, "auto", False, 0.1, gpu, half) == ("flash_attention_2", True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: (7, 5))
    assert chosen(None, "auto", False, 0.0, gpu, torch.float16) == ("sdpa", False)


def test_what_is_reported():
    decoder = tiny_decoder()
    assert str(decoder.kernel(CPU)) == "sdpa; sequences padded (packing needs a GPU)"
    assert str(tiny_decoder("gemma2", packing=True).kernel(CPU)) == (
        "eager; sequences packed (one sequence at a time: packing needs a GPU)"
    )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"packing": "yes"}, "`packing` must be auto, true or false, but is 'yes'"),
        ({"packing": False, "attn_implementation": "varlen"}, "`attn_implementation: varlen` is for packed sequences"),
        ({"attn_implementation": "flash_attention_2"}, "needs the package flash-attn, which is not installed"),
    ],
)
def test_wrong_options(options, message, monkeypatch):
    monkeypatch.setattr("speechllm.decoders.packing.has_flash_attention", lambda: False)
    with pytest.raises(UserError, match=message):
        tiny_decoder(**options)


@pytest.mark.parametrize("tuning", ["frozen", "full", "lora"])
@pytest.mark.parametrize("packing", [False, True])
@pytest.mark.parametrize("family", LLM_FAMILIES)
def test_a_step_never_looks_at_what_is_on_the_device(family, packing, tuning):
    """On the meta device there is nothing to look at: whatever asked a GPU for a value would raise here."""
    lora = {"lora": {"dropout": 0.0}} if tuning == "lora" else {}
    decoder = tiny_decoder(family, tuning=tuning, packing=packing, target_weights={"transcript": 2.0}, **lora)
    decoder = decoder.to("meta").train()
    values = torch.zeros(3, max(LENGTHS), 16, device="meta", requires_grad=True)
    output = decoder(AdapterOutput(values, torch.tensor(LENGTHS)), batch())
    assert output.losses.device.type == output.target_lengths.device.type == "meta"
    assert {name for name, value in output.stats.items() if value.device.type == "cpu"} == {
        "llm_positions",
        "speech_positions",
        "truncated_targets",
    }
    output.losses.sum().backward()
    assert values.grad is not None
    with pytest.raises((RuntimeError, NotImplementedError)):
        output.losses.sum().item()


def test_autocast_counts():
    """A GPU packs what is computed in half precision, also of weights that are not."""
    with torch.autocast("cpu", torch.bfloat16):
        assert compute_dtype(CPU, torch.float32) == torch.bfloat16
    assert compute_dtype(CPU, torch.float16) == torch.float16
    assert compute_dtype(torch.device("meta"), torch.float32) == torch.float32


@pytest.mark.parametrize("family", ["llama", "gemma2"])
def test_generation_is_one_graph(family):
    """With no layout, attention is that of transformers, and compiles as a whole."""
    decoder = tiny_decoder(family)
    ids, mask = torch.arange(8).view(2, 4), torch.tensor([[0, 1, 1, 1], [1, 1, 1, 1]])
    expected = decoder.llm(input_ids=ids, attention_mask=mask, use_cache=False).logits
    torch.compiler.reset()
    compiled = torch.compile(decoder.llm, backend="eager", fullgraph=True)
    torch.testing.assert_close(compiled(input_ids=ids, attention_mask=mask, use_cache=False).logits, expected)
