"""Training runs that write down the rows they are given: run in a process of its own, with their options as JSON."""

import json
import sys
from pathlib import Path

ROWS = 46


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


def main(
    folder, out, world_size, max_epochs=-1, max_steps=-1, save=None, hook="on_train_end", at=0, resume=None, **options
):
    """Train, save a checkpoint in ``hook`` once ``at`` steps are done, and write the rows of each step and process."""
    import torch
    from lightning.pytorch import Callback, LightningModule, Trainer

    from speechllm.data import TableDataModule

    class Recorder(LightningModule):
        def __init__(self):
            super().__init__()
            self.weight = torch.nn.Parameter(torch.zeros(()))
            self.steps = []

        def training_step(self, batch, index):
            self.steps.append(batch.rows)
            return self.weight * batch.audio_lengths.sum()

        def validation_step(self, batch, index):
            pass

        def on_train_end(self):
            Path(f"{out}.{self.global_rank}").write_text(json.dumps(self.steps), encoding="utf-8")

        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), lr=0.1)

    class Save(Callback):
        def setup(self, trainer, pl_module, stage):
            setattr(self, hook, self.save)

        def save(self, trainer, *_):
            if save and len(trainer.lightning_module.steps) == (at or len(trainer.lightning_module.steps)):
                trainer.save_checkpoint(f"{folder}/{save}")

    torch.set_num_threads(1)
    data = TableDataModule(
        folder, source="en", batch_seconds=1.2, max_utterances=4, num_buckets=4, **({"num_workers": 0} | options)
    )
    trainer = Trainer(
        accelerator="cpu",
        devices=world_size,
        strategy="ddp_fork" if world_size > 1 else "auto",
        max_epochs=max_epochs,
        max_steps=max_steps,
        callbacks=[Save()],
        val_check_interval=5 // world_size,
        check_val_every_n_epoch=None,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
        default_root_dir=folder,
    )
    model = Recorder()
    trainer.fit(model, datamodule=data, ckpt_path=f"{folder}/{resume}" if resume else None)


if __name__ == "__main__":
    for run in json.loads(sys.argv[1]):
        main(**run)
