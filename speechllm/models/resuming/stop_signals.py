"""Signals that ask a run to stop: they are noted, and heeded between two steps, where nothing is half done."""

import os
import re
import signal
import subprocess
import threading
from types import FrameType

from lightning.fabric.plugins.environments.slurm import SLURMEnvironment
from lightning.pytorch import Trainer
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn

REQUEUE_TIMEOUT_S = 60


class StopSignals:
    """Listen for SIGTERM, and under SLURM for the signal that says that the time of the job is nearly over.

    They replace Lightning's, which save in the middle of whatever is under way.

    Attributes:
        received: The first signal that came, None before.
    """

    def __init__(self) -> None:
        self.received: int | None = None
        self._requeue_signal: int | None = None

    def listen(self, trainer: Trainer) -> None:
        """Install the handlers; Lightning puts back those before its own when the run is over."""
        self.received = None
        if threading.current_thread() is not threading.main_thread():
            return
        # Lightning's own handler is gone, and what asks in every step, by way of the GPU, whether it was called.
        trainer.fit_loop.epoch_loop._broadcast_sigterm_tensor = _nothing  # type: ignore[method-assign]
        environment = trainer._accelerator_connector.cluster_environment
        signal.signal(signal.SIGTERM, self._handle)
        if isinstance(environment, SLURMEnvironment) and environment.auto_requeue and environment.requeue_signal:
            self._requeue_signal = environment.requeue_signal
            signal.signal(self._requeue_signal, self._handle)

    @property
    def asks_for_requeue(self) -> bool:
        """Whether the job is to be put back into the queue."""
        return self.received is not None and self.received == self._requeue_signal

    def _handle(self, number: int, frame: FrameType | None) -> None:
        # SLURM sends SIGTERM to jobs that it requeues, too.
        self.received = self.received or number


def _nothing() -> None:
    """Do nothing."""


def requeue() -> bool:
    """Put this SLURM job back into the queue; return whether SLURM took it, with a warning where not."""
    array, task = os.environ.get("SLURM_ARRAY_JOB_ID"), os.environ.get("SLURM_ARRAY_TASK_ID")
    job = f"{array}_{task}" if array else os.environ.get("SLURM_JOB_ID", "")
    if not re.fullmatch(r"[0-9_-]+", job):
        rank_zero_warn(f"SLURM gives no number of this job ('{job}'): it is not requeued. Submit it again.")
        return False
    try:
        command = ["scontrol", "requeue", job]
        done = subprocess.run(command, capture_output=True, text=True, timeout=REQUEUE_TIMEOUT_S, check=False)
        problem = done.stderr.strip() if done.returncode else ""
    except (OSError, subprocess.TimeoutExpired) as error:
        problem = str(error)
    if problem:
        rank_zero_warn(f"SLURM job {job} could not be requeued: {problem}. Submit it again.")
        return False
    rank_zero_info(f"SLURM job {job} is back in the queue.")
    return True
