"""A training run that writes down the rows it is given: run in a process of its own, with its options as JSON."""

import json
import sys
from pathlib import Path

ROWS = 46
STOP = 10
"""Optimiser steps after which a stopped run ends, in its second epoch."""


def write_corpus(folder):
    """Write clips of several durations and a table of them."""
    import numpy as np
    import soundfile

    rows = ["audio,transcript"]
    for number in range(ROWS):
        samples = np.random.default_rng(number).uniform(-0.1, 0.1, 1_600 + 320 * (number % 17))
        soundfile.write(folder / f"{number}.wav", samples, 16_000)
        rows.append(f"{number}.wav,number {number}")
    for split in ("train", "dev"):
        (folder / f"{split}.csv").write_text(
            "\n".join(rows[: None if split == "train" else 5]) + "\n", encoding="utf-8"
        )
    return folder


def main(folder, out, world_size, max_epochs=-1, max_steps=-1, save=None, resume=None, num_workers=0, validate=False):
    """Train, and write (epoch, rows) of each step of each process."""
    import torch
    from lightning.pytorch import LightningModule, Trainer

    from speechllm.data import TableDataModule

    class Recorder(LightningModule):
        def __init__(self):
            super().__init__()
            self.weight = torch.nn.Parameter(torch.zeros(()))
            self.steps = []

        def training_step(self, batch, index):
            self.steps.append((self.current_epoch, batch.rows))
            return self.weight * batch.audio_lengths.sum()

        def validation_step(self, batch, index):
            pass

        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), lr=0.1)

    torch.set_num_threads(1)
    data = TableDataModule(
        folder, source="en", batch_seconds=1.2, max_utterances=4, num_buckets=4, num_workers=num_workers
    )
    trainer = Trainer(
        accelerator="cpu",
        devices=world_size,
        strategy="ddp" if world_size > 1 else "auto",
        max_epochs=max_epochs,
        max_steps=max_steps,
        limit_val_batches=1.0 if validate else 0,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
        default_root_dir=folder,
    )
    model = Recorder()
    trainer.fit(model, datamodule=data, ckpt_path=f"{folder}/{resume}" if resume else None)
    if save:
        trainer.save_checkpoint(f"{folder}/{save}")
    Path(f"{out}.{trainer.global_rank}").write_text(json.dumps(model.steps), encoding="utf-8")


if __name__ == "__main__":
    main(**json.loads(sys.argv[1]))
