"""Run as a program: one step of two processes on shares of different sizes; writes the trained weights."""

import sys

import torch
from lightning.pytorch import Trainer

from speechllm.models import SpeechLLM
from tests.models.conftest import SPECS, loader
from tests.tiny import make_batch, noise

SHARES = [[0, 1, 2], [3, 4, 5, 6, 7]]


class Shared(SpeechLLM):
    """A model whose processes see shares of one batch."""

    def train_dataloader(self):
        eight = make_batch(noise(8000, 16_000, 4000, 12_000, 9000, 7000, 15_000, 5000))
        return loader([eight.select(SHARES[self.global_rank])])


def main(path):
    torch.manual_seed(0)
    model = Shared(**SPECS, lr=1e-2)
    model.configure_model()
    trainer = Trainer(
        accelerator="cpu",
        devices=2,
        strategy="ddp_fork",
        max_steps=1,
        logger=False,
        enable_progress_bar=False,
        enable_checkpointing=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
    )
    trainer.fit(model)
    torch.save(torch.cat([p.detach().flatten() for p in model.parameters() if p.requires_grad]), path)


if __name__ == "__main__":
    main(sys.argv[1])
