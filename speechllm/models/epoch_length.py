"""Show how long an epoch is."""

from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import TQDMProgressBar


class EpochLength(Callback):
    """Give the progress bar the number of an epoch's batches.

    It differs from epoch to epoch, and is less in a resumed one, so that Lightning is not told of it: it would take the
    first for all.
    """

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Set the total, once an epoch."""
        progress = trainer.progress_bar_callback
        if isinstance(progress, TQDMProgressBar) and progress.is_enabled and progress.train_progress_bar.total is None:
            progress.train_progress_bar.total = getattr(trainer.datamodule, "training_batches", None)  # type: ignore[attr-defined]
