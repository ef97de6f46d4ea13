"""What came of a training: printed at its end, and written to ``fit.json``."""

import json
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_info

from speechllm.models.base import SpeechToText
from speechllm.models.watching.meter import Sums, speed_figures
from speechllm.models.watching.phases import Phase

FILE = "fit.json"


class FitSummary(Callback):
    """Sum up a training, of all its starts together, at its end or when an exception ends it."""

    def __init__(self) -> None:
        self._before: dict[str, Any] = {}
        self._began: float | None = None
        self._module: SpeechToText | None = None

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start the clock, and go on from what the starts before have done."""
        if isinstance(pl_module, SpeechToText):
            self._module, self._began = pl_module, time.monotonic()
            pl_module.meter.totals = Sums(**self._before.get("totals", {}))
            pl_module.meter.peak_gib = self._before.get("peak_gib", 0.0)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Note that training came to its end."""
        self._sum_up(trainer, "time was up or training was stopped early" if _is_early(trainer) else "finished")

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Note what ended training."""
        self._sum_up(trainer, f"{type(exception).__name__}: {str(exception)[:500]}".rstrip(": "))

    def state_dict(self) -> dict[str, Any]:
        """Return what was done so far."""
        if self._module is None:
            return self._before
        meter = self._module.meter
        totals = asdict(Sums(counts=meter.totals.counts, seconds=meter.totals.seconds, tflop=meter.totals.tflop))
        return {
            "totals": totals | {"steps": meter.totals.steps},
            "peak_gib": meter.peak_gib,
            "wall_s": self._wall_s(),
            "starts": self._starts,
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from what a start before has done."""
        self._before = state_dict

    @property
    def _starts(self) -> int:
        return int(self._before.get("starts", 0)) + 1

    def _wall_s(self) -> float:
        before = float(self._before.get("wall_s", 0.0))
        return before if self._began is None else before + time.monotonic() - self._began

    def _sum_up(self, trainer: Trainer, ended: str) -> None:
        if self._module is None or self._began is None:
            return
        summary = self._figures(trainer, self._module, ended)
        self._began, self._before, self._module = None, self.state_dict(), None
        rank_zero_info(describe(summary))
        if trainer.is_global_zero and not trainer.fast_dev_run:  # type: ignore[attr-defined]
            folder = Path(trainer.default_root_dir)
            folder.mkdir(parents=True, exist_ok=True)
            text = json.dumps(summary, indent=2, ensure_ascii=False)
            (folder / FILE).write_text(text + "\n", encoding="utf-8")

    def _figures(self, trainer: Trainer, module: SpeechToText, ended: str) -> dict[str, Any]:
        meter = module.meter
        totals = meter.totals
        speed = speed_figures(totals, trainer.world_size, meter.peak_tflops)
        best: Any = trainer.checkpoint_callback
        score = getattr(best, "best_model_score", None)
        return {
            "ended": ended,
            "steps": trainer.global_step,
            "max_steps": trainer.max_steps,
            "hours": self._wall_s() / 3600,
            "starts": self._starts,
            "devices": trainer.world_size,
            "utterances": round(totals.counts.get("utterances", 0)),
            "audio_hours": totals.counts.get("audio_s", 0.0) / 3600,
            **{name.removeprefix("speed/"): value for name, value in speed.items()},
            "validation_hours": sum(totals.seconds.get(p, 0.0) for p in (Phase.VALIDATION, Phase.SCORING)) / 3600,
            "checkpoint_hours": totals.seconds.get(Phase.CHECKPOINT, 0.0) / 3600,
            "peak_memory_gib": meter.peak_gib,
            "skipped_steps": module.skipped_steps,
            "skipped_clips": round(totals.counts.get("skipped_clips", 0)),
            "best_checkpoint": _inside(getattr(best, "best_model_path", ""), Path(trainer.default_root_dir)),
            "monitor": getattr(best, "monitor", None),
            "best_score": None if score is None else float(score),
        }


def describe(summary: dict[str, Any]) -> str:
    """Return a summary as a few lines for people."""
    of_all = f" of {summary['max_steps']:,}" if summary["max_steps"] > 0 else ""
    speed = [f"{summary['utterances_per_s']:.3g} utterances/s", f"{summary['step_s']:.3g} s a step"]
    if "mfu" in summary:
        speed.append(f"MFU {100 * summary['mfu']:.1f} %")
    elif "tflops_per_device" in summary:
        speed.append(f"{summary['tflops_per_device']:.3g} TFLOP/s a device")
    speed.append(f"{100 * summary['data_wait']:.1f} % of it waiting for data")
    starts = "" if summary["starts"] == 1 else f" in {summary['starts']} starts"
    lines = [
        f"Training ({summary['ended']}): {summary['steps']:,}{of_all} steps, {_time(summary['hours'])}{starts}",
        f"  {', '.join(speed)}; {_time(summary['audio_hours'])} of audio",
        f"  peak memory {summary['peak_memory_gib']:.1f} GiB; skipped: {summary['skipped_steps']} steps, "
        f"{summary['skipped_clips']} clips",
    ]
    if summary["best_checkpoint"]:
        score = "" if summary["best_score"] is None else f", {summary['monitor']} {summary['best_score']:.4g}"
        lines.append(f"  best checkpoint: {summary['best_checkpoint']}{score}")
    return "\n".join(lines)


def _time(hours: float) -> str:
    """Return a time in the unit that suits it."""
    if hours >= 1:
        return f"{hours:,.2f} h"
    return f"{60 * hours:.1f} min" if hours >= 1 / 60 else f"{3600 * hours:.0f} s"


def _inside(path: str, folder: Path) -> str | None:
    """Return a path relative to the run folder where it is inside."""
    if not path:
        return None
    whole = Path(path).resolve()
    return str(whole.relative_to(folder.resolve()) if whole.is_relative_to(folder.resolve()) else whole)


def _is_early(trainer: Trainer) -> bool:
    return 0 < trainer.max_steps != trainer.global_step
