"""A training step of the whole model asks the GPU for no more than its adapter does."""

import pytest

from speechllm.registry import ADAPTERS, DECODERS, ENCODERS
from tests.synchronisation import Synchronisations, without_data
from tests.test_synchronisation import ASKS_ONCE
from tests.tiny import fits, make_batch, noise


@pytest.mark.parametrize("packing", [False, True])
@pytest.mark.parametrize("adapter", ADAPTERS.names())
def test_the_losses_of_a_batch_wait_for_nothing(build, adapter, packing):
    encoder = "whisper" if fits("whisper", adapter) else "hubert"
    model = build(
        encoder={"name": encoder, **ENCODERS.get(encoder).tiny, **({} if encoder == "whisper" else {"ctc_head": True})},
        adapter={"name": adapter, **ADAPTERS.get(adapter).tiny},
        decoder={"name": "causal_lm", **DECODERS.get("causal_lm").tiny, "packing": packing},
    ).train()
    batch = make_batch(noise(16_000, 9_000, 12_345, 4_000))
    assert model.losses(batch).llm.isfinite().all()  # what is built once is built
    with Synchronisations([*model.parameters(), *model.buffers(), batch.audio]) as seen:
        model._weighted_sum(model.losses(batch)).backward()
    assert seen.found == (["to_host"] if adapter in ASKS_ONCE else [])


@pytest.mark.parametrize("packing", [False, True])
@pytest.mark.parametrize("adapter", ["conv", "cif", "ctc", "wlq"])
def test_a_step_runs_without_data(build, adapter, packing, monkeypatch):
    """On the ``meta`` device, where looking at data and mixing devices raise."""
    without_data(monkeypatch)
    decoder = {"name": "causal_lm", **DECODERS.get("causal_lm").tiny, "packing": packing}
    model = build(adapter={"name": adapter, **ADAPTERS.get(adapter).tiny}, decoder=decoder).to("meta").train()
    loss = model._weighted_sum(model.losses(make_batch(noise(16_000, 9_000, 12_345)).to("meta")))
    loss.backward()
    assert loss.device.type == "meta"
