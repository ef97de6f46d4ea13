"""Tiny speech LLMs under a trainer, without a corpus."""

import pytest
import torch
from lightning.pytorch import Trainer
from torch.utils.data import DataLoader

import speechllm.adapters
import speechllm.decoders
import speechllm.encoders  # noqa: F401
from speechllm.models import SpeechLLM
from speechllm.registry import ADAPTERS, DECODERS, ENCODERS
from tests.tiny import make_batch, noise

SPECS = {
    "encoder": {"name": "whisper", **ENCODERS.get("whisper").tiny},
    "adapter": {"name": "conv", **ADAPTERS.get("conv").tiny, "dropout": 0.0},
    "decoder": {"name": "causal_lm", **DECODERS.get("causal_lm").tiny},
}


@pytest.fixture
def build():
    """Return a function that builds the same tiny model whenever it is called."""

    def build(**options):
        torch.manual_seed(0)
        model = SpeechLLM(**{**SPECS, "lr": 1e-2, **options})
        model.configure_model()
        return model

    return build


@pytest.fixture
def trainer(tmp_path):
    """Return a function that makes a quiet trainer on the CPU."""

    def make(**options):
        defaults = {
            "accelerator": "cpu",
            "devices": 1,
            "max_steps": 1,
            "logger": False,
            "enable_progress_bar": False,
            "enable_model_summary": False,
            "enable_checkpointing": False,
            "use_distributed_sampler": False,
            "default_root_dir": tmp_path,
        }
        return Trainer(**{**defaults, **options})

    return make


@pytest.fixture(scope="session")
def eight():
    """Return eight utterances of different lengths, one batch."""
    return make_batch(noise(8000, 16_000, 4000, 12_000, 9000, 7000, 15_000, 5000))


def loader(batches):
    """Return a data loader over ready batches."""
    return DataLoader(batches, batch_size=None, collate_fn=None)


@pytest.fixture
def as_loader():
    """Return :func:`loader`."""
    return loader
