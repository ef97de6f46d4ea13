"""When a process stands still, and what to say of it."""

import math
import sys
import time
import traceback
from collections.abc import Sequence
from dataclasses import dataclass

from speechllm.models.watching.peers import Peer
from speechllm.models.watching.phases import TRAINING, Phase, PhaseClock

FIRST_STEPS = 3
"""Training batches that may take long: kernels are compiled, buffers laid out, readers started."""

STEP_PHASES = (Phase.BETWEEN, Phase.DATA, Phase.FORWARD, Phase.BACKWARD, Phase.OPTIMISER)
"""Phases of a step in their order: of processes that wait for each other, the first in it is what the rest wait for."""

LONGEST_PAUSE_S = 3600.0
"""Longest time between two reports of one stall, in seconds."""


@dataclass(frozen=True)
class Limits:
    """How long a phase may take before it counts as a stall.

    Attributes:
        least_s: Seconds that any phase of a training step may take.
        steps: Median steps that it may take, where that is more.
        slow_s: Seconds that a phase of the first steps, a batch of validation and a checkpoint may take.
    """

    least_s: float = 60.0
    steps: float = 10.0
    slow_s: float = 900.0

    def limit_s(self, phase: Phase, clock: PhaseClock) -> float:
        """Return how long a phase may take now, in seconds; scoring and loading may take for ever."""
        if phase in TRAINING:
            usual_s = clock.median_step_s
            if usual_s is None or clock.steps < FIRST_STEPS:
                return self.slow_s
            return max(self.least_s, self.steps * usual_s)
        return self.slow_s if phase in (Phase.VALIDATION, Phase.CHECKPOINT) else math.inf


class StallTimer:
    """Say when a stall is to be reported: when it has lasted too long, then at growing intervals.

    Args:
        clock: Clock of the process.
        limits: The limits.
    """

    def __init__(self, clock: PhaseClock, limits: Limits) -> None:
        self._clock, self._limits = clock, limits
        self._first_seen = self._next = 0.0

    @property
    def stalled(self) -> bool:
        """Whether the present phase takes longer than it may."""
        phase, since = self._clock.place
        return time.monotonic() - since > self._limits.limit_s(phase, self._clock)

    def due(self, stalled: bool) -> bool:
        """Return whether to report now.

        Args:
            stalled: Whether this process, or one that it knows of, stands still.
        """
        if not stalled:
            self._first_seen = 0.0
            return False
        now = time.monotonic()
        if not self._first_seen:
            self._first_seen = self._next = now
        if now < self._next:
            return False
        self._next = now + min(max(now - self._first_seen, self._limits.least_s), LONGEST_PAUSE_S)
        return True


def stack_of(thread: int, frames: int | None = None) -> str:
    """Return where a thread of this process stands, as Python shows it.

    Args:
        thread: Its identifier.
        frames: Number of innermost calls to show; None shows all.
    """
    frame = sys._current_frames().get(thread)
    if frame is None:
        return "  (the thread has ended)\n"
    return "".join(traceback.format_stack(frame)[-(frames or 0) :])


def describe_stall(peers: Sequence[Peer], usual_s: float | None) -> str:
    """Return where all processes stand, those that the others wait for last, with their stack.

    Args:
        peers: The processes that are known, with their places.
        usual_s: Median time of a training batch, in seconds.
    """
    now = time.monotonic()
    usual = "" if usual_s is None else f" A training batch takes {usual_s:.3g} s at other times."
    lines = [f"speechllm: this run stands still.{usual}"]
    groups: dict[str, list[tuple[Peer, float]]] = {}
    for peer in peers:
        where = peer.ended or f"in {peer.place.get('phase', '?')} of step {peer.place.get('step', '?')}"
        lasted_s = peer.place.get("for_s", 0.0) + now - peer.heard
        groups.setdefault(where, []).append((peer, lasted_s))
    for where, group in groups.items():
        who = str(group[0][0]) if len(group) == 1 else f"ranks {ranges([peer.rank for peer, _ in group])}"
        verb = "is" if len(group) == 1 else "are"
        ended = group[0][0].ended
        longest_s = max(lasted_s for _, lasted_s in group)
        lines.append(f"  {who}: {ended}" if ended else f"  {who} {verb} {where}, for {longest_s:.0f} s")
    waited_for = furthest_behind(peers)
    if waited_for is not None and waited_for.place.get("stack"):
        lines += [f"The main thread of {waited_for} stands here:", waited_for.place["stack"].rstrip()]
    return "\n".join(lines)


def furthest_behind(peers: Sequence[Peer]) -> Peer | None:
    """Return the process that the others wait for: at the lowest step, and early in it."""
    present = [peer for peer in peers if not peer.ended and "step" in peer.place]

    def progress(peer: Peer) -> tuple[int, int]:
        phase = peer.place["phase"]
        return peer.place["step"], STEP_PHASES.index(phase) if phase in STEP_PHASES else -1

    return min(present, key=progress, default=None)


def ranges(ranks: Sequence[int]) -> str:
    """Return ranks as text, neighbours joined: ``0-2, 4``."""
    parts: list[list[int]] = []
    for rank in sorted(ranks):
        if parts and rank == parts[-1][-1] + 1:
            parts[-1].append(rank)
        else:
            parts.append([rank])
    return ", ".join(f"{part[0]}-{part[-1]}" if len(part) > 1 else str(part[0]) for part in parts)
