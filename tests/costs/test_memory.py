"""Memory from sizes: what layers keep is what hooks on saved tensors count."""

import pytest
import torch
from torch.autograd.graph import saved_tensors_hooks

from speechllm.costs.memory import FRAGMENTATION, OVERHEAD_GIB, LLMSizes, Memory
from speechllm.lora import LoraOptions, inject_lora

WIDTH, INNER, HEADS, KEYS, LENGTH = 128, 448, 4, 1, 64


def kept_bytes(tuning, layers, family="llama"):
    """Return the bytes that the layers of an LLM keep of a position in bf16, weights left out."""
    from transformers import AutoConfig, AutoModelForCausalLM

    sizes = {"num_key_value_heads": KEYS} if family == "llama" else {}
    config = AutoConfig.for_model(
        family,
        hidden_size=WIDTH,
        intermediate_size=INNER,
        num_hidden_layers=layers,
        num_attention_heads=HEADS,
        vocab_size=50,
        **sizes,
    )
    llm = AutoModelForCausalLM.from_config(config).to(torch.bfloat16).train().requires_grad_(tuning == "full")
    if tuning == "lora":
        inject_lora(llm, LoraOptions())
    weights = {parameter.untyped_storage().data_ptr() for parameter in llm.parameters()}
    kept = {}

    def keep(tensor):
        if tensor.untyped_storage().data_ptr() not in weights:
            kept[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    embeds = torch.randn(1, LENGTH, WIDTH, dtype=torch.bfloat16, requires_grad=True)
    with saved_tensors_hooks(keep, lambda tensor: tensor), torch.autocast("cpu", torch.bfloat16):
        llm.base_model(inputs_embeds=embeds, use_cache=False)
    return sum(tensor.untyped_storage().nbytes() for tensor in kept.values()) / LENGTH


@pytest.mark.parametrize(
    ("family", "tuning", "tolerance"),
    [("llama", "frozen", 0.05), ("llama", "full", 0.1), ("llama", "lora", 0.1), ("gpt_neox", "frozen", 0.1)],
)
def test_what_a_layer_keeps(family, tuning, tolerance):
    one_layer = (kept_bytes(tuning, 4, family) - kept_bytes(tuning, 2, family)) / 2
    sizes = LLMSizes(
        layers=4,
        width=WIDTH,
        queries=WIDTH,
        keys=KEYS * WIDTH // HEADS if family == "llama" else WIDTH,
        inner=INNER,
        gated=family == "llama",
        vocabulary=50,
        lora_inputs=6 * WIDTH + INNER if tuning == "lora" else 0,
        full=tuning == "full",
    )
    assert sizes.kept_bytes(LENGTH) == pytest.approx(one_layer, rel=tolerance)
    assert sizes.activation_bytes(10, LENGTH) == pytest.approx(10 * 4 * sizes.kept_bytes(LENGTH))


def test_checkpointing_keeps_inputs_and_one_layer():
    sizes = LLMSizes(10, 64, 64, 64, 128, True, 50, checkpointed=1.0)
    assert sizes.activation_bytes(1, 8) == 10 * 2 * 64 + sizes.kept_bytes(8)
    half = LLMSizes(10, 64, 64, 64, 128, True, 50, checkpointed=0.5)
    assert half.activation_bytes(1, 8) == 5 * sizes.kept_bytes(8) + 5 * 2 * 64 + sizes.kept_bytes(8)


def test_cache_of_llama():
    """Llama 3.1 8B: 128 KiB a position."""
    assert LLMSizes(32, 4096, 4096, 1024, 14336, True, 128_256).cache_bytes(1) == 2**17


def test_sums():
    memory = Memory(10.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, decoding=100.0).with_overhead()
    assert memory.other == pytest.approx(OVERHEAD_GIB + FRAGMENTATION * 31)
    assert memory.total == pytest.approx(31 + memory.other)
    assert memory.with_overhead() == memory
