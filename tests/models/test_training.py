"""Training: the token-weighted mean however a batch is cut up, auxiliary losses, the guard, the schedule."""

from typing import ClassVar

import pytest
import torch
from lightning.pytorch import Callback

from speechllm.adapters.conv import ConvAdapter
from speechllm.errors import UserError
from speechllm.models.resuming.last_checkpoint import LastCheckpoint
from speechllm.models.schedule import warmup_cosine, warmup_inverse_sqrt
from speechllm.registry import ADAPTERS, ENCODERS
from tests.models.conftest import SPECS
from tests.tiny import make_batch

CUTS = {
    "1 x 8": [[0, 1, 2, 3, 4, 5, 6, 7]],
    "2 x 4": [[0, 1, 2, 3], [4, 5, 6, 7]],
    "uneven": [[0], [1, 2, 3, 4, 5], [6, 7]],
    "with an empty batch": [[0, 1, 2, 3, 4, 5], [], [6, 7]],
}


class LossyAdapter(ConvAdapter):
    """A conv adapter with an auxiliary loss, known from the start, that depends on its weights."""

    loss_weights: ClassVar[dict[str, float]] = {"size": 0.3}

    def forward(self, frames, targets=None):
        output = super().forward(frames, targets)
        if targets is not None:
            output.losses["size"] = output.values.square().sum(dim=(1, 2)) / output.lengths
        return output


@pytest.fixture
def lossy(monkeypatch):
    monkeypatch.setitem(ADAPTERS._parts, "lossy", LossyAdapter)
    return {"adapter": {**SPECS["adapter"], "name": "lossy"}}


def weights(model):
    return torch.cat([p.detach().flatten() for p in model.parameters() if p.requires_grad])


def train(model, trainer, batches, as_loader, **options):
    trainer(**options).fit(model, as_loader(batches))
    return model


@pytest.mark.parametrize("cut", CUTS)
def test_the_update_does_not_depend_on_how_a_batch_is_cut(cut, build, trainer, eight, as_loader, lossy):
    """Accumulated micro-batches of any sizes give the gradients of the whole batch, auxiliary loss included."""
    whole = build(**lossy)
    whole.zero_grad()
    losses = whole.losses(eight)
    tokens = losses.target_lengths.float()
    mean = (losses.llm.sum() + 0.3 * (losses.auxiliary["size"] * tokens).sum()) / tokens.sum()
    mean.backward()
    expected = {key: p.grad.clone() for key, p in whole.named_parameters() if p.grad is not None}

    model = build(**lossy)
    got = {}

    def record(optimizer):
        type(model).on_before_optimizer_step(model, optimizer)
        got.update({key: p.grad.clone() for key, p in model.named_parameters() if p.grad is not None})

    model.on_before_optimizer_step = record
    batches = [eight.select(rows) for rows in CUTS[cut]]
    train(model, trainer, batches, as_loader, accumulate_grad_batches=len(batches))
    assert set(got) == set(expected)
    for key, gradient in expected.items():
        torch.testing.assert_close(got[key], gradient, rtol=1e-4, atol=1e-6, msg=key)


def test_a_window_cut_short_by_the_end_of_an_epoch_is_a_mean_too(build, trainer, eight, as_loader):
    """Lightning divides by four batches where only one is left; the update is that of the one."""
    short = train(build(), trainer, [eight], as_loader, accumulate_grad_batches=4, max_steps=-1, max_epochs=1)
    full = train(build(), trainer, [eight], as_loader)
    torch.testing.assert_close(weights(short), weights(full), rtol=0, atol=1e-6)


def test_auxiliary_losses_are_logged_and_weighted(build, trainer, eight, as_loader, lossy):
    model = build(**lossy, loss_weights={"size": 2.0})
    fitted = trainer(log_every_n_steps=1)
    fitted.fit(model, as_loader([eight]))
    logged = fitted.callback_metrics
    assert logged["train_loss_size"] > 0
    torch.testing.assert_close(logged["train_loss"], logged["train_loss_llm"] + 2.0 * logged["train_loss_size"])
    assert {"train_compression_ratio", "train_truncated_targets", "lr", "grad_norm"} <= set(logged)


def test_an_auxiliary_loss_without_weight_is_an_error(build, eight, lossy, monkeypatch):
    monkeypatch.setattr(LossyAdapter, "loss_weights", {})
    model = build(**lossy)
    with pytest.raises(UserError, match=r"'size' has no weight; give one in `loss_weights: \{size: …\}`"):
        model._weighted_sum(model.losses(eight))


def test_steps_that_are_not_finite_are_skipped_and_counted(build, trainer, eight, as_loader):
    model = build()
    before = weights(model)
    losses, poisoned = model.losses, []

    def poison(batch):
        result = losses(batch)
        poisoned.append(len(batch))
        if len(poisoned) == 2:
            result.llm = result.llm * float("nan")
        return result

    model.losses = poison
    snapshots = []
    model.on_train_batch_start = lambda batch, index: snapshots.append(weights(model))
    with pytest.warns(UserWarning, match=r"1 of the steps 0–2 skipped: gradients are not finite \(1 so far\)"):
        train(model, trainer, [eight] * 3, as_loader, max_steps=3)
    assert len(poisoned) == 3
    assert not torch.equal(snapshots[1], before)
    assert torch.equal(snapshots[2], snapshots[1])
    assert not torch.equal(weights(model), snapshots[2])
    assert weights(model).isfinite().all()
    assert model._skipped_steps.total == 1


def test_training_stops_after_many_skipped_steps(build, trainer, eight, as_loader):
    model = build()
    losses = model.losses

    def poison(batch):
        result = losses(batch)
        result.llm = result.llm * float("inf")
        return result

    model.losses = poison
    warned = pytest.warns(UserWarning, match="8 of the steps 16–23 skipped")
    with pytest.raises(UserError, match="24 steps in a row"), warned:
        train(model, trainer, [eight.select([0])] * 60, as_loader, max_steps=60, log_every_n_steps=8)
    assert model.global_step == 23


@pytest.mark.parametrize(
    ("step", "rate"),
    [(0, 0), (420, 5e-5), (840, 1e-4), (7000, 8.783564e-5), (14_420, 5e-5), (21_000, 1.551381e-5), (28_000, 0)],
)
def test_schedule_golden(step, rate):
    """Spec §15.1."""
    assert 1e-4 * warmup_cosine(step, 840, 28_000) == pytest.approx(rate, abs=1e-11)
    assert warmup_cosine(0, 0, 10) == 1


@pytest.mark.parametrize(("step", "rate"), [(0, 0), (1, 2.5e-8), (1000, 2.5e-5), (4000, 1e-4), (16_000, 5e-5)])
def test_inverse_sqrt_schedule_golden(step, rate):
    """Spec §15.2."""
    assert 1e-4 * warmup_inverse_sqrt(step, 4000) == pytest.approx(rate, abs=1e-11)


def test_rates_by_part_and_inverse_sqrt_in_training(build, trainer, eight, as_loader):
    encoder = {**SPECS["encoder"], "tuning": "full"}
    model, rates = build(encoder=encoder, warmup_steps=1, schedule="inverse_sqrt", part_lr={"adapter": 1e-3}), []
    model.on_train_batch_start = lambda batch, index: rates.append([g["lr"] for g in model.optimizers().param_groups])
    train(model, trainer, [eight.select([0])] * 5, as_loader, max_steps=5)
    assert [lr for lr, _ in rates] == pytest.approx([0, 1e-2, 1e-2 / 2**0.5, 1e-2 / 3**0.5, 0.5e-2])
    assert [lr for _, lr in rates] == pytest.approx([0, 1e-3, 1e-3 / 2**0.5, 1e-3 / 3**0.5, 0.5e-3])
    names = {id(p): name.split(".")[0] for name, p in model.named_parameters()}
    groups = [{names[id(p)] for p in group["params"]} for group in model.optimizers().param_groups]
    assert groups == [{"encoder"}, {"adapter"}]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"part_lr": {"adaptor": 1e-3}}, "Did you mean 'adapter'"),
        ({"part_lr": {"decoder": 1e-3}}, "'decoder', which is not trained.* Trained: adapter"),
        ({"schedule": "inverse_sqrt"}, "needs `warmup_steps`"),
    ],
)
def test_wrong_rates(options, message, build, trainer, eight, as_loader):
    with pytest.raises(UserError, match=message):
        train(build(**options), trainer, [eight], as_loader, max_steps=1)


def test_schedule_in_training(build, trainer, eight, as_loader):
    model, rates = build(warmup_steps=2), []
    model.on_train_batch_start = lambda batch, index: rates.append(model.optimizers().param_groups[0]["lr"])
    train(model, trainer, [eight.select([0])] * 4, as_loader, max_steps=4)
    assert rates == pytest.approx([0, 0.5e-2, 1e-2, 0.5e-2])


def test_the_schedule_needs_an_end(build, trainer, eight):
    class Endless(torch.utils.data.IterableDataset):
        def __iter__(self):
            yield from [eight] * 2

    with pytest.raises(UserError, match=r"set `trainer\.max_steps`"):
        trainer(max_steps=-1, max_epochs=2).fit(build(), torch.utils.data.DataLoader(Endless(), batch_size=None))


def test_nothing_to_train(build, trainer, eight, as_loader):
    model = build()
    model.requires_grad_(False)
    with pytest.raises(UserError, match="every part is frozen"):
        trainer().fit(model, as_loader([eight]))


def test_clips_left_out_are_reported(build, trainer, eight, as_loader):
    batch = eight.select([0, 1])
    batch.skipped = ["talk_7: empty", "talk_8: damaged"]
    model = build()
    with pytest.warns(UserWarning, match="Left out of training: talk_8: damaged"):
        train(model, trainer, [batch], as_loader)
    assert model._skipped_clips == 2


@pytest.mark.parametrize("encoder", ["frozen", "full"])
@pytest.mark.parametrize("decoder", ["frozen", "full"])
def test_frozen_weights_stay_bit_identical(encoder, decoder, build, trainer, eight, as_loader):
    model = build(
        encoder={**SPECS["encoder"], "tuning": encoder},
        decoder={**SPECS["decoder"], "tuning": decoder},
        weight_decay=0.1,
    )
    before = {key: value.clone() for key, value in model.state_dict().items()}
    train(model, trainer, [eight] * 2, as_loader, max_steps=2)
    modes = {"encoder": encoder, "decoder": decoder, "adapter": "full"}
    changed = {part: False for part in modes}
    for key, value in model.state_dict().items():
        part = key.split(".")[0]
        if not torch.equal(value, before[key]):
            assert modes[part] == "full", f"{key} changed"
            changed[part] = True
    assert changed == {part: mode == "full" for part, mode in modes.items()}


def test_overfitting_a_few_utterances(build, trainer, as_loader):
    """The whole chain learns: four tones are told apart and spelled out."""
    tones = [0.5 * torch.sin(torch.arange(8000) * 2 * torch.pi * hertz / 16_000) for hertz in (200, 500, 1200, 3000)]
    batch = make_batch(tones)
    batch.tasks, batch.transcripts = ["asr"] * 4, ["ab", "ba", "bb", "aa"]
    encoder = {**SPECS["encoder"], "tuning": "full"}
    decoder = {**SPECS["decoder"], "tuning": "full", "prompt": {"template": "{speech}"}}
    model = build(encoder=encoder, decoder=decoder, lr=3e-3)
    train(model, trainer, [batch], as_loader, max_steps=300, max_epochs=-1, gradient_clip_val=1.0)
    model.eval()
    assert [hypothesis.transcript for hypothesis in model.decode(batch, 1)] == batch.transcripts


@pytest.mark.parametrize("name", [name for name in ADAPTERS.names() if ADAPTERS.get(name).loss_weights])
def test_every_loss_of_every_adapter_reaches_the_total_with_its_weight(name, build, eight):
    """Total = cross-entropy + Σ weight · loss, and each loss teaches the adapter (spec §13.3–13.4)."""
    defaults = ADAPTERS.get(name).loss_weights
    weights = {loss: 0.3 + place for place, loss in enumerate(defaults)}
    adapter = {"name": name, **ADAPTERS.get(name).tiny}
    for given, used in (({}, defaults), (weights, weights)):
        model = build(adapter=adapter, loss_weights=given).train()
        losses = model.losses(eight)
        assert set(losses.auxiliary) == set(defaults)
        parts = {loss: (values * losses.target_lengths).sum() for loss, values in losses.auxiliary.items()}
        expected = losses.llm.sum() + sum(used[loss] * part for loss, part in parts.items())
        torch.testing.assert_close(model._weighted_sum(losses), expected)
        for loss, part in parts.items():
            gradients = torch.autograd.grad(
                part, list(model.adapter.parameters()), retain_graph=True, allow_unused=True
            )
            assert any(g is not None and g.abs().sum() > 0 for g in gradients), f"{loss} teaches nothing"


def test_dropout_does_not_disturb_the_check_of_the_output_layer(build):
    """LoRA that has learned something makes two forwards in training mode differ by its dropout."""
    decoder = {**SPECS["decoder"], "tuning": "lora", "lora": {"dropout": 0.5}}
    model = build(decoder=decoder).train()
    for name, parameter in model.decoder.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter)
    model.decoder.check_output_layer()
    assert model.decoder.training


@pytest.mark.parametrize("adapter", ADAPTERS.names())
def test_a_model_in_bfloat16_works_without_a_trainer(adapter, build, eight):
    """Encoder and LLM in bfloat16, the adapter in float32, as recipes have them; no autocast."""
    if getattr(ADAPTERS.get(adapter), "needs_ctc_logits", False):
        encoder = {"name": "hubert", **ENCODERS.get("hubert").tiny, "ctc_head": True, "dtype": "bfloat16"}
    else:
        encoder = {**SPECS["encoder"], "dtype": "bfloat16"}
    decoder = {**SPECS["decoder"], "dtype": "bfloat16"}
    model = build(encoder=encoder, adapter={"name": adapter, **ADAPTERS.get(adapter).tiny}, decoder=decoder).eval()
    assert len(model.decode(eight, num_beams=1)) == len(eight)
    assert model.losses(eight).llm.isfinite().all()


@pytest.mark.parametrize("tuning", ["frozen", "full"])
def test_utterances_of_the_same_audio_are_encoded_once(build, eight, tuning):
    """Losses, gradients and hypotheses are those of encoding each; the encoder sees each audio once."""
    shared = eight.select([0, 1, 0, 2, 2, 1])
    shared.audio_of = [0, 1, 0, 3, 3, 1]
    shared.transcripts = [f"text {place}" for place in range(6)]
    results = {}
    for name, audio_of in (("once", shared.audio_of), ("each", list(range(6)))):
        shared.audio_of = audio_of
        model = build(encoder={**SPECS["encoder"], "tuning": tuning}).eval()
        seen = []
        model.encoder.register_forward_pre_hook(lambda _, inputs, seen=seen: seen.append(len(inputs[0])))
        losses = model.losses(shared)
        losses.llm.sum().backward()
        gradient = torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])
        results[name] = (losses.llm.detach(), gradient, [h.text for h in model.decode(shared, 1)], seen)
    once, each = results["once"], results["each"]
    assert once[3] == [3, 3]
    assert each[3] == [6, 6]
    torch.testing.assert_close(once[0], each[0], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(once[1], each[1], rtol=1e-3, atol=1e-5)
    assert once[2] == each[2]


def test_a_step_calls_nothing_of_lightnings_that_waits_for_the_gpu(build, trainer, eight, as_loader, monkeypatch):
    """Its ``reduce`` begins with a barrier, and it asks in every step, by way of the GPU, whether SIGTERM came."""

    def waits(*args, **options):
        raise AssertionError

    class Begun(Callback):
        def on_train_start(self, trainer, pl_module):
            monkeypatch.setattr(trainer.strategy, "reduce", waits)

    fitting = trainer(callbacks=[LastCheckpoint(None), Begun()], max_steps=2, limit_val_batches=0)
    assert callable(type(fitting.fit_loop.epoch_loop)._broadcast_sigterm_tensor), "Lightning calls it otherwise now"
    monkeypatch.setattr(type(fitting.fit_loop.epoch_loop), "_broadcast_sigterm_tensor", waits)
    fitting.fit(build(), as_loader([eight, eight]))
    fitting.fit_loop.epoch_loop._broadcast_sigterm_tensor()
    assert fitting.global_step == 2
