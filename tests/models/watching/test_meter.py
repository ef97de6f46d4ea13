"""Figures of training: sums of losses by hand, speed by hand, and nothing asked of the device between two logs."""

import csv
import math
import re
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from lightning.pytorch.loggers import CSVLogger
from lightning.pytorch.profilers import PassThroughProfiler

from speechllm.costs.flops import StepSize, training_flop
from speechllm.costs.gpus import find_gpu
from speechllm.models.base import StepLosses
from speechllm.models.watching.meter import Meter, StepWork, Sums, learning_rates, speed_figures
from speechllm.models.watching.phases import Phase
from tests.models.conftest import SPECS
from tests.tiny import make_batch, noise

DOCS = Path(__file__).resolve().parents[3] / "docs" / "how-to" / "watch_a_run.md"


def test_the_loss_is_the_mean_over_all_tokens_since_the_last_log(build, trainer, eight, as_loader, tmp_path):
    """Two micro-batches of different sizes a step, logged every second step, and at the end what is left."""
    batches = [eight.select(rows) for rows in ([0, 1, 2], [3], [4, 5], [6, 7, 0], [1], [2, 3, 4])]
    model, expected = build(), []
    losses = model.losses

    def record(batch):
        result = losses(batch)
        expected.append((float(result.llm.sum()), int(result.target_lengths.sum())))
        return result

    model.losses = record
    logger = CSVLogger(tmp_path)
    options = {"max_steps": 3, "accumulate_grad_batches": 2, "log_every_n_steps": 2, "logger": logger}
    trainer(**options).fit(model, as_loader(batches))
    with open(logger.experiment.metrics_file_path, newline="") as file:
        logged = [float(row["train_loss"]) for row in csv.DictReader(file)]
    first, last = expected[:4], expected[4:]
    by_hand = [sum(loss for loss, _ in part) / sum(tokens for _, tokens in part) for part in (first, last)]
    assert logged == pytest.approx(by_hand, rel=1e-5)
    assert model.meter.totals.steps == 3
    assert model.meter.totals.counts["utterances"] == sum(map(len, batches))


def test_speed_by_hand():
    seconds = {Phase.DATA: 1.0, Phase.FORWARD: 3.0, Phase.BACKWARD: 4.0, Phase.VALIDATION: 90.0}
    counts = {"utterances": 80, "audio_s": 300, "computed_audio_s": 400}
    counts |= {"llm_positions": 900, "computed_positions": 1000, "target_tokens": 200}
    sums = Sums(counts=counts, seconds=seconds, tflop=1600.0, steps=4)
    assert speed_figures(sums, devices=2, peak_tflops=200.0) == pytest.approx(
        {
            "speed/utterances_per_s": 10,
            "speed/audio_s_per_s": 37.5,
            "speed/step_s": 2,
            "speed/data_wait": 0.125,
            "speed/audio_padding": 0.25,
            "speed/llm_positions_per_s": 112.5,
            "speed/target_tokens_per_s": 25,
            "speed/llm_padding": 0.1,
            "speed/tflops_per_device": 100,
            "speed/mfu": 0.5,
        }
    )
    assert "speed/mfu" not in speed_figures(sums, 2, None), "of a device that is not known"


def test_mfu_is_that_of_the_arithmetic(build, trainer, eight, as_loader, monkeypatch):
    model = build()
    sizes = []
    losses = model.losses
    model.losses = lambda batch: sizes.append(losses(batch)) or sizes[-1]
    fitted = trainer(max_steps=2, log_every_n_steps=2)
    monkeypatch.setattr(model.meter, "peak_tflops", find_gpu("H100").bf16_tflops)
    fitted.fit(model, as_loader([eight, eight.select([0, 1])]))
    flop = sum(training_flop(model.shape(), losses.work.size).total for losses in sizes)
    logged = fitted.callback_metrics
    trained_s = model.meter.totals.trained_s
    assert model.meter.totals.tflop == pytest.approx(flop / 1e12)
    assert float(logged["speed/tflops_per_device"]) == pytest.approx(flop / 1e12 / trained_s, rel=1e-5)
    assert float(logged["speed/mfu"]) == pytest.approx(flop / 1e12 / trained_s / 989, rel=1e-5)
    assert sizes[0].work.size.llm_positions == sizes[0].work.size.llm_positions[:8]
    assert sizes[0].work.computed_positions == 8 * max(sizes[0].work.size.llm_positions)


def test_nothing_is_asked_of_the_device_between_two_logs():
    """Of the meta device, nothing can be."""
    batch = make_batch(noise(8000, 16_000))
    losses = StepLosses(
        llm=torch.zeros(2, device="meta"),
        target_lengths=torch.ones(2, dtype=torch.int64, device="meta"),
        auxiliary={},
        stats={"compression_ratio": torch.tensor(4.0), "density": torch.zeros(2, device="meta")},
        work=StepWork(StepSize([50, 100], [5, 10], [20, 30], [9, 8]), 60),
    )
    meter = Meter()
    for _ in range(2):
        meter.add(batch, losses, losses.llm.sum(), {"loss_ctc": losses.llm.sum()})
    meter.skip(3)
    assert meter.last_loss.device.type == "meta"
    waiting = meter._since
    assert waiting.losses["loss"].device.type == "meta"
    assert waiting.counts == {
        "utterances": 4,
        "audio_s": 3.0,
        "computed_audio_s": 4.0,
        "llm_positions": 100,
        "target_tokens": 34,
        "computed_positions": 120,
        "skipped_clips": 3.0,
    }


def test_a_loss_that_is_not_finite_does_not_hide_the_others(build, trainer, eight, as_loader):
    model = build()
    losses, done = model.losses, []

    def poison(batch):
        result = losses(batch)
        done.append((float(result.llm.sum()), int(result.target_lengths.sum())))
        if len(done) == 2:
            result.llm = result.llm * math.nan
        return result

    model.losses = poison
    fitted = trainer(max_steps=3, log_every_n_steps=3)
    with pytest.warns(UserWarning, match="skipped: gradients are not finite"):
        fitted.fit(model, as_loader([eight] * 3))
    loss, tokens = (done[0][place] + done[2][place] for place in (0, 1))
    assert float(fitted.callback_metrics["train_loss"]) == pytest.approx(loss / tokens, rel=1e-5)
    assert float(fitted.callback_metrics["skipped_steps"]) == 1


def test_rates_by_group(build, trainer, eight, as_loader):
    model = build(encoder={**SPECS["encoder"], "tuning": "full"}, part_lr={"adapter": 1e-3}, warmup_steps=1)
    fitted = trainer(max_steps=2, log_every_n_steps=1)
    rates = []
    model.on_train_batch_start = lambda batch, index: rates.append(learning_rates(model))
    fitted.fit(model, as_loader([eight.select([0])] * 2))
    assert rates[1] == {"lr": 1e-2, "lr/encoder": 1e-2, "lr/adapter": 1e-3}
    assert {"lr", "lr/encoder", "lr/adapter"} <= set(fitted.callback_metrics)


def test_sums_of_processes():
    """Two of four processes see the same batch; time is the average."""
    shares = [
        Sums({"loss": 3.0}, 2.0, {"ratio": (4.0, 1)}, {"utterances": 8}, {Phase.DATA: 2.0}, 5.0, 10),
        Sums({}, 0.0, {}, {"utterances": 0}, {Phase.DATA: 4.0}, 0.0, 10),
    ]
    own = shares[0]
    processes = SimpleNamespace(share=lambda share: [(own, 1.0, 2.0), (shares[1], 3.0, 4.0)])
    module = SimpleNamespace(
        trainer=SimpleNamespace(
            profiler=PassThroughProfiler(),
            strategy=SimpleNamespace(distributed_sampler_kwargs={"num_replicas": 1}),
            world_size=2,
        ),
        device=torch.device("cpu"),
    )
    parameter = torch.nn.Parameter(torch.zeros(1))
    module.trainer.optimizers = [torch.optim.SGD([parameter], lr=0.5)]
    module.named_parameters = lambda: []
    meter = Meter()
    figures = meter._figures(module, processes, keep=False)
    assert figures["train_loss"] == 1.5
    assert figures["train_ratio"] == 4.0
    assert figures["lr"] == 0.5
    assert (figures["memory/used_gib"], figures["memory/peak_gib"]) == (3.0, 4.0)
    assert meter.totals.counts["utterances"] == 4
    assert meter.totals.seconds == {"waiting for data": 3.0}
    assert (meter.totals.tflop, meter.totals.steps) == (2.5, 10)


def test_every_figure_is_documented(build, trainer, eight, as_loader):
    batch = eight.select([0, 1])
    batch.skipped = ["a clip"]
    model = build(encoder={**SPECS["encoder"], "tuning": "full"}, part_lr={"adapter": 1e-3})
    fitted = trainer(max_steps=1, log_every_n_steps=1)
    with pytest.warns(UserWarning, match="Left out of training"):
        fitted.fit(model, as_loader([batch]))
    documented = set(re.findall(r"^\| `([^`]+)`", DOCS.read_text(), flags=re.MULTILINE))
    patterns = [re.escape(name).replace("NAME", r"\w+").replace("PART", r"[\w+]+") for name in documented]
    for name in fitted.callback_metrics:
        assert any(re.fullmatch(pattern, name) for pattern in patterns), f"{name} is not in {DOCS.name}"
    assert {"speed/mfu", "grad_norm", "skipped_steps", "skipped_clips", "memory/peak_gib"} <= documented
