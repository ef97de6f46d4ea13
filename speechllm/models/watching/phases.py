"""Where a run stands, and how long it has spent where."""

import time
from collections import deque
from enum import StrEnum
from statistics import median
from typing import Any, Self

from lightning.pytorch import Trainer
from lightning.pytorch.profilers import PassThroughProfiler, Profiler


class Phase(StrEnum):
    """What a process is busy with; waiting for a GPU or for other processes counts as what it waits in."""

    DATA = "waiting for data"
    FORWARD = "forward"
    BACKWARD = "backward"
    OPTIMISER = "optimiser"
    BETWEEN = "between steps"
    VALIDATION = "validation"
    SCORING = "scoring"
    CHECKPOINT = "checkpoint"
    OTHER = "set-up or clean-up"


TRAINING = (Phase.DATA, Phase.FORWARD, Phase.BACKWARD, Phase.OPTIMISER, Phase.BETWEEN)
"""Phases of a training step."""

_HOOKS = {
    "training_step": Phase.FORWARD,
    "backward": Phase.BACKWARD,
    "optimizer_step": Phase.OPTIMISER,  # the closure inside it runs forward and backward, which say so themselves
    "train_dataloader_next": Phase.DATA,
    "run_training_epoch": Phase.BETWEEN,
    "save_checkpoint": Phase.CHECKPOINT,
}
"""Phases by the last word of the actions that Lightning reports to a profiler."""

_EVALUATION_HOOKS = {
    **dict.fromkeys(("step", "next"), Phase.VALIDATION),
    **dict.fromkeys(("epoch_start", "epoch_end"), Phase.SCORING),
}
_EVALUATIONS = ("val", "validation", "test", "predict")
KEPT_STEPS = 50
"""Steps that the median of their time is taken over."""


class PhaseClock(Profiler):
    """A profiler that knows the present phase and adds up the time of each; another profiler goes on behind it.

    Lightning tells a profiler of every beginning and end of what it does; nothing else does, and a hook at the begin of
    fetching a batch does not exist.

    Args:
        behind: Profiler that the trainer had.

    Attributes:
        place: Phase, and the time on :func:`time.monotonic` since when; replaced at once, so that another thread may
            read it.
        steps: Training batches that this process has done.
    """

    def __init__(self, behind: Profiler) -> None:
        super().__init__()
        self._behind = None if isinstance(behind, PassThroughProfiler) else behind
        self._open: list[tuple[str, Phase]] = []
        self._known: dict[str, Phase | None] = {}
        self._seconds = dict.fromkeys(Phase, 0.0)
        self._validating = False
        self._step_times_s: deque[float] = deque(maxlen=KEPT_STEPS)
        self._trained_s = 0.0
        self.place = (Phase.OTHER, time.monotonic())
        self.steps = 0

    @classmethod
    def of(cls, trainer: Trainer) -> Self:
        """Return the clock of a trainer, which gets one where it has none."""
        owner: Any = trainer  # Lightning does not declare the attribute that it documents
        if not isinstance(owner.profiler, cls):
            owner.profiler = cls(owner.profiler)
        clock: Self = owner.profiler
        return clock

    @property
    def median_step_s(self) -> float | None:
        """Median time of the last training batches in seconds; None before the first."""
        times = tuple(self._step_times_s)
        return median(times) if times else None

    def seconds(self) -> dict[Phase, float]:
        """Return the seconds that were spent in each phase so far, the present one included."""
        phase, since = self.place
        seconds = dict(self._seconds)
        seconds[phase] += time.monotonic() - since
        return seconds

    def start(self, action_name: str) -> None:
        """Enter what Lightning begins."""
        if self._behind is not None:
            self._behind.start(action_name)
        if action_name.endswith(".on_validation_start"):
            self._validating = True
        outside = self._open[-1][1] if self._open else Phase.OTHER
        self._open.append((action_name, self._phase(action_name) or outside))
        self._move()

    def stop(self, action_name: str) -> None:
        """Leave what Lightning has ended."""
        if self._behind is not None:
            self._behind.stop(action_name)
        while self._open and self._open.pop()[0] != action_name:
            pass
        if action_name.startswith("[LightningModule]") and action_name.endswith(".on_validation_end"):
            self._validating = False
        self._move()
        if action_name == "run_training_batch":
            self._count_step()

    def _count_step(self) -> None:
        trained_s = sum(seconds for phase, seconds in self.seconds().items() if phase in TRAINING)
        self._step_times_s.append(trained_s - self._trained_s)
        self._trained_s = trained_s
        self.steps += 1

    def _move(self) -> None:
        phase = self._open[-1][1] if self._open else Phase.OTHER
        if self._validating and phase in (Phase.BETWEEN, Phase.OTHER):
            phase = Phase.VALIDATION
        before, since = self.place
        if phase != before:
            now = time.monotonic()
            self._seconds[before] += now - since
            self.place = (phase, now)

    def _phase(self, action_name: str) -> Phase | None:
        if action_name not in self._known:
            self._known[action_name] = phase_of(action_name)
        return self._known[action_name]

    # What a profiler does beside

    def setup(self, stage: str, local_rank: int | None = None, log_dir: str | None = None) -> None:
        """Set up the profiler behind this one."""
        if self._behind is not None:
            self._behind.setup(stage, local_rank, log_dir)

    def teardown(self, stage: str | None) -> None:
        """Close the profiler behind this one."""
        if self._behind is not None:
            self._behind.teardown(stage)

    def summary(self) -> str:
        """Return the summary of the profiler behind this one."""
        return "" if self._behind is None else self._behind.summary()

    def describe(self) -> None:
        """Let the profiler behind this one report."""
        if self._behind is not None:
            self._behind.describe()

    def __setattr__(self, name: str, value: Any) -> None:
        super().__setattr__(name, value)
        if name == "_lightning_module" and self._behind is not None:
            self._behind._lightning_module = value  # type: ignore[attr-defined]


def phase_of(action_name: str) -> Phase | None:
    """Return the phase that an action of Lightning's begins; None where it changes nothing.

    Args:
        action_name: Such as ``[Strategy]DDPStrategy.backward`` or ``run_training_batch``.
    """
    owner, _, hook = action_name.rpartition(".")
    if owner.startswith("[Callback]"):
        return None
    if hook in _HOOKS:
        return _HOOKS[hook]
    stage, _, rest = hook.removeprefix("on_").partition("_")
    return _EVALUATION_HOOKS.get(rest) if stage in _EVALUATIONS else None
