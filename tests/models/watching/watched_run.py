"""Run as a program, as one of two processes: train a tiny model that comes to harm as an option says."""

import os
import signal
import sys
import time

import torch
from lightning.pytorch import Trainer

from speechllm.models import SpeechLLM
from speechllm.models.watching.watchdog import Watchdog
from tests.models.conftest import SPECS, loader
from tests.tiny import make_batch, noise

STEPS = 8
KILLED_AT = 6
SLOW_AT = 4


class Slow(list):
    """Batches, the fifth of which takes its time in the first process."""

    def __getitem__(self, index):
        if index == SLOW_AT and os.environ["RANK"] == "0":
            time.sleep(4)
        return super().__getitem__(index)


class Harmed(SpeechLLM):
    """A model whose process is killed, fails, or hangs as one that waits for another one's GPU does."""

    harm = ""

    def on_train_batch_start(self, batch, batch_idx):
        if batch_idx < KILLED_AT:
            return
        print(f"{self.meter.totals.steps} steps of {self.meter.totals.counts['utterances']:g} utterances", flush=True)
        if self.harm == f"kill {self.global_rank}":
            time.sleep(2)  # long enough for the watchdog to see that the run goes on
            os.kill(os.getpid(), signal.SIGKILL)
        if self.harm == f"fail {self.global_rank}":
            raise RuntimeError("no memory left")
        if os.environ["HANG"] == "1":
            time.sleep(600)


def main(harm, folder):
    torch.set_num_threads(1)
    torch.manual_seed(0)
    model = Harmed(**SPECS)
    model.harm = harm
    model.configure_model()
    batch = make_batch(noise(8000, 16_000))
    trainer = Trainer(
        accelerator="cpu",
        devices=2,
        strategy="ddp",
        max_steps=STEPS,
        log_every_n_steps=2,
        logger=False,
        enable_progress_bar=False,
        enable_checkpointing=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
        default_root_dir=folder,
        callbacks=[Watchdog(report_after_s=1.5, report_after_steps=2, slow_s=30, grace_s=3)],
    )
    trainer.fit(model, loader(Slow([batch] * STEPS)))


if __name__ == "__main__":
    main(*sys.argv[1:])
