"""Keep the newest state of a run, whatever validation says of it."""

import os
from pathlib import Path

from lightning.pytorch import Callback, LightningModule, Trainer


class LastCheckpoint(Callback):
    """Write ``checkpoints/last.ckpt`` in the trainer's root folder after each validation and at the end of training.

    ``ModelCheckpoint(save_last=True)`` writes it only where the score has improved. The file is replaced at once, so
    that a run which dies while writing leaves the one before.
    """

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Save, but for the validation before training."""
        if trainer.state.fn == "fit" and not trainer.sanity_checking:
            self._save(trainer)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Save the steps after the last validation."""
        self._save(trainer)

    def _save(self, trainer: Trainer) -> None:
        if trainer.fast_dev_run:  # type: ignore[attr-defined]
            return
        path = Path(trainer.default_root_dir) / "checkpoints" / "last.ckpt"
        unfinished = path.with_name(".last.ckpt.unfinished")
        trainer.save_checkpoint(unfinished, weights_only=False)
        if trainer.is_global_zero:
            os.replace(unfinished, path)
        trainer.strategy.barrier("last checkpoint")
