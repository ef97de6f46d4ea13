"""Which logged figure says that a checkpoint is better, and which way."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal

from lightning.pytorch import Callback

from speechllm.errors import UserError, did_you_mean
from speechllm.models.validation import build_metrics

Mode = Literal["min", "max"]

ALWAYS_LOGGED: dict[str, bool | None] = {"val_score": True, "val_loss": False, "train_loss": False}
"""Figures of every training, and whether higher is better."""

PROGRESS = ("epoch", "step")
"""Names that a checkpoint may follow to be simply the newest."""


def mode_of(monitor: str | None, specs: Sequence[Mapping[str, Any]]) -> Mode | None:
    """Return whether the lowest or the highest value of a figure is the best; None where that is not known.

    Args:
        monitor: Name that the figure is logged under, such as ``val_wer`` or ``val_wer/must_c_en``.
        specs: Metric specs of the recipe.
    """
    if monitor is None:
        return None
    if monitor in PROGRESS:
        return "max"
    if monitor.startswith("train_loss"):
        return "min"
    directions = (
        ALWAYS_LOGGED
        if monitor in ALWAYS_LOGGED
        else {
            f"val_{figure.name}": figure.higher_is_better
            for metric in build_metrics(specs)
            for figure in metric.figures
        }
    )
    bare = monitor.partition("/")[0]
    names = [name for name in directions if bare == name or bare.startswith(f"{name}_")]
    higher_is_better = directions[max(names, key=len)] if names else None
    return None if higher_is_better is None else "max" if higher_is_better else "min"


def check_monitors(callbacks: Iterable[Callback], logged: Mapping[str, bool | None]) -> None:
    """Check that what checkpoints and early stopping look at will be logged, and that they look for the better end.

    Args:
        callbacks: Callbacks of a trainer.
        logged: Names of what validation logs, and whether higher is better.

    Raises:
        UserError: If it will not, or they do not.
    """
    directions = ALWAYS_LOGGED | dict(logged)
    for callback in callbacks:
        monitor: Any = getattr(callback, "monitor", None)
        if not isinstance(monitor, str) or monitor in PROGRESS or monitor.startswith("train_"):
            continue
        if monitor not in directions:
            msg = (
                f"`monitor: {monitor}`: no such figure will be logged.{did_you_mean(monitor, directions)} "
                f"Logged in this training: {', '.join(directions)}."
            )
            raise UserError(msg)
        better = directions[monitor]
        if better is None:
            choices = [name for name, direction in directions.items() if direction is not None]
            msg = f"`monitor: {monitor}`: neither its high nor its low values are better. Choose of: "
            raise UserError(msg + f"{', '.join(choices)}.")
        if getattr(callback, "mode", None) not in (None, "max" if better else "min"):
            name, wanted = type(callback).__name__, "max" if better else "min"
            msg = f"{name} looks for the worst {monitor}: give it `mode: {wanted}`, not `{callback.mode}`."  # type: ignore[attr-defined]
            raise UserError(msg)
