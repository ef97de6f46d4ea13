"""The optimiser's step: scaling, clipping and skipping on the device."""

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from speechllm.models.gradients import SkippedSteps, clip_gradients, reach, scale_gradients, skip_where


class Waits(TorchDispatchMode):
    """Note the operations for which a host would wait for its device."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        if function in (torch.ops.aten._local_scalar_dense.default, torch.ops.aten.nonzero.default):
            self.seen.append(str(function))
        return function(*args, **kwargs or {})


def with_gradients(*gradients):
    parameters = [torch.nn.Parameter(torch.ones(1)) for _ in gradients]
    for parameter, gradient in zip(parameters, gradients, strict=True):
        parameter.grad = None if gradient is None else torch.tensor([gradient])
    return parameters


def trained(model):
    return {key: p.detach().clone() for key, p in model.named_parameters() if p.requires_grad}


def poisoned(model, steps):
    """Let some steps of a model have a loss that is not a number."""
    losses, seen = model.losses, []

    def poison(batch):
        result = losses(batch)
        if len(seen) in steps:
            result.llm = result.llm * float("nan")
        seen.append(len(batch))
        return result

    model.losses = poison
    return model


def test_scale_gradients_by_hand():
    first, second, unused, frozen = parameters = with_gradients(6.0, 8.0, None, None)
    frozen.requires_grad_(False)
    assert scale_gradients(parameters, torch.tensor(0.5)) == 5.0
    assert (first.grad, second.grad, unused.grad, frozen.grad) == (torch.tensor([3.0]), 4.0, 0.0, None)
    second.grad = torch.tensor([float("inf")])
    assert not scale_gradients(parameters, torch.tensor(0.5)).isfinite()


@pytest.mark.parametrize(
    ("limit", "algorithm", "expected"),
    [
        (None, "norm", (3, 4)),
        (0.0, "norm", (3, 4)),
        (2.5, "norm", (1.5, 2)),
        (9.0, "norm", (3, 4)),
        (3.5, "value", (3, 3.5)),
    ],
)
def test_clip_gradients_by_hand(limit, algorithm, expected):
    parameters = with_gradients(3.0, 4.0)
    clip_gradients(parameters, torch.tensor(5.0), limit, algorithm)
    assert [float(p.grad) for p in parameters] == pytest.approx(expected)


def test_a_skipped_step_changes_nothing():
    """Neither weights, which decay, nor moments, nor step counters; and the next step is as if there had been none."""
    ends = {}
    for name, gradients in (("skipped", [1.0, float("nan"), 2.0]), ("never", [1.0, 2.0])):
        weight = torch.nn.Parameter(torch.ones(1))
        optimizer = torch.optim.AdamW([weight], 0.1, weight_decay=0.5, fused=True)
        for gradient in gradients:
            weight.grad = torch.tensor([gradient])
            skip_where(optimizer, 1 - weight.grad.isfinite().float()[0])
            optimizer.step()
        ends[name] = [weight.detach(), *optimizer.state[weight].values()]
    assert ends["skipped"][1] == 2
    assert all(torch.equal(one, other) for one, other in zip(*ends.values(), strict=True))


def test_reach_gives_no_gradient():
    used, unused = with_gradients(None, None)
    reach((used * 3).sum(), [used, unused]).backward()
    assert used.grad == 3
    assert unused.grad is None
    reach(torch.zeros(()), [unused]).backward()
    assert unused.grad is None


def test_a_step_does_not_wait(build, trainer, eight, as_loader):
    """From the gradients to the new weights nothing asks for a value; figures are read when they are logged."""
    model = build(weight_decay=0.1)
    before, seen = model.on_before_optimizer_step, []

    def watched(optimizer):
        with Waits() as waits:
            before(optimizer)
            model.configure_gradient_clipping(optimizer, 1.0, "norm")
            type(optimizer).step(optimizer)
        seen.append(waits.seen)

    model.on_before_optimizer_step = watched
    trainer(max_steps=2).fit(model, as_loader([eight] * 2))
    assert seen == [[], []]
    with Waits() as waits:
        model.global_step, float(torch.ones(1))
    assert waits.seen, "the watch must see a wait"


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed", "16-mixed"])
def test_steps_are_skipped_and_clipped_in_every_precision(precision, build, trainer, eight, as_loader):
    """The clipped norm is the limit; the schedule goes on in a skipped step; reading late changes no bit."""
    ends = []
    for every in (1, 50):
        model, norms, rates = poisoned(build(warmup_steps=1), [1]), [], []
        clip = model.configure_gradient_clipping

        def clipped(*args, model=model, clip=clip, norms=norms, **options):
            clip(*args, **options)
            gradients = [p.grad for p in model.parameters() if p.grad is not None]
            norms.append(float(torch.nn.utils.get_total_norm(gradients)))

        model.configure_gradient_clipping = clipped
        model.on_train_batch_start = lambda *_, m=model, r=rates: r.append(m.optimizers().param_groups[0]["lr"])
        options = {"precision": precision, "max_steps": 4, "log_every_n_steps": every}
        with pytest.warns(UserWarning, match=r"skipped: gradients are not finite \(1 so far\)"):
            trainer(**options, gradient_clip_val=1e-3).fit(model, as_loader([eight] * 4))
        assert [norms[0], *norms[2:]] == pytest.approx([1e-3] * 3, rel=1e-3)
        assert rates == pytest.approx([0, 1e-2, 0.75e-2, 0.25e-2])
        assert model._skipped_steps.total == 1
        steps = {float(state["step"]) for state in model.optimizers().optimizer.state.values()}
        assert steps == {3.0}
        assert all(value.isfinite().all() for value in trained(model).values())
        ends.append(trained(model))
    assert all(torch.equal(ends[0][key], ends[1][key]) for key in ends[0])


def test_counting():
    counted = SkippedSteps()
    assert counted.read(0) == 0
    for step, skipped in enumerate([0, 1, 1, 0, 1]):
        counted.count(step, torch.tensor(float(skipped)))
    with pytest.warns(UserWarning, match=r"^3 of the steps 0–4 skipped: .* \(3 so far\)"):
        assert counted.read(4) == 3
    resumed = SkippedSteps()
    resumed.load(counted.state())
    assert resumed.state() == [3, 1]
    resumed.count(5, torch.tensor(1.0))
    with pytest.warns(UserWarning, match=r"^Step 5 skipped: .* \(4 so far\)"):
        resumed.read(5)
    assert resumed.state() == [4, 2]


def test_the_count_is_in_checkpoints(build, trainer, eight, as_loader, tmp_path):
    fitted = trainer(max_steps=2)
    with pytest.warns(UserWarning, match="skipped"):
        fitted.fit(poisoned(build(), [1]), as_loader([eight] * 2))
    fitted.save_checkpoint(tmp_path / "two.ckpt")
    model = build()
    trainer(max_steps=3).fit(model, as_loader([eight] * 3), ckpt_path=tmp_path / "two.ckpt", weights_only=True)
    assert model._skipped_steps.total == 1
