"""The end of training: figures of all of its starts."""

import json

import pytest
from lightning.pytorch.callbacks import ModelCheckpoint

from speechllm.models.watching.summary import FitSummary, describe


def fit(build, trainer, batches, tmp_path, max_steps, **options):
    checkpoint = ModelCheckpoint(tmp_path / "checkpoints", filename="best", monitor="train_loss", save_top_k=1)
    callbacks = [FitSummary(), checkpoint, *options.pop("callbacks", [])]
    fitted = trainer(
        max_steps=max_steps, max_epochs=-1, log_every_n_steps=2, enable_checkpointing=True, callbacks=callbacks
    )
    fitted.fit(build(), batches, **options)
    return fitted, json.loads((tmp_path / "fit.json").read_text())


def test_figures_of_two_starts(build, trainer, eight, as_loader, tmp_path):
    batch = eight.select([0, 1])
    batch.skipped = ["a clip"]
    batches = as_loader([batch] * 2)
    with pytest.warns(UserWarning, match="Left out of training"):
        fitted, first = fit(build, trainer, batches, tmp_path, 2)
    fitted.save_checkpoint(tmp_path / "two.ckpt")
    with pytest.warns(UserWarning, match="Left out of training"):
        _, second = fit(build, trainer, batches, tmp_path, 6, ckpt_path=tmp_path / "two.ckpt", weights_only=True)
    expected = {"ended": "finished", "steps": 2, "max_steps": 2, "starts": 1, "devices": 1, "utterances": 4}
    assert expected.items() <= first.items()
    assert (first["skipped_steps"], first["skipped_clips"]) == (0, 2)
    assert first["audio_hours"] == pytest.approx(2 * sum(batch.durations_s) / 3600)
    assert (first["best_checkpoint"], first["monitor"]) == ("checkpoints/best.ckpt", "train_loss")
    assert first["best_score"] > 0
    assert first["utterances_per_s"] * first["step_s"] == pytest.approx(2)
    assert (second["steps"], second["starts"], second["utterances"], second["skipped_clips"]) == (6, 2, 12, 6)
    assert second["hours"] > first["hours"] > 0


def test_what_ended_training_is_noted(build, trainer, eight, as_loader, tmp_path):
    model = build()

    def fail(batch, index):
        if index == 1:
            raise ZeroDivisionError("so it is")

    model.on_train_batch_start = fail
    with pytest.raises(ZeroDivisionError):
        fit(lambda: model, trainer, as_loader([eight] * 2), tmp_path, 2)
    summary = json.loads((tmp_path / "fit.json").read_text())
    assert (summary["ended"], summary["steps"]) == ("ZeroDivisionError: so it is", 1)


def test_what_is_printed():
    summary = {
        "ended": "finished",
        "steps": 28_000,
        "max_steps": 28_000,
        "hours": 21.3,
        "starts": 3,
        "utterances_per_s": 58.4,
        "step_s": 2.741,
        "tflops_per_device": 503.0,
        "mfu": 0.509,
        "data_wait": 0.004,
        "audio_hours": 6900.0,
        "peak_memory_gib": 61.23,
        "skipped_steps": 2,
        "skipped_clips": 13,
        "best_checkpoint": "checkpoints/best.ckpt",
        "monitor": "val_score",
        "best_score": 32.14159,
    }
    assert describe(summary) == (
        "Training (finished): 28,000 of 28,000 steps, 21.30 h in 3 starts\n"
        "  58.4 utterances/s, 2.74 s a step, MFU 50.9 %, 0.4 % of it waiting for data; 6,900.00 h of audio\n"
        "  peak memory 61.2 GiB; skipped: 2 steps, 13 clips\n"
        "  best checkpoint: checkpoints/best.ckpt, val_score 32.14"
    )
