"""Keep the newest state of a run, whatever validation says of it."""

import time
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import EarlyStopping, Timer
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn
from lightning.pytorch.utilities.exceptions import SIGTERMException

from speechllm.errors import UserError
from speechllm.models.processes import Processes
from speechllm.models.resuming.exact_state import ExactState, batches_done
from speechllm.models.resuming.last_files import NEW, clean, forget, replace_last
from speechllm.models.resuming.stop_signals import StopSignals, requeue

AGREE_EVERY = 4
"""Steps between two times that several processes ask each other whether to write or to stop; their GPUs go on."""


class LastCheckpoint(Callback):
    """Write ``checkpoints/last.ckpt`` in the trainer's root folder: by the clock, after validation, and at every end.

    It is written between two steps of the optimiser, and holds all that the run needs to go on exactly. The one before
    is kept as ``last-1.ckpt``. ``ModelCheckpoint(save_last=True)`` writes only where the score has improved.

    An end is that of training, ``max_time``, SIGTERM, the requeue signal of SLURM, Ctrl-C, or an exception that left
    the state whole. ``max_time`` is that of each start, not of all together.

    Args:
        every_minutes: Minutes between two; null for none by the clock.
        every_steps: Optimiser steps between two; null for none by their number.
        keep: Number of last checkpoints that are kept.

    Raises:
        UserError: If a number is too low.
    """

    def __init__(self, every_minutes: float | None = 10.0, every_steps: int | None = None, keep: int = 2) -> None:
        for name, value, allowed in (
            ("every_minutes", every_minutes, "above 0"),
            ("every_steps", every_steps, "at least 1"),
            ("keep", keep, "at least 1"),
        ):
            if value is not None and not value > 0:
                msg = f"`last_checkpoint.{name}` must be {allowed}, but is {value}."
                raise UserError(msg)
        self.every_minutes, self.every_steps, self.keep = every_minutes, every_steps, keep
        self.signals = StopSignals()
        self.exact = ExactState()
        self._reset()

    def _reset(self) -> None:
        self._due = self._resumed = self._stepping = self._stop = self._agreed = self._requeue = False
        self._written = self._whole = self._first = -1
        self._written_s = time.monotonic()
        self._processes: Processes | None = None

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Take the place after all other callbacks, whose state is in what is written."""
        if stage != "fit":
            return
        self._reset()
        own = [callback for callback in trainer.callbacks if isinstance(callback, ExactState)]  # type: ignore[attr-defined]
        self.exact = own[0] if own else self.exact
        others = [callback for callback in trainer.callbacks if callback not in (self, self.exact)]  # type: ignore[attr-defined]
        trainer.callbacks = [self.exact, *others, self]  # type: ignore[attr-defined]
        if trainer.is_global_zero:
            clean(self._folder(trainer))

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Let ``max_time`` begin anew: it is the time of a job, and the one before used it up."""
        checkpoint["callbacks"].pop(Timer.__qualname__, None)
        self._resumed = True

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Listen for signals, and begin to count."""
        self.signals.listen(trainer)
        self._written = self._whole = self._first = batches_done(trainer)
        self._written_s = time.monotonic()
        if not self._resumed and trainer.is_global_zero and not trainer.fast_dev_run:  # type: ignore[attr-defined]
            forget(self._folder(trainer))

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Write if it is due; nothing of this batch is done yet, and all of the last one is, validation included."""
        if self._whole == batches_done(trainer):
            self._heed(trainer)
            if self._due:
                self._write(trainer)

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: Any) -> None:
        """Note that weights are about to change."""
        self._stepping = True

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Find out whether a write is due, or the run is to stop; never within the accumulation of a step."""
        self._stepping = False
        self.exact.take(trainer)
        if trainer.fit_loop._should_accumulate():
            self._wait(trainer)
            return
        self._whole = batches_done(trainer)
        self._agree(trainer)
        if self._stop:
            trainer.should_stop = True
        progress = trainer.fit_loop.epoch_loop.batch_progress
        ended = progress.is_last_batch and not self.exact.validation_due(trainer)
        if trainer.world_size == 1 and not ended and not self._final(trainer):
            self._heed(trainer)  # before a validation that may follow

    def on_validation_batch_end(self, trainer: Trainer, pl_module: LightningModule, *args: Any, **kwargs: Any) -> None:
        """Break a validation off; it begins anew when the run goes on."""
        if trainer.state.fn == TrainerFn.FITTING and not trainer.sanity_checking and trainer.world_size == 1:
            if self._whole == batches_done(trainer) and not self._final(trainer):
                self._heed(trainer)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write at the next batch, or at the end of training."""
        if trainer.state.fn == TrainerFn.FITTING and not trainer.sanity_checking:
            self._due = True
            if self._whole != batches_done(trainer):
                self._wait(trainer)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Save the steps after the last write, and say what is left of a run whose time was up."""
        if self._written != batches_done(trainer) or self._due:
            self._write(trainer)
        if any(isinstance(callback, Timer) and (callback.time_remaining() or 1) <= 0 for callback in trainer.callbacks):  # type: ignore[attr-defined]
            rank_zero_info(f"Stopped by `max_time` at step {trainer.global_step}. Go on with `--resume auto`.")

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Save what was done before, where it is whole and this process alone can; never hide what was raised."""
        done = batches_done(trainer)
        if trainer.state.fn != TrainerFn.FITTING or self._first < 0 or done in (self._first, self._written):
            return
        if trainer.world_size > 1 or self._stepping or self._whole != done or _changes_in_forward(pl_module):
            return
        if self._final(trainer) and self.exact.validation_due(trainer):
            return  # a run at its last step would count as finished, without its last validation
        try:
            self._write(trainer)
        except Exception as error:  # the device, or the disk, may be what failed
            rank_zero_warn(f"The state before the exception could not be saved: {error}")

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Say whether the run came to its end by itself."""
        if any(_has_stopped(callback) for callback in trainer.callbacks):  # type: ignore[attr-defined]
            checkpoint["finished"] = "early stopping"

    def _wait(self, trainer: Trainer) -> None:
        """Put a stop off until the step is whole: gradients are not in checkpoints."""
        if trainer.should_stop:
            self._stop, trainer.should_stop = True, False

    def _agree(self, trainer: Trainer) -> None:
        """Find out whether a write is due, and, of several processes, whether any is asked to stop."""
        if self.every_steps and trainer.global_step % self.every_steps == 0:
            self._due = True
        late = self.every_minutes is not None and time.monotonic() - self._written_s >= 60 * self.every_minutes
        if trainer.world_size == 1:
            self._due |= late
        elif trainer.global_step % AGREE_EVERY == 0:
            own = (late, self.signals.received is not None, self.signals.asks_for_requeue)
            self._processes = self._processes or Processes(trainer)
            late, self._agreed, self._requeue = map(any, zip(*self._processes.share(own), strict=True))
            self._due |= late

    def _heed(self, trainer: Trainer) -> None:
        """Save and leave, if a signal asked for it.

        Raises:
            SIGTERMException: If so.
        """
        alone = trainer.world_size == 1
        if not (self.signals.received is not None if alone else self._agreed):
            return
        if batches_done(trainer) not in (self._first, self._written):
            self._write(trainer)
        rank_zero_info(f"Stopped by a signal at step {trainer.global_step}. Go on with `--resume auto`.")
        if trainer.is_global_zero and (self.signals.asks_for_requeue if alone else self._requeue):
            requeue()
        raise SIGTERMException

    def _write(self, trainer: Trainer) -> None:
        if trainer.fast_dev_run:  # type: ignore[attr-defined]
            return
        folder, whole = self._folder(trainer), self._whole
        self._whole = -1  # what cannot be written now cannot be while the exception passes either
        trainer.save_checkpoint(folder / NEW, weights_only=False)
        if trainer.is_global_zero:
            replace_last(folder, self.keep)
        trainer.strategy.barrier("last checkpoint")
        self._whole = whole
        self._due, self._written, self._written_s = False, batches_done(trainer), time.monotonic()

    @staticmethod
    def _final(trainer: Trainer) -> bool:
        return 0 <= trainer.max_steps <= trainer.global_step

    @staticmethod
    def _folder(trainer: Trainer) -> Path:
        return Path(trainer.default_root_dir) / "checkpoints"


def _has_stopped(callback: Callback) -> bool:
    return isinstance(callback, EarlyStopping) and callback.wait_count >= callback.patience


def _changes_in_forward(model: LightningModule) -> bool:
    """Return whether a batch that broke off may have left traces, as in the running means of batch normalisation."""
    norms = (module for module in model.modules() if isinstance(module, torch.nn.modules.batchnorm._BatchNorm))
    return any(norm.training and norm.track_running_stats for norm in norms)
