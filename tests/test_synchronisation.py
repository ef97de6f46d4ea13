"""No step asks the GPU for anything, but the CTC adapters once, for the number of their runs."""

import pytest
import torch

import speechllm.adapters
import speechllm.encoders  # noqa: F401
from speechllm.batch import to_host
from speechllm.registry import ADAPTERS, ENCODERS, FUSIONS
from tests.synchronisation import Synchronisations, lengths_on_the_cpu, without_data
from tests.tiny import fits, make_batch, noise, tiny_adapter, tiny_encoder, tiny_encoder_for, tiny_pairs

ASKS_ONCE = {"ctc", "ctc_collapse", "bridge_ctc"}
"""Adapters whose lengths depend on the content of the frames."""
LENGTHS = (16_000, 9_000, 12_345)
TARGETS = [torch.tensor(ids) for ids in ([5, 6, 6, 7], [], [8])]


def trained(encoder, **options):
    """Return an encoder whose every path of training is taken: not frozen, with masks over what it hears."""
    if encoder == "parallel":
        return tiny_encoder(encoder, **options)
    return tiny_encoder(encoder, tuning="full", spec_augment={}, **options)


def step(encoder, adapter, batch, targets=TARGETS):
    frames = encoder(batch.audio, batch.audio_lengths)
    speech = adapter(frames, targets)
    (speech.values.square().sum() + sum(loss.sum() for loss in speech.losses.values())).backward()
    lengths_on_the_cpu(frames, speech)
    return speech


def waits(encoder, adapter, batch, **options):
    """Return what a training step of both waits for."""
    tensors = [batch.audio]
    for module in (encoder, adapter):
        module.train()
        tensors += [*module.parameters(), *module.buffers()]
    with Synchronisations(tensors) as seen:
        step(encoder, adapter, batch, **options)
    return seen.found


# The counter itself.


@pytest.mark.parametrize(
    ("wait", "found"),
    [
        (lambda x: int(x.sum()), ["_local_scalar_dense"]),
        (lambda x: bool((x > 0).any()), ["_local_scalar_dense"]),
        (lambda x: (2 * x).tolist(), ["tolist"]),
        (lambda x: x[x > 0], ["index"]),
        (lambda x: x[[0, 2]], ["index"]),
        (lambda x: x[x.argsort()], []),
        (lambda x: (x > 0).nonzero(), ["nonzero"]),
        (lambda x: torch.equal(x, x), ["equal"]),
        (lambda x: x.cpu(), ["cpu"]),
        (lambda x: torch.tensor([1, 2]).repeat_interleave(x[:2].long()), ["repeat_interleave"]),
        (lambda x: x.sum().item() + int(torch.tensor([3]).max()), ["_local_scalar_dense"]),
        (lambda x: x * x.max() + torch.arange(4), []),
        (lambda x: torch.tensor([3, 4]).tolist(), []),
    ],
)
def test_what_is_counted(wait, found):
    values = torch.rand(4)
    with Synchronisations([values]) as seen:
        wait(values)
    assert seen.found == found


def test_what_is_copied_to_the_cpu_in_the_open_is_counted_and_then_free():
    import speechllm.adapters.runs as runs

    values = torch.rand(4)
    with Synchronisations([values]) as seen:
        int(runs.to_host(values * 2).max())
    assert seen.found == ["to_host"]
    assert runs.to_host is to_host


# Training steps.


@pytest.mark.parametrize(("encoder", "adapter"), tiny_pairs())
def test_a_training_step_runs_without_data(encoder, adapter, monkeypatch):
    """On the ``meta`` device, where looking at data and mixing devices raise."""
    made_up = without_data(monkeypatch)
    options = {"ctc_head": True} if not fits("whisper", adapter) else {}
    encoder = trained(encoder, **options)
    adapter = tiny_adapter(adapter, encoder.dim, 8)
    asks = type(adapter) in [ADAPTERS.get(name) for name in ASKS_ONCE]
    for module in (encoder, adapter):
        module.to("meta").train()
    speech = step(encoder, adapter, make_batch(noise(*LENGTHS)).to("meta"))
    assert speech.values.device.type == "meta"
    assert len(made_up) == asks


@pytest.mark.parametrize("fusion", FUSIONS.names())
def test_fusions_run_without_data(fusion):
    encoder = tiny_encoder("parallel", fusion={"name": fusion, **FUSIONS.get(fusion).tiny})
    adapter = tiny_adapter("conv", encoder.dim, 8)
    for module in (encoder, adapter):
        module.to("meta").train()
    step(encoder, adapter, make_batch(noise(*LENGTHS)).to("meta"))


@pytest.mark.parametrize("adapter", ADAPTERS.names())
def test_a_training_step_waits_for_nothing(adapter):
    encoder = tiny_encoder_for(adapter, "whisper" if fits("whisper", adapter) else "hubert")
    expected = ["to_host"] if adapter in ASKS_ONCE else []
    assert waits(encoder, tiny_adapter(adapter, encoder.dim, 8), make_batch(noise(*LENGTHS))) == expected


@pytest.mark.parametrize("encoder", ENCODERS.names())
def test_encoders_wait_for_nothing(encoder):
    encoder = trained(encoder)
    assert waits(encoder, tiny_adapter("base", encoder.dim, 8), make_batch(noise(*LENGTHS))) == []


@pytest.mark.parametrize(
    ("encoder", "options"),
    [
        ("whisper", {"long_audio": "chunk"}),
        ("whisper", {"pad_to_30s": True, "trim_to_speech": True}),
        ("hubert", {"do_normalize": True, "ctc_head": True}),
    ],
)
def test_options_of_encoders_wait_for_nothing(encoder, options):
    encoder = tiny_encoder(encoder, **options)
    lengths = (500_000, 9_000) if "long_audio" in options else LENGTHS[:2]
    assert waits(encoder, tiny_adapter("mlp", encoder.dim, 8), make_batch(noise(*lengths)), targets=TARGETS[:2]) == []


@pytest.mark.parametrize(
    ("adapter", "options", "count"),
    [
        ("ctc", {"remove_blank": True, "max_out_len": 4, "strategy": "softmax"}, 1),
        ("ctc", {"vocabulary": "bytes", "detach_compression": True}, 1),
        ("cif", {"quantity_per_token": True, "count_bos": True}, 0),
        ("wlq", {"window_frames": 17, "drop_remainder": True}, 0),
    ],
)
def test_options_of_adapters_wait_no_more(adapter, options, count):
    encoder = tiny_encoder()
    adapter = tiny_adapter(adapter, encoder.dim, 8, **options)
    assert waits(encoder, adapter, make_batch(noise(*LENGTHS))) == ["to_host"] * count


def test_cif_asks_once_in_inference():
    encoder = tiny_encoder()
    batch = make_batch(noise(*LENGTHS))
    adapter = tiny_adapter("cif", encoder.dim, 8)
    with torch.no_grad(), Synchronisations([*encoder.parameters(), *adapter.parameters(), batch.audio]) as seen:
        adapter(encoder(batch.audio, batch.audio_lengths))
    assert seen.found == ["to_host"]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize(("encoder", "adapter"), [pair for pair in tiny_pairs() if pair[1] not in ASKS_ONCE])
def test_a_training_step_waits_for_nothing_on_a_gpu(encoder, adapter, monkeypatch):
    """Under CUDA's own watch. Torch's CTC loss brings its lengths up by itself, which waits, and is left out."""
    encoder = trained(encoder)
    adapter = tiny_adapter(adapter, encoder.dim, 8)
    without_data(monkeypatch)
    for module in (encoder, adapter):
        module.to("cuda").train()
    batch = make_batch(noise(*LENGTHS)).to("cuda")
    step(encoder, adapter, batch)  # tables move to the device once
    torch.cuda.set_sync_debug_mode("error")
    try:
        step(encoder, adapter, batch)
    finally:
        torch.cuda.set_sync_debug_mode("default")
