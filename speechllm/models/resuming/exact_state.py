"""What a checkpoint needs beside Lightning's, so that a resumed run ends with the weights of one never stopped."""

from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities import rank_zero_warn

from speechllm.models.resuming.loop_progress import between_batches
from speechllm.models.resuming.random_state import (
    RandomState,
    gather_random_states,
    random_state,
    set_random_state,
    unpack,
)


class ExactState(Callback):
    """Put the random numbers of every process into each checkpoint, and the loops' counters in order.

    The state is that between two batches, wherever the checkpoint is written from, so that validation draws no random
    number of training: what it draws is forgotten before the next batch. :class:`LastCheckpoint` brings this along.
    """

    def __init__(self) -> None:
        self._state: RandomState | None = None
        self._batches = -1
        """Batches after which ``_state`` was taken."""
        self._validated = -1
        """Batches after which validation last ended."""
        self._restore = self._trained = False

    def between(self, trainer: Trainer) -> RandomState:
        """Return the random state after the last whole batch; the first call after a batch takes it."""
        if self._state is None or self._batches != batches_done(trainer):
            return self.take(trainer)
        return self._state

    def take(self, trainer: Trainer) -> RandomState:
        """Note where random numbers stand after a batch, when all that follows it has been done, and return that."""
        self._state, self._batches = random_state(), batches_done(trainer)
        return self._state

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Begin to draw where the checkpoint stood."""
        if self._restore and self._state is not None:
            set_random_state(self._state)
            self._batches = batches_done(trainer)
        self._trained, self._validated = False, -1

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Forget what was drawn since the last batch, and count steps as loggers do."""
        if self._restore and self._state is not None:
            set_random_state(self._state)
        if not self._trained:
            # Lightning's guess is one off for some hooks that a checkpoint can be written from.
            trainer.fit_loop.epoch_loop._batches_that_stepped = trainer.global_step
        self._restore, self._trained = False, True
        self.between(trainer)

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Let the next training batch draw as if there were no validation."""
        if trainer.state.fn == TrainerFn.FITTING and not trainer.sanity_checking:
            self.between(trainer)
            self._restore = True

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Note that it is done."""
        if trainer.state.fn == TrainerFn.FITTING and not trainer.sanity_checking:
            self._validated = batches_done(trainer)

    def validation_due(self, trainer: Trainer) -> bool:
        """Return whether validation follows the batch that is done, and has not been run."""
        loop = trainer.fit_loop.epoch_loop
        counts: Any = loop.batch_progress.total
        if counts.ready != counts.processed or counts.ready == 0:
            return False
        fetcher = trainer.fit_loop._data_fetcher
        return fetcher is not None and self._validated != batches_done(trainer) and loop._should_check_val_fx(fetcher)

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Add the random state of each process, and settle the counters."""
        if trainer.state.fn != TrainerFn.FITTING or not self._trained:
            return
        checkpoint["random_state"] = gather_random_states(self.between(trainer), trainer.world_size)
        fit_loop = checkpoint["loops"]["fit_loop"]
        checkpoint["loops"] = checkpoint["loops"] | {
            "fit_loop": between_batches(fit_loop, self.validation_due(trainer))
        }
        waiting = batches_done(trainer, "current") % trainer.accumulate_grad_batches
        ended = fit_loop["epoch_loop.batch_progress"]["is_last_batch"]
        checkpoint["accumulated_batches"] = 0 if ended else waiting

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Keep this process's random state until training begins, and say where the run cannot go on exactly."""
        if trainer.state.fn != TrainerFn.FITTING:
            return
        states = checkpoint.get("random_state", [])
        if len(states) == trainer.world_size:
            self._state, self._restore = unpack(states[trainer.global_rank]), True
        elif not states:
            rank_zero_warn(
                "The checkpoint holds no random state, as those of earlier versions: the run goes on in the right "
                "place, with dropout and masks other than those of a run that was never stopped."
            )
        else:
            rank_zero_warn(
                f"The checkpoint is of {len(states)} processes and the run goes on with {trainer.world_size}: in the "
                f"right place of the epoch, with dropout and masks other than those of a run that was never stopped."
            )
        if checkpoint.get("accumulated_batches", 0):
            rank_zero_warn(
                f"The checkpoint was written after {checkpoint['accumulated_batches']} of "
                f"{trainer.accumulate_grad_batches} accumulated batches, whose gradients it does not hold: the run "
                f"goes on without them. `last.ckpt` is written between steps."
            )


def batches_done(trainer: Trainer, kind: str = "total") -> int:
    """Return the number of batches that are trained on, in the run or in its ``"current"`` epoch."""
    done: int = getattr(trainer.fit_loop.epoch_loop.batch_progress, kind).processed
    return done
