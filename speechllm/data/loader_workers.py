"""What the processes of a DataLoader do when the whole job is asked to stop."""

import signal
from types import FrameType

GRACE_S = 120
"""How long a worker goes on after SIGTERM, for the step under way and the checkpoint after it, in seconds."""


def outlive_sigterm(worker: int) -> None:
    """Let this worker go on for a while after SIGTERM; a DataLoader's ``worker_init_fn``.

    SLURM and others send it to all processes of a job at once. A worker that died would break the step that the
    training process wants to finish before it writes its checkpoint; when that process ends, its workers end too.

    Args:
        worker: Number of the worker.
    """

    def begin_grace(number: int, frame: FrameType | None) -> None:
        signal.alarm(GRACE_S)

    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.signal(signal.SIGTERM, begin_grace)
