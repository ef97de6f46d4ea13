"""What every speech-to-text model shares under Lightning: steps, logging, optimiser, evaluation."""

import time
from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn
from torch import Tensor

from speechllm.batch import Batch, Hypothesis, to_device
from speechllm.costs.flops import ModelShape
from speechllm.errors import UserError
from speechllm.evaluation.run_record import Run
from speechllm.models.checkpoint import check_state, saved_keys
from speechllm.models.decoding_run import DecodingRun, begin_run
from speechllm.models.gradients import SkippedSteps, clip_gradients, reach, scale_gradients, skip_where
from speechllm.models.parameters import parameter_groups
from speechllm.models.processes import Processes, sum_of_all
from speechllm.models.results import describe_run, results_folder, write_prediction, write_test
from speechllm.models.schedule import warmup_cosine, warmup_inverse_sqrt
from speechllm.models.sharding import check_strategy
from speechllm.models.tensor_parallel import complete_gradients
from speechllm.models.validation import (
    check_at_start,
    log_samples,
    metric_specs,
    missing_monitors,
    score_validation,
    validation_score,
)
from speechllm.models.watching.meter import Meter, StepWork
from speechllm.models.watching.phases import PhaseClock
from speechllm.predictions import Prediction
from speechllm.registry import METRICS
from speechllm.talk_references import TalkReference

DEFAULT_METRICS = ("wer", {"name": "wer", "normalizer": "whisper"}, "cer", "bleu", "chrf", "health", "speed")
"""Metrics where a recipe names none."""

READ_EVERY_N_STEPS = 50
"""How often the host looks at how many steps were skipped, where nothing is logged."""


@dataclass
class StepLosses:
    """Losses of a batch, an utterance each, before weighting.

    Attributes:
        llm: (B,) float32, cross-entropy summed over target tokens.
        target_lengths: (B,) int64, target tokens.
        auxiliary: Auxiliary losses by name, each (B,) float32.
        stats: Figures to log by name.
        work: What the batch took, for figures of speed; None where that is not known.
    """

    llm: Tensor
    target_lengths: Tensor
    auxiliary: dict[str, Tensor]
    stats: dict[str, Tensor]
    work: StepWork | None = None


class SpeechToText(LightningModule):
    """Base of the models: a subclass says how losses and hypotheses come about.

    The training loss is a mean over all target tokens of an optimiser step, whatever batches, accumulation or number of
    processes they come in. An auxiliary loss is averaged over utterances in proportion to their target tokens, so that
    the same holds for it.

    Args:
        metrics: Metrics of validation and test: names, or specs with options.
        loss_weights: Weight of each auxiliary loss; those left out keep the part's default.
        lr: Peak learning rate of AdamW.
        weight_decay: Weight decay of AdamW.
        betas: Moments of AdamW.
        warmup_steps: Optimiser steps of linear warm-up.
        schedule: What follows the warm-up: ``cosine`` to 0 at the trainer's last step, or ``inverse_sqrt`` of the step.
        part_lr: Peak learning rate of single parts, ``{adapter: 1.0e-4}``, where it is not ``lr``.
        num_beams: Beams in test and prediction; validation is greedy.
        max_new_tokens: Limit of new tokens; None takes it from each utterance's duration.
        tokens_per_second: New tokens per second of speech and text allowed where there is no fixed limit.
        extra_tokens: New tokens allowed beyond that, per text.
        min_new_tokens: New tokens before an answer may end.
        kv_cache: ``dynamic`` or ``static``, see :class:`speechllm.decoders.base.Decoding`.
    """

    specs: dict[str, Any]
    """Specs of the parts by name, for messages about checkpoints."""

    origin = Run()
    """Where this model comes from, for the record of a test; the command line puts itself and the recipe there."""

    def __init__(
        self,
        metrics: Sequence[str | dict[str, Any]] = DEFAULT_METRICS,
        loss_weights: dict[str, float] | None = None,
        lr: float = 1e-4,
        weight_decay: float = 0.0,
        betas: tuple[float, float] = (0.9, 0.999),
        warmup_steps: int = 0,
        schedule: Literal["cosine", "inverse_sqrt"] = "cosine",
        part_lr: dict[str, float] | None = None,
        num_beams: int = 1,
        max_new_tokens: int | None = None,
        tokens_per_second: float = 8.0,
        extra_tokens: int = 30,
        min_new_tokens: int = 0,
        kv_cache: Literal["dynamic", "static"] = "dynamic",
    ) -> None:
        super().__init__()
        self.strict_loading = False  # frozen weights are not in checkpoints; on_load_checkpoint is the stricter check
        self.metric_specs = metric_specs(metrics)
        for spec in self.metric_specs:
            METRICS.check(spec)
        self.loss_weights = dict(loss_weights or {})
        self.lr, self.weight_decay, self.betas, self.warmup_steps = lr, weight_decay, betas, warmup_steps
        if schedule == "inverse_sqrt" and warmup_steps < 1:
            msg = "The schedule 'inverse_sqrt' needs `warmup_steps` of 1 or more: its peak is where they end."
            raise UserError(msg)
        self.schedule, self.part_lr = schedule, dict(part_lr or {})
        self.num_beams, self.max_new_tokens = num_beams, max_new_tokens
        self.tokens_per_second, self.extra_tokens = tokens_per_second, extra_tokens
        self.min_new_tokens, self.kv_cache = min_new_tokens, kv_cache
        self.trained_on: set[tuple[str, str, str]] = set()
        self._step_tokens: Tensor | None = None
        self._run: DecodingRun
        self._processes: Processes
        self._val_losses: list[Tensor] = []
        self._skipped_steps, self._skipped_clips = SkippedSteps(), 0
        self.meter = Meter()

    # Parts of the contract

    @abstractmethod
    def losses(self, batch: Batch) -> StepLosses:
        """Score the target texts of a batch."""

    @abstractmethod
    def decode(self, batch: Batch, num_beams: int) -> list[Hypothesis]:
        """Decode a batch without looking at its texts; utterances without audio get an empty hypothesis."""

    def empty_loss(self) -> Tensor:
        """Return the loss 0 of a batch in which no clip could be read."""
        return torch.zeros((), device=self.device)

    def checkpoint_keys(self) -> set[str]:
        """Return the keys of the state dict that a checkpoint holds."""
        return saved_keys(self)

    def loss_weight(self, name: str) -> float:
        """Return the weight of an auxiliary loss.

        Raises:
            UserError: If neither recipe nor part gives one.
        """
        if name not in self.loss_weights:
            msg = f"The auxiliary loss '{name}' has no weight; give one in `loss_weights: {{{name}: …}}`."
            raise UserError(msg)
        return self.loss_weights[name]

    def transcript_losses(self) -> list[str]:
        """Return the names of the auxiliary losses that are learned from transcripts."""
        return []

    def shape(self) -> ModelShape | None:
        """Return what the model computes, of which its speed in TFLOP/s follows; None where that is not known."""
        return None

    @property
    def skipped_steps(self) -> int:
        """Optimiser steps that were skipped since their gradients were not finite, when the host last looked."""
        return self._skipped_steps.total

    # Training

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Return the loss summed over the batch's target tokens; the step's mean is taken over all of its batches."""
        self._report_skipped(batch)
        if len(batch) == 0:
            return self._reach_all(self.empty_loss())
        self.trained_on |= set(zip(batch.tasks, batch.source_languages, batch.target_languages, strict=True))
        losses = self.losses(batch)
        total = self._weighted_sum(losses)
        tokens = losses.target_lengths.sum()
        self._step_tokens = tokens if self._step_tokens is None else self._step_tokens + tokens
        with torch.no_grad():
            auxiliary = {f"loss_{k}": (v * losses.target_lengths).sum() for k, v in losses.auxiliary.items()}
        self.meter.add(batch, losses, total, auxiliary)
        return self._reach_all(total)

    def _reach_all(self, loss: Tensor) -> Tensor:
        return reach(loss, [parameter for parameter in self.parameters() if parameter.requires_grad])

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        """Turn summed gradients into those of the mean over all target tokens, and skip steps that are not finite.

        The host looks at how many were skipped when figures are logged, and at the end of an epoch.

        Raises:
            UserError: If too many steps in a row were skipped.
        """
        tokens = torch.zeros((), device=self.device) if self._step_tokens is None else self._step_tokens
        self._step_tokens = None
        tokens = sum_of_all(to_device(tokens, self.device).float())
        # Lightning divides the loss by the accumulated batches, and DDP the gradients by the processes.
        shares = self.trainer.accumulate_grad_batches * self.trainer.world_size
        split = complete_gradients(self)
        self._norm = scale_gradients(self.parameters(), shares / tokens.clamp(min=1), *split)
        skipped = 1 - self._norm.isfinite().float()
        skip_where(optimizer, skipped)
        self._skipped_steps.count(self.global_step, skipped)
        self.log("grad_norm", self._norm)
        if (self.global_step + 1) % (self.trainer.log_every_n_steps or READ_EVERY_N_STEPS) == 0:  # type: ignore[attr-defined]
            self.log("skipped_steps", float(self._skipped_steps.read(self.global_step)))

    def configure_gradient_clipping(
        self,
        optimizer: torch.optim.Optimizer,
        gradient_clip_val: float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        """Clip by the norm that is known; Lightning would refuse to for a fused optimiser in mixed precision."""
        clip_gradients(self.parameters(), self._norm, gradient_clip_val, gradient_clip_algorithm or "norm")

    def on_train_start(self) -> None:
        """Begin to measure."""
        self.meter.start(self)

    def on_train_batch_end(self, outputs: Any, batch: Batch, batch_idx: int) -> None:
        """Log losses, rates, speed and memory every ``log_every_n_steps``, and do not look at the device between."""
        self.meter.batch_end(self, self._processes)

    def on_train_epoch_end(self) -> None:
        """Say how many clips could not be read, and how many steps were skipped.

        Raises:
            UserError: If too many steps in a row were skipped.
        """
        self._skipped_steps.read(self.global_step - 1)
        if self._skipped_clips:
            rank_zero_warn(f"{self._skipped_clips} clips could not be read and were left out of training so far.")

    def configure_optimizers(self) -> Any:
        """Return AdamW over the trained parameters, a group for each learning rate, and the schedule.

        Raises:
            UserError: If nothing is trained, ``part_lr`` names what is not, or the trainer has no last step.
        """
        groups = parameter_groups(self, self.part_lr)
        total_steps = self.trainer.estimated_stepping_batches
        if self.schedule == "cosine" and not 1 <= total_steps < float("inf"):  # -1: the data does not know its length
            msg = "The cosine schedule needs to know its end: set `trainer.max_steps`."
            raise UserError(msg)
        # A fused optimiser would undo the gradient scaler's work itself, after gradients are scaled and clipped here.
        fused = str(self.trainer.precision) != "16-mixed"
        optimizer = torch.optim.AdamW(groups, self.lr, betas=self.betas, weight_decay=self.weight_decay, fused=fused)

        def factor(step: int) -> float:
            if self.schedule == "cosine":
                return warmup_cosine(step, self.warmup_steps, int(total_steps))
            return warmup_inverse_sqrt(step, self.warmup_steps)

        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, factor)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    # Validation, test, prediction

    def setup(self, stage: str) -> None:
        """Check the strategy and the metrics; the data is set up already.

        Raises:
            UserError: If the model cannot be trained so, or a metric cannot run.
        """
        check_strategy(self.trainer.strategy)
        self._processes = Processes(self.trainer)
        PhaseClock.of(self.trainer)
        if stage != "predict":
            data = getattr(self.trainer, "datamodule", None) if stage == "test" else None
            self._processes.on_first(lambda: check_at_start(self.metric_specs, data))
        self._run = DecodingRun("predict" if stage == "predict" else "test", self._processes)

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Score teacher-forced and decode greedily."""
        readable = [row for row, length in enumerate(batch.audio_lengths.tolist()) if length > 0]
        if readable:
            losses = self.losses(batch.select(readable))
            sums = torch.stack([self._weighted_sum(losses), losses.target_lengths.sum().float()])
            self._val_losses.append(sums.detach())
        self._decode_batch(batch, num_beams=1)

    def on_validation_epoch_start(self) -> None:
        """Begin with nothing decoded."""
        self._run = DecodingRun("dev", self._processes)
        self._val_losses.clear()

    def on_validation_epoch_end(self) -> None:
        """Log ``val_loss``, each metric, and ``val_score``, which checkpoints are chosen by (higher is better)."""
        sums = torch.stack(self._val_losses).sum(dim=0) if self._val_losses else torch.zeros(2, device=self.device)
        sums = self.trainer.strategy.reduce(sums, reduce_op="sum")
        predictions, _ = self._run.gather()
        values = dict(self._processes.on_first(lambda: score_validation(predictions, self.metric_specs)))
        values["val_loss"] = float(sums[0] / sums[1].clamp(min=1))
        values["val_score"] = validation_score(values)
        if not self.trainer.sanity_checking:
            values |= missing_monitors(self.trainer.checkpoint_callbacks, values)
        if self.trainer.state.fn == "validate":
            values |= self._logged_step()
        shown = ("val_loss", "val_wer", "val_bleu")
        self.log_dict({key: value for key, value in values.items() if key in shown}, prog_bar=True)
        self.log_dict({key: value for key, value in values.items() if key not in shown})
        if self.trainer.state.fn == "fit" and not self.trainer.sanity_checking and self._processes.is_first:
            log_samples(self.trainer.loggers, predictions, self.global_step)

    def on_test_epoch_start(self) -> None:
        """Start the clock of decoding."""
        self._run.start_clock()

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        """Decode."""
        self._decode_batch(batch, self.num_beams)

    def on_test_epoch_end(self) -> None:
        """Score every utterance once, write the results, and print the report.

        Raises:
            UserError: If a metric cannot score them; what was decoded is kept for the next test.
        """
        origin = describe_run(self.trainer, self.origin, self.decoding_options)
        folder = results_folder(self.trainer, "test")
        talks: list[TalkReference] = getattr(getattr(self.trainer, "datamodule", None), "talk_references", list)()
        values = write_test(self._run, self._processes, folder, self.metric_specs, origin, talks)
        self.log_dict({f"test_{name}": value for name, value in values.items()} | self._logged_step())

    def predict_step(self, batch: Batch, batch_idx: int) -> list[Prediction]:
        """Decode and return predictions."""
        return self._decode_batch(batch, self.num_beams)

    def on_predict_epoch_end(self) -> None:
        """Write the predictions, those of an interrupted run among them."""
        write_prediction(self._run, self._processes, results_folder(self.trainer, "predict"))

    @property
    def decoding_options(self) -> dict[str, Any]:
        """Options that texts of test and prediction depend on, by name."""
        names = ("num_beams", "max_new_tokens", "tokens_per_second", "extra_tokens", "min_new_tokens")
        return {name: getattr(self, name) for name in names}

    def _decode_batch(self, batch: Batch, num_beams: int) -> list[Prediction]:
        start_s = time.perf_counter()
        hypotheses = self.decode(batch, num_beams)
        return self._run.add(batch, hypotheses, time.perf_counter() - start_s)

    # Checkpoints

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep what was trained: frozen weights that have a name are left out."""
        keys = self.checkpoint_keys()
        checkpoint["state_dict"] = {key: value for key, value in checkpoint["state_dict"].items() if key in keys}
        checkpoint["trained_on"] = sorted(list(triple) for triple in self.trained_on)
        checkpoint["skipped_steps"] = self._skipped_steps.state()

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Check that the checkpoint is of this recipe, and say what was loaded and what it has decoded before.

        Raises:
            UserError: If it is not.
        """
        rank_zero_info(f"Checkpoint: {check_state(self, checkpoint, self.specs)}.")
        self.trained_on = {tuple(triple) for triple in checkpoint.get("trained_on", [])}
        self._skipped_steps.load(checkpoint.get("skipped_steps", [0, 0]))
        self.origin = replace(self.origin, step=checkpoint.get("global_step"))
        # Between this hook and the batches there is no other, and before it Lightning does not say which checkpoint.
        if self._trainer is not None and (self.trainer.testing or self.trainer.predicting):
            settings = {**self.specs, **self.decoding_options}
            folder = results_folder(self.trainer, self._run.split)
            self._run = begin_run(self._run.split, self.trainer, self._processes, folder, settings)

    # Logging

    def _weighted_sum(self, losses: StepLosses) -> Tensor:
        total = losses.llm
        for name, values in losses.auxiliary.items():
            total = total + self.loss_weight(name) * values * losses.target_lengths
        return total.sum()

    def _logged_step(self) -> dict[str, float]:
        """Return the step of the checkpoint, by the name that loggers know it by; they take 0 for it otherwise."""
        return {} if self.origin.step is None else {"step": float(self.origin.step)}

    def _report_skipped(self, batch: Batch) -> None:
        for message in batch.skipped:
            self._skipped_clips += 1
            rank_zero_warn(f"Left out of training: {message}")
        self.meter.skip(len(batch.skipped))
