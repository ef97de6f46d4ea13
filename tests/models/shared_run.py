"""One run in one process or in several; run as a program, with strategy, folder and options as JSON."""

import json
import os
import sys
from pathlib import Path
from typing import ClassVar

import torch
from lightning.pytorch import Trainer

from speechllm.adapters.conv import ConvAdapter
from speechllm.models import SpeechLLM
from speechllm.models.sharding import FSDP2
from speechllm.registry import ADAPTERS
from tests.models.conftest import SPECS, loader
from tests.tiny import LLM_FAMILIES, SIZES, make_batch, noise

SHARES = [([0, 1, 2], [3, 4, 5, 6, 7]), ([0, 5, 6], []), ([1, 2], [3, 4]), ([], [7, 6, 5])]
"""Rows that each of two processes sees, step by step; shares of very different sizes, empty ones among them."""


DEVICES = {"auto": 1, "tensor_and_data": 4}
"""Processes of each strategy, where they are not two."""


class HeadedAdapter(ConvAdapter):
    """An adapter with a head that is used in some batches only."""

    loss_weights: ClassVar[dict[str, float]] = {"head": 0.3}

    def __init__(self, in_dim, out_dim, layers=4, dim=768, heads=12, dropout=0.1):
        super().__init__(in_dim, out_dim, layers, dim, heads, dropout)
        self.head = torch.nn.Linear(out_dim, 1, bias=False)

    def forward(self, frames, targets=None):
        output = super().forward(frames, targets)
        if targets is not None:
            heard = [len(row) > 20 for row in targets]
            output.losses["head"] = torch.zeros(len(heard), device=output.values.device)
            if any(heard):
                values = self.head(output.values).square().sum(dim=(1, 2)) / output.lengths
                output.losses["head"] = values * torch.tensor(heard)
        return output


def specs(decoder="lora", encoder="full", family=None, dropout=0.0, **fields):
    """Return specs of a model; all of its parts are trained where nothing else is asked for."""
    ADAPTERS._parts["headed"] = HeadedAdapter
    return {
        "encoder": {**SPECS["encoder"], "tuning": encoder},
        "adapter": {**SPECS["adapter"], "name": "headed", "dropout": dropout},
        "decoder": {
            **SPECS["decoder"],
            "tuning": decoder,
            "lora": {"r": 2, "dropout": dropout} if "lora" in decoder else None,
            **({"config": {"model_type": family, **SIZES, **LLM_FAMILIES.get(family, {}), **fields}} if family else {}),
        },
    }


class Shared(SpeechLLM):
    """A model whose processes see shares of the same steps."""

    def share(self, shares):
        eight = make_batch(noise(8000, 16_000, 4000, 12_000, 9000, 7000, 15_000, 5000))
        count, rank = self.trainer.world_size, self.trainer.global_rank
        if (dealt := getattr(self.trainer.strategy, "distributed_sampler_kwargs", None)) is not None:
            count, rank = dealt["num_replicas"], dealt["rank"]
        return [eight.select(step[rank] if count > 1 else [*step[0], *step[1]]) for step in shares]

    def train_dataloader(self):
        return loader(self.share(SHARES))

    def val_dataloader(self):
        return loader(self.share([([0, 1, 2], [3, 4, 5, 6]), ([], [7])]))


def run(strategy, folder, name, steps=2, resume=None, parts=None, trainer=None, **options):
    """Train, with a validation after every second step; write ``NAME.ckpt`` and, to ``NAME.json``, what was logged."""
    torch.manual_seed(int(os.environ.get("LOCAL_RANK", 0)))
    defaults = {"lr": 1e-2, "warmup_steps": 2, "metrics": ["cer"], "min_new_tokens": 8, "max_new_tokens": 12}
    model = Shared(**{**specs(**parts or {}), **defaults, **options})
    logged, texts, figures = [], [], {}
    two = Trainer(
        accelerator="cpu",
        devices=DEVICES.get(strategy, 2),
        strategy=FSDP2(tensor_parallel_size=2) if strategy.startswith("tensor") else strategy,
        max_steps=steps,
        max_epochs=-1,
        logger=False,
        enable_progress_bar=False,
        enable_checkpointing=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
        gradient_clip_val=1.0,
        num_sanity_val_steps=0,
        default_root_dir=folder,
        **{"val_check_interval": 2, **(trainer or {})},
    )
    ended = model.on_validation_epoch_end

    def on_validation_epoch_end():
        gathered = model._run.gather

        def gather():
            predictions, wall_s = gathered()
            texts.extend((prediction.row, prediction.text) for prediction in predictions)
            return predictions, wall_s

        model._run.gather = gather
        ended()
        logged.append({key: float(value) for key, value in two.callback_metrics.items() if key.startswith("val_")})

    model.on_validation_epoch_end = on_validation_epoch_end
    log = model.on_train_batch_end

    def on_train_batch_end(*args):
        log(*args)
        seen = ("train_loss", "grad_norm", "speed/llm_padding")
        figures.update({key: float(two.callback_metrics[key]) for key in seen if key in two.callback_metrics})
        figures["utterances"] = model.meter.totals.counts.get("utterances", 0)
        figures["tflop"] = model.meter.totals.tflop

    model.on_train_batch_end = on_train_batch_end
    two.fit(model, ckpt_path=resume and f"{folder}/{resume}.ckpt", weights_only=True)
    two.save_checkpoint(f"{folder}/{name}.ckpt", weights_only=False)
    losses = model._processes.share(float(model.meter.last_loss))
    if two.is_global_zero:
        own = sum((p.to_local() if hasattr(p, "to_local") else p).numel() for p in model.parameters())
        share = own / sum(p.numel() for p in model.parameters())
        in_layers = sum(p.numel() for p in model.decoder.llm.base_model.layers.parameters())
        result = {"logged": logged, "share": share, "in_layers": in_layers, "texts": texts, "figures": figures}
        result["losses"] = losses
        Path(f"{folder}/{name}.json").write_text(json.dumps(result))


if __name__ == "__main__":
    torch.set_num_threads(1)
    for options in json.loads(sys.argv[2]):
        run(sys.argv[1], **options)
