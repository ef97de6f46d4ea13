"""Measure training steps and decoding of a model with random weights, as a recipe would have it."""

import resource
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor

from speechllm.batch import AdapterOutput, Batch
from speechllm.costs.flops import training_flop
from speechllm.models.parameters import parameter_groups
from speechllm.models.sizing.random_twin import PROMPT_POSITIONS
from speechllm.models.sizing.shapes import shape_of, step_size
from speechllm.models.sizing.synthetic_load import Noise
from speechllm.models.speech_llm import SpeechLLM

PHASES = (
    "loader",
    "encoder",
    "adapter",
    "llm forward",
    "llm backward",
    "adapter backward",
    "encoder backward",
    "optimizer",
)
"""What a step's time is divided into, in the order in which they end; ``encoder`` holds the losses' targets too."""

RUN_LABEL = 50.0
"""What is added to the score of a made-up label, so that random heads of labels give runs as trained ones do."""


@dataclass
class Measured:
    """What a window of steps took.

    Attributes:
        utterances: Utterances.
        audio_s: Seconds of audio.
        llm_positions: Positions of the LLM.
        speech_positions: Of these, those of speech.
        flop: Operations of the model.
        time_s: Time of the window.
        shares: Share of the time of each of :data:`PHASES`.
        peak_gib: Most memory that was in use: on a GPU of tensors, on a CPU of the whole process since it began.
    """

    utterances: int = 0
    audio_s: float = 0.0
    llm_positions: int = 0
    speech_positions: int = 0
    flop: float = 0.0
    time_s: float = 0.0
    shares: dict[str, float] = field(default_factory=dict)
    peak_gib: float = 0.0


class Clock:
    """Marks of time that nobody waits for: events of a GPU, read when all is over."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._marks: list[tuple[str, Any]] = []

    def mark(self, ended: str) -> None:
        """Note that a phase has ended."""
        if self.device.type == "cuda":
            event = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
            event.record()
            self._marks.append((ended, event))
        else:
            self._marks.append((ended, time.perf_counter()))

    def read(self) -> dict[str, float]:
        """Return the seconds of each phase since the first mark; everything has been waited for."""
        spent = dict.fromkeys(PHASES, 0.0)
        for (_, before), (phase, after) in zip(self._marks, self._marks[1:], strict=False):
            seconds = before.elapsed_time(after) / 1000 if self.device.type == "cuda" else after - before
            spent[phase] += seconds
        return spent


class Bench:
    """A model under measurement.

    Args:
        options: Options of a model of random weights, see :mod:`speechllm.models.sizing.random_twin`.
        device: Where it runs.
        precision: The trainer's precision.
        frames_per_position: What an adapter with a head of labels is made to compress by; None for no such head.
        accumulated: Batches of an optimiser step.
    """

    def __init__(
        self,
        options: dict[str, Any],
        device: torch.device,
        precision: str = "32-true",
        frames_per_position: float | None = None,
        accumulated: int = 1,
    ) -> None:
        torch.manual_seed(0)
        self.device, self.accumulated = device, accumulated
        self.model = SpeechLLM(**options)
        with device:
            self.model.configure_model()
        self.model = self.model.to(device).train()
        if precision == "bf16-true":
            self.model = self.model.to(torch.bfloat16)
        self.autocast = precision == "bf16-mixed" and device.type == "cuda"
        self.shape = shape_of(self.model)
        if frames_per_position is not None and hasattr(self.model.adapter, "head"):
            self.model.adapter.head.register_forward_hook(partial(_make_runs, round(frames_per_position)))
        groups = parameter_groups(self.model, {})
        self.optimizer = torch.optim.AdamW(groups, 1e-5, fused=device.type == "cuda")
        self.trained = [p for group in groups for p in group["params"]]

    def steps(self, batches: Iterator[Batch], count: int, warmup: int) -> Measured:
        """Train on ``warmup`` batches, then measure ``count`` more; the GPU is waited for before and after these."""
        for step in range(warmup):
            self.step(next(batches), step, Clock(torch.device("cpu")))
        measured, clock = Measured(), Clock(self.device)
        self._wait()
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.device)
        start_s = time.perf_counter()
        clock.mark("")
        for step in range(count):
            batch = next(batches)
            clock.mark("loader")
            self.step(batch, step, clock, measured)
        self._wait()
        measured.time_s = time.perf_counter() - start_s
        spent = clock.read()
        total = sum(spent.values())
        measured.shares = {phase: seconds / total for phase, seconds in spent.items()}
        measured.peak_gib = self.peak_bytes() / 2**30
        return measured

    def step(self, batch: Batch, number: int, clock: Clock, measured: Measured | None = None) -> None:
        """Train on one batch."""
        batch = batch.pin_memory() if self.device.type == "cuda" else batch
        batch = batch.to(self.device, non_blocking=True)
        context = torch.autocast(self.device.type, torch.bfloat16) if self.autocast else nullcontext()
        with context, self._marked(clock) as seen:
            losses = self.model.losses(batch)
            total = self.model._weighted_sum(losses)
        clock.mark("llm forward")
        (total / len(batch)).backward()  # type: ignore[no-untyped-call]
        clock.mark(seen["going"])
        if (number + 1) % self.accumulated == 0:
            torch.nn.utils.clip_grad_norm_(self.trained, 1.0)
            self.optimizer.step()
            self.optimizer.zero_grad(set_to_none=True)
        clock.mark("optimizer")
        if measured is not None:
            self._count(batch, seen["speech"], measured)

    def decode(self, batch: Batch, new_tokens: int) -> tuple[float, int]:
        """Decode a batch greedily, each utterance to ``new_tokens``; return the seconds and the number of tokens."""
        self.model.max_new_tokens = self.model.min_new_tokens = new_tokens
        self.model.eval()
        context = torch.autocast(self.device.type, torch.bfloat16) if self.autocast else nullcontext()
        batch = batch.to(self.device)
        with torch.no_grad(), context:
            self.model.decode(batch, 1)  # warms up
            self._wait()
            start_s = time.perf_counter()
            tokens = sum(hypothesis.tokens for hypothesis in self.model.decode(batch, 1))
            self._wait()
            time_s = time.perf_counter() - start_s
        self.model.train()
        return time_s, tokens

    def largest_batch_seconds(self, start: float, longest_s: float, utterances: int, noise: Noise) -> float | None:
        """Return the largest ``batch_seconds`` that fits the GPU, within 5 %; None where not even one utterance does.

        Both kinds of largest batch are tried: few long utterances, and as many as a batch may have.
        """
        low, high = 0.0, start
        while self._fits(high, longest_s, utterances, noise):
            low, high = high, 2 * high
            if low >= utterances * longest_s:
                return low
        while high - low > 0.05 * high and high > longest_s:
            middle = (low + high) / 2
            low, high = (middle, high) if self._fits(middle, longest_s, utterances, noise) else (low, middle)
        return low or None

    def _fits(self, seconds: float, longest_s: float, utterances: int, noise: Noise) -> bool:
        long = max(1, min(utterances, int(seconds // longest_s)))
        short = min(longest_s, max(1.0, seconds / utterances))
        for durations in ([longest_s] * long, [short] * max(1, min(utterances, int(seconds // short)))):
            try:
                self.step(noise.batch(durations), 0, Clock(torch.device("cpu")))
                self._wait()
            except torch.cuda.OutOfMemoryError:
                self.optimizer.zero_grad(set_to_none=True)
                torch.cuda.empty_cache()
                return False
        return True

    def peak_bytes(self) -> int:
        """Return the most memory that was in use."""
        if self.device.type == "cuda":
            return torch.cuda.max_memory_allocated(self.device)
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak if sys.platform == "darwin" else 1024 * peak

    def _wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    def _count(self, batch: Batch, speech: AdapterOutput, measured: Measured) -> None:
        """Add a batch's sizes, which are known on the CPU."""
        positions: list[int] = speech.lengths.tolist()
        texts = batch.transcripts if batch.tasks[0] == "asr" else batch.translations
        targets = [1 + len(text) * (2 if batch.tasks[0] == "asr+st" else 1) for text in texts]
        llm = [PROMPT_POSITIONS + count + target for count, target in zip(positions, targets, strict=True)]
        measured.utterances += len(batch)
        measured.audio_s += sum(batch.durations_s)
        measured.speech_positions += sum(positions)
        measured.llm_positions += sum(llm)
        measured.flop += training_flop(self.shape, step_size(self.model, batch, positions, llm, targets)).total

    @contextmanager
    def _marked(self, clock: Clock) -> Iterator[dict[str, Any]]:
        """Mark the ends of encoder and adapter, and of the LLM's way back, while a batch goes through."""
        seen: dict[str, Any] = {"going": "llm backward"}

        def encoded(module: Any, inputs: Any) -> None:
            clock.mark("encoder")
            if inputs[0].values.requires_grad:
                inputs[0].values.register_hook(partial(passed, "encoder backward"))

        def adapted(module: Any, inputs: Any, speech: AdapterOutput) -> None:
            clock.mark("adapter")
            seen["speech"] = speech
            if speech.values.requires_grad:
                speech.values.register_hook(partial(passed, "adapter backward"))  # type: ignore[no-untyped-call]

        def passed(next_phase: str, gradient: Tensor) -> None:
            clock.mark(seen["going"])
            seen["going"] = next_phase

        adapter = self.model.adapter
        hooks = [adapter.register_forward_pre_hook(encoded), adapter.register_forward_hook(adapted)]
        try:
            yield seen
        finally:
            for hook in hooks:
                hook.remove()


def endless(make: Callable[[Sequence[float]], Batch], durations_s: Sequence[Sequence[float]]) -> Iterator[Batch]:
    """Yield batches of the given durations, over and over."""
    while True:
        yield from (make(batch) for batch in durations_s)


def _make_runs(frames: int, head: Any, inputs: Any, logits: Tensor) -> Tensor:
    """Raise the score of one label for ``frames`` frames in a row, and then of the next."""
    steps = torch.arange(logits.shape[-2], device=logits.device)
    labels = steps // frames % (logits.shape[-1] - 1)
    logits[..., steps, labels] += RUN_LABEL
    return logits
