"""Progress of a run: a bar in a terminal, a line now and then where output goes to a file."""

import sys
import time
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import ProgressBar, TQDMProgressBar
from lightning.pytorch.callbacks.progress.tqdm_progress import Tqdm
from torch import Tensor

REFRESH_S = 1.0
"""Least seconds between two refreshes of the bar."""

FIRST_LINE_S = 30.0
"""Seconds after which the first line of a stage is written to a file."""

LINE_S = 300.0
"""Seconds between two lines after it."""


class LateFigure:
    """A figure of the device that is shown when it has arrived: nobody waits for it."""

    def __init__(self) -> None:
        self._coming: tuple[Tensor, Any] | None = None
        self._value: float | None = None

    def update(self, tensor: Tensor | None) -> float | None:
        """Send for ``tensor``, a scalar, and return the newest value that is here; None before the first."""
        if self._coming is not None and (self._coming[1] is None or self._coming[1].query()):
            self._value, self._coming = float(self._coming[0]), None
        if self._coming is None and tensor is not None:
            event = None
            copy = tensor.detach().to("cpu", non_blocking=True)
            if tensor.device.type == "cuda":
                event = torch.cuda.Event()  # type: ignore[no-untyped-call]
                event.record()
            elif tensor.device.type == "cpu":
                self._value = float(copy)
                return self._value
            self._coming = (copy, event)
        return self._value


def run_progress(trainer: Trainer, seconds: float, first_step: int) -> str:
    """Return step, share, time and time left of a run: ``step 1,200/28,000 (4 %), 2:03:11, 21:40:00 left``.

    Args:
        trainer: The trainer.
        seconds: Seconds since training began, validations included.
        first_step: Step at which it began.
    """
    step, last = trainer.global_step, trainer.max_steps
    if last <= 0:
        return f"step {step:,}, epoch {trainer.current_epoch}, {clock(seconds)}"
    left = "" if step <= first_step else f", {clock(seconds / (step - first_step) * (last - step))} left"
    return f"step {step:,}/{last:,} ({100 * step // last} %), {clock(seconds)}{left}"


def clock(seconds: float) -> str:
    """Return a time as ``h:mm:ss``."""
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02d}:{rest:02d}"


def figures(trainer: Trainer, pl_module: LightningModule, loss: LateFigure) -> dict[str, float]:
    """Return what progress shows: loss, speed, learning rate, and what validation said last."""
    meter: Any = getattr(pl_module, "meter", None)
    shown = dict(trainer.progress_bar_metrics)
    value = loss.update(meter.last_loss) if meter is not None else None
    return ({} if value is None else {"loss": value}) | (meter.shown if meter is not None else {}) | shown


class RunBar(TQDMProgressBar):
    """A bar over the steps of the whole run, whose time left is that of the run.

    Without ``max_steps``, it is over the batches of an epoch.
    """

    def __init__(self) -> None:
        super().__init__()
        self._loss = LateFigure()
        self._refreshed = 0.0

    def init_train_tqdm(self) -> Tqdm:
        """Return a bar that goes on from the step of a resumed run."""
        bar = super().init_train_tqdm()
        if self.trainer.max_steps > 0:
            bar.total = self.trainer.max_steps
            bar.n = bar.initial = self.trainer.global_step
        return bar

    def get_metrics(self, trainer: Trainer, pl_module: LightningModule) -> dict[str, Any]:
        """Return the figures beside the bar."""
        return {name: f"{value:.3g}" for name, value in figures(trainer, pl_module, self._loss).items()}

    def on_train_epoch_start(self, trainer: Trainer, *_: Any) -> None:
        """Name the epoch."""
        if trainer.max_steps <= 0:
            super().on_train_epoch_start(trainer)
        self.train_progress_bar.set_description(f"Epoch {trainer.current_epoch}", refresh=False)

    def on_train_batch_start(self, trainer: Trainer, *_: Any) -> None:
        """Set the number of an epoch's batches, which differs from epoch to epoch and is less in a resumed one."""
        if self.train_progress_bar.total is None:
            self.train_progress_bar.total = getattr(trainer.datamodule, "training_batches", None)  # type: ignore[attr-defined]

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Refresh the bar, no more than once a second."""
        now = time.monotonic()
        self.train_progress_bar.n = trainer.global_step if trainer.max_steps > 0 else batch_idx + 1
        if self.is_enabled and now - self._refreshed >= REFRESH_S:
            self._refreshed = now
            self.train_progress_bar.set_postfix(self.get_metrics(trainer, pl_module))


class RunLines(ProgressBar):
    """A line about every five minutes, and one after each validation, for output that goes to a file.

    Args:
        first_s: Seconds before the first line of a stage.
        every_s: Seconds between two lines after it.
    """

    def __init__(self, first_s: float = FIRST_LINE_S, every_s: float = LINE_S) -> None:
        super().__init__()
        self._first_s, self._every_s = first_s, every_s
        self._enabled = True
        self._loss = LateFigure()
        self._started = self._next = time.monotonic()
        self._first_step = 0

    def disable(self) -> None:
        """Write nothing, as on all processes but the first."""
        self._enabled = False

    def enable(self) -> None:
        """Write again."""
        self._enabled = True

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start the clock."""
        self._begin()
        self._first_step = trainer.global_step

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Write a line if it is time."""
        if self._due():
            where = run_progress(trainer, time.monotonic() - self._started, self._first_step)
            self._write(where, figures(trainer, pl_module, self._loss))
        elif self._next - time.monotonic() < 2 * REFRESH_S and self._enabled:
            self._loss.update(getattr(getattr(pl_module, "meter", None), "last_loss", None))

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write what it says."""
        if trainer.state.fn == "fit" and not trainer.sanity_checking and self._enabled:
            self._write(f"step {trainer.global_step:,}, validation", dict(trainer.progress_bar_metrics))

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start the clock."""
        self._begin()

    def on_predict_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start the clock."""
        self._begin()

    def on_test_batch_end(self, trainer: Trainer, pl_module: LightningModule, *args: Any, **kwargs: Any) -> None:
        """Write a line if it is time."""
        self._decoded("test", args, self.total_test_batches_current_dataloader)

    def on_test_batch_start(self, trainer: Trainer, pl_module: LightningModule, *args: Any, **kwargs: Any) -> None:
        """Note which data are tested."""
        self.has_dataloader_changed(args[2] if len(args) > 2 else 0)

    def on_predict_batch_start(self, trainer: Trainer, pl_module: LightningModule, *args: Any, **kwargs: Any) -> None:
        """Note which data are decoded."""
        self.has_dataloader_changed(args[2] if len(args) > 2 else 0)

    def on_predict_batch_end(self, trainer: Trainer, pl_module: LightningModule, *args: Any, **kwargs: Any) -> None:
        """Write a line if it is time."""
        self._decoded("predict", args, self.total_predict_batches_current_dataloader)

    def _decoded(self, stage: str, args: tuple[Any, ...], total: float) -> None:
        if self._due():
            self._write(f"{stage}: batch {args[2] + 1}/{total}, {clock(time.monotonic() - self._started)}", {})

    def _begin(self) -> None:
        self._started = time.monotonic()
        self._next = self._started + self._first_s

    def _due(self) -> bool:
        if not self._enabled or time.monotonic() < self._next:
            return False
        self._next = time.monotonic() + self._every_s
        return True

    def _write(self, where: str, values: dict[str, float]) -> None:
        shown = "".join(f", {name} {value:.4g}" for name, value in values.items())
        print(f"{time.strftime('%H:%M:%S')} {where}{shown}", flush=True)


def choose_progress() -> ProgressBar:
    """Return a bar for a terminal, lines for anything else."""
    return RunBar() if sys.stdout.isatty() else RunLines()
