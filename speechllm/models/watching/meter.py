"""Figures of training: losses and speed over the steps between two logs, of all processes together.

What a step adds is added up where it is: on the device for losses, as plain numbers for lengths, which the CPU knows.
The host looks at the device once a log.
"""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor

from speechllm.batch import SAMPLE_RATE, Batch
from speechllm.costs.flops import ModelShape, StepSize, training_flop
from speechllm.costs.gpus import detect_gpu
from speechllm.models.processes import Processes
from speechllm.models.watching.memory import memory_gib, start_peak
from speechllm.models.watching.phases import TRAINING, Phase, PhaseClock

if TYPE_CHECKING:
    from speechllm.models.base import SpeechToText, StepLosses

EVERY_N_STEPS = 50
"""Steps between two looks where nothing is logged."""


@dataclass(frozen=True)
class StepWork:
    """What a batch took, as integers on the CPU.

    Attributes:
        size: Lengths of its utterances.
        computed_positions: Positions of the LLM, padding included.
    """

    size: StepSize
    computed_positions: int


@dataclass
class Sums:
    """What a process has done since some time; sums of several processes add up.

    Attributes:
        losses: Sums over target tokens, by name.
        tokens: Target tokens that they are of.
        stats: Sums over batches and their number, by name.
        counts: Utterances, seconds and positions, by name.
        seconds: Seconds in each phase.
        tflop: Operations of the model, in 10¹².
        steps: Optimiser steps.
    """

    losses: dict[str, Any] = field(default_factory=dict)
    tokens: Any = 0.0
    stats: dict[str, Any] = field(default_factory=dict)
    counts: dict[str, float] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    tflop: float = 0.0
    steps: int = 0

    def add(self, other: "Sums") -> None:
        """Add what another process, or a later time, has done."""
        for own, others in ((self.losses, other.losses), (self.counts, other.counts), (self.seconds, other.seconds)):
            for name, value in others.items():
                own[name] = own.get(name, 0.0) + value
        for name, (value, number) in other.stats.items():
            total, batches = self.stats.get(name, (0.0, 0))
            self.stats[name] = (total + value, batches + number)
        self.tokens = self.tokens + other.tokens
        self.tflop += other.tflop
        self.steps += other.steps

    @property
    def trained_s(self) -> float:
        """Seconds in training steps; validation and checkpoints are not among them."""
        return max(sum(self.seconds.get(phase, 0.0) for phase in TRAINING), 1e-9)


class Meter:
    """Measure training and log its figures every ``log_every_n_steps``, at the first step and at the last.

    Attributes:
        shown: Figures for the progress bar: utterances per second and learning rate.
        last_loss: Loss of the last batch per target token, on its device; None before.
        totals: What all processes have done since training began, or since the run began where it was resumed.
        peak_gib: Most memory that a process took, in GiB.
    """

    def __init__(self) -> None:
        self._since, self._sizes = Sums(), list[StepSize]()
        self._clock_s: dict[Phase, float] = {}
        self._shape: ModelShape | None = None
        self._first = True
        self._step = -1
        self.shown: dict[str, float] = {}
        self.last_loss: Tensor | None = None
        self.totals = Sums()
        self.peak_gib = 0.0
        self.peak_tflops: float | None = None

    def start(self, module: "SpeechToText") -> None:
        """Begin to measure, once the model is where it will be trained."""
        self._since, self._sizes, self._first = Sums(), [], True
        self._clock_s = PhaseClock.of(module.trainer).seconds()
        self._step = module.trainer.global_step
        self._shape = _shape(module)
        start_peak(module.device)
        if module.device.type == "cuda":
            gpu = detect_gpu(torch.cuda.get_device_name(module.device))
            self.peak_tflops = None if gpu is None else gpu.bf16_tflops

    def add(self, batch: Batch, losses: "StepLosses", total: Tensor, auxiliary: dict[str, Tensor]) -> None:
        """Add a batch; its losses count where they are finite.

        Args:
            batch: The batch.
            losses: Its losses.
            total: Their weighted sum, a scalar.
            auxiliary: Auxiliary losses, each a scalar summed over target tokens.
        """
        tokens, finite = losses.target_lengths.sum(), total.detach().isfinite()
        sums = {"loss": total.detach(), "loss_llm": losses.llm.detach().sum(), **auxiliary}
        sums = {name: torch.where(finite, value, 0) for name, value in sums.items()}
        stats = {name: (value.detach().float().mean(), 1) for name, value in losses.stats.items()}
        counts = {
            "utterances": len(batch),
            "audio_s": float(batch.audio_lengths.sum()) / SAMPLE_RATE,
            "computed_audio_s": len(batch) * float(batch.audio_lengths.max()) / SAMPLE_RATE,
        }
        if losses.work is not None:
            size = losses.work.size
            self._sizes.append(size)
            counts |= {"llm_positions": sum(size.llm_positions), "target_tokens": sum(size.target_tokens)}
            counts["computed_positions"] = losses.work.computed_positions
        self._since.add(Sums(sums, tokens * finite, stats, counts))
        self.last_loss = total.detach() / tokens.clamp(min=1)

    def skip(self, clips: int) -> None:
        """Count clips that were left out of a batch."""
        self._since.counts["skipped_clips"] = self._since.counts.get("skipped_clips", 0.0) + clips

    def batch_end(self, module: "SpeechToText", processes: Processes) -> None:
        """Log, if the optimiser has made a step that is due.

        Args:
            module: The model.
            processes: The processes, all of which must call this.
        """
        trainer: Any = module.trainer
        step = trainer.global_step
        if step == self._step:
            return
        self._since.steps += step - self._step
        self._step = step
        due = step % (trainer.log_every_n_steps or EVERY_N_STEPS) == 0
        last = step == trainer.max_steps or trainer.fit_loop.epoch_loop.batch_progress.is_last_batch
        if due or last or self._first:
            figures = self._figures(module, processes, keep=self._first and not (due or last))
            if last and not due:  # Lightning would not write them
                for logger in trainer.loggers:
                    logger.log_metrics(figures, step - 1)
            module.log_dict({name: torch.tensor(value) for name, value in figures.items()})
        self._first = False

    def _figures(self, module: "SpeechToText", processes: Processes, keep: bool) -> dict[str, float]:
        seconds = PhaseClock.of(module.trainer).seconds()
        spent = {phase.value: value - self._clock_s.get(phase, 0.0) for phase, value in seconds.items()}
        tflop = sum(training_flop(self._shape, size).total for size in self._sizes) / 1e12 if self._shape else 0.0
        own = Sums(*_on_host(self._since), self._since.counts, spent, tflop, self._since.steps)
        used_gib, peak_gib = memory_gib(module.device)
        shares = processes.share((own, used_gib, peak_gib))
        together = Sums()
        for other, _, _ in shares:
            together.add(other)
        _divide(together, len(shares), _copies(module.trainer))
        self.peak_gib = max(self.peak_gib, *(share[2] for share in shares))
        if not keep:
            self.totals.add(together)
            self._since, self._sizes, self._clock_s = Sums(), [], seconds
        tokens = max(float(together.tokens), 1.0)
        figures = {f"train_{name}": value / tokens for name, value in together.losses.items()}
        figures |= {f"train_{name}": value / number for name, (value, number) in together.stats.items()}
        rates = learning_rates(module)
        speed = speed_figures(together, len(shares), self.peak_tflops)
        self.shown = {"utt/s": speed["speed/utterances_per_s"], "lr": rates["lr"]}
        memory = {"memory/used_gib": max(share[1] for share in shares), "memory/peak_gib": self.peak_gib}
        skipped = self.totals.counts if not keep else together.counts
        clips = {"skipped_clips": skipped["skipped_clips"]} if skipped.get("skipped_clips") else {}
        return figures | rates | speed | memory | clips


def speed_figures(sums: Sums, devices: int, peak_tflops: float | None) -> dict[str, float]:
    """Return the figures of speed.

    Args:
        sums: What all processes have done; their seconds are those of one, on average.
        devices: Number of processes, each with a device.
        peak_tflops: What a device could compute at best, where that is known.
    """
    counts, trained_s = sums.counts, sums.trained_s
    figures = {
        "speed/utterances_per_s": counts.get("utterances", 0.0) / trained_s,
        "speed/audio_s_per_s": counts.get("audio_s", 0.0) / trained_s,
        "speed/step_s": trained_s / max(sums.steps, 1),
        "speed/data_wait": sums.seconds.get(Phase.DATA, 0.0) / trained_s,
        "speed/audio_padding": _padding(counts.get("audio_s", 0.0), counts.get("computed_audio_s", 0.0)),
    }
    if "llm_positions" in counts:
        figures |= {
            "speed/llm_positions_per_s": counts["llm_positions"] / trained_s,
            "speed/target_tokens_per_s": counts["target_tokens"] / trained_s,
            "speed/llm_padding": _padding(counts["llm_positions"], counts["computed_positions"]),
        }
    if sums.tflop:
        figures["speed/tflops_per_device"] = sums.tflop / trained_s / devices
        if peak_tflops is not None:
            figures["speed/mfu"] = figures["speed/tflops_per_device"] / peak_tflops
    return figures


def learning_rates(module: "SpeechToText") -> dict[str, float]:
    """Return the learning rate of the first group, and of each by the parts it is of where there are several."""
    groups = [group for optimizer in module.trainer.optimizers for group in optimizer.param_groups]
    rates = {"lr": float(groups[0]["lr"])}
    if len(groups) > 1:
        parts = {id(parameter): name.split(".")[0] for name, parameter in module.named_parameters()}
        for group in groups:
            own = dict.fromkeys(parts[id(parameter)] for parameter in group["params"] if id(parameter) in parts)
            rates[f"lr/{'+'.join(own)}"] = float(group["lr"])
    return rates


def _shape(module: "SpeechToText") -> ModelShape | None:
    try:
        return module.shape()
    except Exception as error:  # of a part that is not known; training goes on without the figure
        rank_zero_warn(f"What this model computes is not known, so that its TFLOP/s are not logged: {error}")
        return None


def _on_host(sums: Sums) -> tuple[dict[str, float], float, dict[str, tuple[float, int]]]:
    """Return losses, tokens and stats as numbers; the host waits for the device once."""
    names = [*sums.losses, "", *sums.stats]
    values = [*sums.losses.values(), sums.tokens, *(value for value, _ in sums.stats.values())]
    tensors = [torch.as_tensor(value, dtype=torch.float32) for value in values]
    device = next((tensor.device for tensor in tensors if tensor.device.type != "cpu"), torch.device("cpu"))
    there = [place for place, tensor in enumerate(tensors) if tensor.device == device]
    read = torch.stack([tensors[place] for place in there]).tolist()
    numbers = {place: float(tensor) for place, tensor in enumerate(tensors) if tensor.device != device}
    numbers |= dict(zip(there, read, strict=True))
    losses = {name: numbers[place] for place, name in enumerate(names[: len(sums.losses)])}
    first = len(sums.losses) + 1
    stats = {name: (numbers[first + place], sums.stats[name][1]) for place, name in enumerate(sums.stats)}
    return losses, numbers[len(sums.losses)], stats


def _copies(trainer: Any) -> int:
    """Return how many processes see the same batch, as those do that share out the tensors of a layer."""
    options = getattr(trainer.strategy, "distributed_sampler_kwargs", None)
    return int(trainer.world_size // options["num_replicas"]) if options else 1


def _divide(sums: Sums, processes: int, copies: int) -> None:
    """Make sums over processes those of the run: batches are counted once, and time and steps are the average."""
    sums.counts = {name: value / copies for name, value in sums.counts.items()}
    sums.seconds = {name: value / processes for name, value in sums.seconds.items()}
    sums.tflop /= copies
    sums.steps //= processes


def _padding(valid: float, computed: float) -> float:
    return 1 - valid / computed if computed else 0.0
