"""Layers computed again or compiled: the same losses and gradients, under the same names, in less memory."""

import copy
import shutil
from collections import Counter

import pytest
import torch

from speechllm.decoders.layers import find_layers, parse_checkpoint_layers
from speechllm.errors import UserError
from tests.decoders.test_packing import assert_same, batch, speech, step
from tests.tiny import LLM_FAMILIES, tiny_decoder

COMPILE = torch.compile


def saved_bytes(decoder):
    """Return the bytes that the forward pass keeps for the backward pass."""
    sizes = {}

    def keep(tensor):
        sizes[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        losses = decoder(speech(), batch()).losses
    del losses
    return sum(sizes.values())


@pytest.mark.parametrize("tuning", ["frozen", "full", "lora"])
@pytest.mark.parametrize("packing", [False, True])
@pytest.mark.parametrize("family", LLM_FAMILIES)
def test_layers_computed_again_change_nothing(family, packing, tuning):
    lora = {"lora": {"dropout": 0.0}} if tuning == "lora" else {}
    options = {"tuning": tuning, "packing": packing, **lora}
    plain = tiny_decoder(family, **options)
    for which in ("all", 2):
        again = tiny_decoder(family, checkpoint_layers=which, **options)
        assert list(again.state_dict()) == list(plain.state_dict())
        assert [name for name, _ in again.named_modules()] == [name for name, _ in plain.named_modules()]
        again.load_state_dict(plain.state_dict())
        counts = Counter()
        for index, layer in enumerate(find_layers(again.llm)):
            layer.mlp.register_forward_pre_hook(lambda *_, index=index, counts=counts: counts.update([index]))
        assert_same(step(again.train()), step(plain.train()))
        assert counts == ({0: 2, 1: 2} if which == "all" else {0: 2, 1: 1})


def test_dropout_is_the_same_when_a_layer_is_computed_again():
    results = []
    for which in ("none", "all"):
        torch.manual_seed(0)
        decoder = tiny_decoder(tuning="lora", lora={"dropout": 0.5}, checkpoint_layers=which)
        for name, parameter in decoder.named_parameters():
            if "lora_B" in name:
                torch.nn.init.normal_(parameter)
        torch.manual_seed(1)
        results.append(step(decoder.train()))
    assert_same(results[1], results[0])


def test_fewer_bytes_are_kept():
    kept = [saved_bytes(tiny_decoder(checkpoint_layers=which)) for which in ("none", 2, "all")]
    assert kept[2] < 0.75 * kept[1] < 0.75 * kept[0]


def test_a_prepared_decoder_is_copied_and_generates():
    decoder = tiny_decoder(checkpoint_layers="all")
    assert_same(step(copy.deepcopy(decoder)), step(decoder))


def test_the_meta_device():
    decoder = tiny_decoder(tuning="full", checkpoint_layers="all").to("meta").train()
    values = torch.zeros(3, 23, 16, device="meta", requires_grad=True)
    given = speech()
    given.values = values
    decoder(given, batch()).losses.sum().backward()
    assert values.grad is not None


def assert_compiled_is_the_same(family, **options):
    """Compare two steps of different lengths, and the names of what a checkpoint holds."""
    torch.compiler.reset()
    torch.manual_seed(0)
    plain = tiny_decoder(family, tuning="full", packing=options["packing"])
    compiled = tiny_decoder(family, tuning="full", compile=True, **options)
    assert list(compiled.state_dict()) == list(plain.state_dict())
    compiled.load_state_dict(plain.state_dict())
    assert_same(step(compiled), step(plain))
    shorter, given = batch().select([2, 0]), speech(requires_grad=False)
    given = given.select([2, 0])
    torch.testing.assert_close(compiled(given, shorter).losses, plain(given, shorter).losses)


@pytest.mark.parametrize(
    ("family", "packing", "which"),
    [("llama", False, "none"), ("gemma2", True, "all")],
)
def test_compiled_layers(family, packing, which, monkeypatch):
    """With the graphs that are compiled run as they are, which takes no compiler."""
    compiled = []

    def compile_eager(function, **options):
        compiled.append(function)
        return COMPILE(function, backend="eager", **options)

    monkeypatch.setattr("torch.compile", compile_eager)
    monkeypatch.setattr("speechllm.decoders.layers._classes", {})
    assert_compiled_is_the_same(family, packing=packing, checkpoint_layers=which)
    assert compiled, "nothing was"


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile on a CPU needs a C++ compiler")
def test_compiled_layers_in_earnest():
    assert_compiled_is_the_same("llama", packing=True, checkpoint_layers="all")


@pytest.mark.parametrize("given", ["some", 0, -1, 1.5, True])
def test_wrong_layers(given):
    with pytest.raises(UserError, match="`checkpoint_layers` must be none, all, or a number"):
        parse_checkpoint_layers(given)
