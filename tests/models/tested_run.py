"""Tests and predictions of a tiny model, some of which are killed: run as a program, with their options as JSON."""

import json
import os
import signal
import sys
from pathlib import Path

import numpy as np
import soundfile
import torch
from lightning.pytorch import Trainer

from speechllm.data import TableDataModule
from speechllm.models import SpeechLLM
from tests.models.conftest import SPECS

ROWS = 13
METRICS = ["wer", "cer", "bleu", "chrf"]


def write_corpus(folder):
    """Write clips of several durations, one of which cannot be read, and a table of them; return the folder."""
    words = "one two three four five six seven".split()
    lines = ["audio,transcript,translation,speaker"]
    for number in range(ROWS):
        samples = np.random.default_rng(number).uniform(-0.1, 0.1, 3_000 + 1_000 * (number * 5 % 11))
        soundfile.write(folder / f"{number}.wav", samples, 16_000)
        text = " ".join(words[: 1 + number % 7])
        lines.append(f"{number}.wav,{text},{text.upper()},speaker {number % 3}")
    for split in ("train", "dev", "test"):
        (folder / f"{split}.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return folder


def make_trainer(folder, out, world_size, **options):
    defaults = {"limit_val_batches": 0}
    return Trainer(
        accelerator="cpu",
        devices=world_size,
        strategy="ddp_fork" if world_size > 1 else "auto",
        max_steps=30,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
        default_root_dir=f"{folder}/{out}",
        **defaults | options,
    )


def make_data(folder):
    return TableDataModule(
        folder,
        source="en",
        target="de",
        tasks=["asr", "st", "asr+st"],
        batch_seconds=1.5,
        max_utterances=3,
        num_buckets=1,
        num_workers=0,
    )


def make_model(**options):
    torch.manual_seed(0)
    prompt = {"template": "{speech}"}
    return SpeechLLM(
        **SPECS | {"decoder": {**SPECS["decoder"], "tuning": "full", "prompt": prompt}},
        **{"lr": 1e-6, "metrics": METRICS, "max_new_tokens": 12} | options,
    )


def train(folder):
    """Write ``model.ckpt``, of two steps."""
    trainer = make_trainer(folder, "trained", 1)
    trainer.fit(make_model(), datamodule=make_data(folder))
    trainer.save_checkpoint(f"{folder}/model.ckpt")


def decode(folder, out, world_size=1, stage="test", kill_after=None, corpus=None, **options):
    """Test or predict with ``model.ckpt``; the first process is killed, as by the system, after some batches."""
    model, batches = make_model(**options), []

    def killed(batch, index):
        batches.append(batch)
        if model.global_rank == 0 and len(batches) > kill_after:
            print("[end]", flush=True)
            os.kill(os.getpid(), signal.SIGKILL)

    if kill_after is not None:
        setattr(model, f"on_{stage}_batch_start", killed)
    trainer = make_trainer(folder, out, world_size)
    run = trainer.test if stage == "test" else trainer.predict
    keywords = {} if stage == "test" else {"return_predictions": False}
    run(model, datamodule=make_data(corpus or folder), ckpt_path=f"{folder}/model.ckpt", **keywords)


def validate(folder, validate, world_size=1):
    """Train for two steps with validations, and write what each process has logged."""
    trainer = make_trainer(folder, validate, world_size, limit_val_batches=1.0, val_check_interval=1)
    model = make_model()
    model.on_train_end = lambda: Path(f"{folder}/{validate}.{model.global_rank}.json").write_text(
        json.dumps({key: float(value) for key, value in trainer.callback_metrics.items() if key.startswith("val_")})
    )
    trainer.fit(model, datamodule=make_data(folder))


if __name__ == "__main__":
    torch.set_num_threads(1)
    for step in json.loads(sys.argv[1]):
        if "validate" in step:
            validate(**step)
            continue
        if "out" not in step:
            train(Path(step["folder"]))
            continue
        print(f"[{step['out']} {step.get('stage', 'test')}]", flush=True)
        try:
            decode(**step)
        except Exception as error:  # of a process that was killed or failed: the steps after it are of others
            print(error, flush=True)
