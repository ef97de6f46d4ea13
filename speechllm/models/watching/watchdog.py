"""Report steps that stand still, and end a run whose processes have lost one of theirs."""

import faulthandler
import os
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities.exceptions import SIGTERMException

from speechllm.errors import UserError
from speechllm.models.watching.peers import Alone, Departure, Peers, connect
from speechllm.models.watching.phases import PhaseClock
from speechllm.models.watching.stalls import Limits, StallTimer, describe_stall, stack_of

EXIT_STATUS = 75
"""Status of a process that ends for the sake of another (``EX_TEMPFAIL``): the run may be started again as it is."""

POLL_S = 1.0
"""Seconds between two looks at the clock."""

SHOWN_CALLS = 12
"""Innermost calls of a stack that all processes' report shows; the log file of each has all."""

DEAF_S = 120.0
"""Seconds without a look at the clock after which the stacks are written: something keeps Python from running."""


class Watch(threading.Thread):
    """The thread that looks at the clock and listens to the other processes.

    Args:
        clock: Clock of this process.
        peers: The other processes.
        limits: When a phase is a stall.
        grace_s: Seconds that this process has to end by itself after another is gone.
        step: Returns the optimiser step.
        folder: Folder of the log files; None writes none.
        poll_s: Seconds between two looks.
    """

    def __init__(
        self,
        clock: PhaseClock,
        peers: Peers,
        limits: Limits,
        grace_s: float,
        step: Callable[[], int],
        folder: Path | None,
        poll_s: float = POLL_S,
    ) -> None:
        super().__init__(name="speechllm-watchdog", daemon=True)
        self._clock, self._peers, self._step, self._poll_s = clock, peers, step, poll_s
        self._timer = StallTimer(clock, limits)
        self._grace_s, self._end_at = grace_s, 0.0
        self._main = threading.get_ident()
        self._path = None if folder is None else folder / f"watchdog_{peers.me.rank}.log"
        self._done = threading.Event()
        self._reported = False
        self.bereaved = threading.Event()

    def run(self) -> None:
        """Look and listen until :meth:`finish`, or until this process has to end."""
        try:
            while not self._done.is_set():
                arm(DEAF_S)
                for departure in self._peers.poll(self._poll_s):
                    self._lose(departure)
                self._look()
                if self.bereaved.is_set() and time.monotonic() > self._end_at:
                    self._end()
        except Exception as error:  # what watches a run must not end it
            self._say(f"speechllm: the watchdog of rank {self._peers.me.rank} has stopped: {error!r}")
        finally:
            faulthandler.cancel_dump_traceback_later()

    def finish(self) -> None:
        """Stop, unless this process has to end in any case: its main thread may hang on its way out."""
        if not self.bereaved.is_set():
            self._done.set()
            self.join(timeout=10 * self._poll_s)

    def leave(self, how: str, failed: bool) -> None:
        """Tell the others that this process ends, and stop."""
        self.finish()
        if self._done.is_set():
            self._peers.leave(how, failed)

    def _look(self) -> None:
        phase, since = self._clock.place
        stalled = self._timer.stalled
        place: dict[str, Any] = {"step": self._step(), "phase": phase.value, "for_s": time.monotonic() - since}
        if stalled:
            place |= {"stalled": True, "stack": stack_of(self._main, SHOWN_CALLS)}
        self._peers.tell(place)
        known = self._peers.known()
        anywhere = any(peer.place.get("stalled") for peer in known if not peer.ended)
        if self._timer.due(anywhere):
            self._report(describe_stall(known, self._clock.median_step_s), place)
        elif self._reported and not anywhere:
            self._reported = False
            self._say("speechllm: the run goes on.")

    def _report(self, text: str, place: dict[str, Any]) -> None:
        self._reported = True
        first_or_alone = self._peers.me.rank == 0 or isinstance(self._peers, Alone)
        stack = stack_of(self._main)
        self._write(f"{text}\nThe main thread of this process stands here:\n{stack}")
        if first_or_alone:
            where = "" if self._path is None else f"\nEach process writes its own stack to {self._path.parent}."
            print(text + where, file=sys.stderr, flush=True)

    def _lose(self, departure: Departure) -> None:
        peer, me = departure.peer, self._peers.me
        stood = f" It was last in {peer.place['phase']} of step {peer.place['step']}." if peer.place else ""
        text = (
            f"speechllm: {peer} is gone: {departure.why}.{stood} Rank {me.rank} cannot go on without it, and ends "
            f"within {self._grace_s:.0f} s. What that process printed last says why, or the system's log where memory "
            f"was short. Go on with `--resume auto`."
        )
        if self.bereaved.is_set():  # the others end for the sake of the first one, and are gone in turn
            self._write(text)
        else:
            self._say(text)
            self._end_at = time.monotonic() + self._grace_s
            self.bereaved.set()

    def _end(self) -> None:
        stack = stack_of(self._main)
        self._write(f"The main thread stood here when this process was ended:\n{stack}")
        self._say(f"speechllm: rank {self._peers.me.rank} ends with status {EXIT_STATUS}.")
        sys.stdout.flush()
        os._exit(EXIT_STATUS)

    def _say(self, text: str) -> None:
        print(text, file=sys.stderr, flush=True)
        self._write(text)

    def _write(self, text: str) -> None:
        if self._path is not None:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            with self._path.open("a", encoding="utf-8") as file:
                file.write(f"{time.strftime('%Y-%m-%d %H:%M:%S')} {text}\n")


def arm(after_s: float) -> None:
    """Let the stacks of all threads be written after a time, unless this is called again before.

    That works while Python itself hangs, which the watchdog's own thread, written in it, cannot see.
    """
    try:
        faulthandler.dump_traceback_later(after_s)
    except (AttributeError, OSError, RuntimeError, ValueError):  # no stream that has a file, as in a notebook
        return


class Watchdog(Callback):
    """Report steps that stand still, and let no process wait for one that is gone.

    Args:
        report_after_s: Seconds that a phase of a training step (data, forward, backward, optimiser) may take before it
            is reported with the place where each process stands.
        report_after_steps: Median steps that it may take, where that is longer.
        slow_s: Seconds that one of the first steps, a batch of validation or a checkpoint may take. Loading weights and
            scoring may take for ever.
        end_together: Whether a process ends where another is gone or has failed, and does not wait for it.
        grace_s: Seconds that such a process has to end by itself, before it is ended with status 75.

    Raises:
        UserError: If a number is not above 0.
    """

    def __init__(
        self,
        report_after_s: float = 60.0,
        report_after_steps: float = 10.0,
        slow_s: float = 900.0,
        end_together: bool = True,
        grace_s: float = 20.0,
    ) -> None:
        given = {"report_after_s": report_after_s, "report_after_steps": report_after_steps, "slow_s": slow_s}
        for name, value in {**given, "grace_s": grace_s}.items():
            if not value > 0:
                msg = f"`watchdog.{name}` must be above 0, but is {value:g}."
                raise UserError(msg)
        self._limits = Limits(report_after_s, report_after_steps, slow_s)
        self._end_together, self._grace_s = end_together, grace_s
        self._watch: Watch | None = None

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Begin to watch, before weights are loaded."""
        peers = self._connect(trainer)
        folder = None if trainer.fast_dev_run else Path(trainer.default_root_dir) / "logs"  # type: ignore[attr-defined]
        self._watch = Watch(
            PhaseClock.of(trainer), peers, self._limits, self._grace_s, lambda: trainer.global_step, folder
        )
        self._watch.start()

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Stop to watch."""
        self._leave("has finished", failed=False)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Tell the other processes, which would wait for this one; see first whether it is one of them that failed."""
        if self._watch is not None and trainer.world_size > 1:
            self._watch.bereaved.wait(2 * POLL_S)
        if isinstance(exception, SIGTERMException):  # all were told to stop
            self._leave("was stopped by SIGTERM", failed=False)
        else:
            self._leave(f"it failed with {type(exception).__name__}: {str(exception)[:500]}", failed=True)

    def _connect(self, trainer: Trainer) -> Peers:
        rank = trainer.global_rank
        if trainer.world_size == 1 or not self._end_together:
            return Alone(rank)
        address = os.environ.get("MASTER_ADDR", "127.0.0.1")
        try:
            return connect(rank, trainer.world_size, address, trainer.strategy.broadcast)
        except OSError as error:
            message = f"rank {rank} cannot reach the first process at {address} ({error})"
            print(f"speechllm: {message}: the others will not notice when it dies.", file=sys.stderr, flush=True)
            return Alone(rank)

    def _leave(self, how: str, failed: bool) -> None:
        if self._watch is not None:
            self._watch.leave(how, failed)
            self._watch = None
