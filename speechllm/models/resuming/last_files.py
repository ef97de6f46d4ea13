"""The last checkpoints of a run: ``last.ckpt``, those before it, and which of them to go on from."""

import contextlib
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.utilities import rank_zero_warn

from speechllm.durable_files import sync_folder
from speechllm.errors import UserError
from speechllm.models.checkpoint import read_checkpoint
from speechllm.models.resuming.checkpoint_files import UNFINISHED, remove

LAST = "last.ckpt"
BEST = "best.ckpt"
NEW = ".last.ckpt.new"
"""Name of a last checkpoint before it takes its place."""


@dataclass(frozen=True)
class LastState:
    """The state of a run that can be gone on from.

    Attributes:
        path: Its checkpoint.
        step: Optimiser steps done.
        epochs: Epochs done.
        finished: Why the run came to its end, such as ``"early stopping"``; empty where it did not, or only a limit of
            steps or epochs says so.
    """

    path: Path
    step: int
    epochs: int
    finished: str = ""

    def end(self, max_steps: int, max_epochs: int | None) -> str:
        """Return why there is nothing left to train, empty where there is.

        Args:
            max_steps: The trainer's limit, -1 for none.
            max_epochs: The trainer's limit, None or -1 for none.
        """
        if 0 <= max_steps <= self.step:
            return f"it stands at step {self.step} of `trainer.max_steps: {max_steps}`"
        if max_epochs is not None and 0 <= max_epochs <= self.epochs:
            return f"it stands at epoch {self.epochs} of `trainer.max_epochs: {max_epochs}`"
        return f"{self.finished} ended it at step {self.step}" if self.finished else ""


def replace_last(folder: Path, keep: int) -> None:
    """Let the new checkpoint be ``last.ckpt``, and that one ``last-1.ckpt``, and so on; at every moment there is one.

    Args:
        folder: Folder of the checkpoints.
        keep: Number of last checkpoints that are kept.
    """
    names = [folder / LAST, *(folder / f"last-{number}.ckpt" for number in range(1, keep))]
    for older, newer in zip(names[:1:-1], names[-2:0:-1], strict=True):
        if newer.exists():
            remove_folder(older)
            os.replace(newer, older)
    if keep > 1 and names[0].exists():
        _move_aside(names[0], names[1])
    remove_folder(names[0])
    os.replace(folder / NEW, names[0])
    sync_folder(folder)
    for path in last_files(folder):
        if path.name.startswith("last") and path not in names:
            remove(path)


def _move_aside(last: Path, before: Path) -> None:
    """Give a file a second name, so that it has its first until another takes that; a folder can only be moved."""
    remove_folder(before)
    link = before.with_name(f".{before.name}{UNFINISHED}")
    try:
        link.unlink(missing_ok=True)
        os.link(last, link)
    except OSError:
        os.replace(last, before)
    else:
        os.replace(link, before)


def remove_folder(path: Path) -> None:
    """Remove a checkpoint that is a folder, onto which nothing can be moved."""
    if path.is_dir():
        remove(path)


def last_files(folder: Path) -> list[Path]:
    """Return the last checkpoints of a run, newest first, those among them that SLURM's requeueing wrote.

    Args:
        folder: Folder of the checkpoints, inside the run folder.
    """
    numbered = {path: path.stem.removeprefix("last-") for path in folder.glob("last-*.ckpt")}
    older = sorted((path for path, text in numbered.items() if text.isdigit()), key=lambda path: int(numbered[path]))
    files = [path for path in (folder / LAST, *older) if path.exists()]
    requeued = sorted(folder.parent.glob("hpc_ckpt_*.ckpt"), key=lambda path: path.stat().st_mtime_ns, reverse=True)
    newest_ns = files[0].stat().st_mtime_ns if files else 0
    newer = [path for path in requeued if path.stat().st_mtime_ns > newest_ns]
    return [*newer, *files, *(path for path in requeued if path not in newer)]


def find_last(run_dir: Path) -> LastState | None:
    """Return the newest state of a run that can be read, with a warning where a newer one cannot; None if it has none.

    Where no last checkpoint is left, the best one is gone on from.

    Raises:
        UserError: If there are checkpoints and none can be read.
    """
    problems: list[str] = []
    files = last_files(run_dir / "checkpoints")
    files += [path for path in [run_dir / "checkpoints" / BEST] if path.exists()]
    for path in files:
        try:
            state = read_state(path)
        except UserError as error:
            problems.append(str(error))
            continue
        if problems:
            rank_zero_warn(
                f"{'; '.join(problems)}. The run goes on from '{path}', of step {state.step}"
                f"{_lost(files[0], state.step)}."
            )
        return state
    if problems:
        msg = (
            f"No last checkpoint in '{run_dir}' can be read: {'; '.join(problems)}. Name another one with "
            f"`--ckpt_path`, or start anew with `--overwrite true`."
        )
        raise UserError(msg)
    return None


def _lost(damaged: Path, step: int) -> str:
    """Say how many steps lie between a damaged checkpoint, which may still say of which step it is, and another."""
    with contextlib.suppress(Exception):  # torch raises many kinds for damaged files
        newer = int(torch.load(damaged, map_location="cpu", weights_only=True, mmap=True)["global_step"])
        return f": the {newer - step} steps from there to step {newer} are trained again"
    return ": the steps after it are trained again"


def read_state(path: Path) -> LastState:
    """Return what a checkpoint says of its run.

    Raises:
        UserError: If it is not a checkpoint of this package.
    """
    checkpoint: dict[str, Any] = read_checkpoint(path)
    if "optimizer_states" not in checkpoint:
        msg = f"'{path}' holds weights alone, and no state of a run"
        raise UserError(msg)
    epochs = checkpoint["loops"]["fit_loop"]["epoch_progress"]["current"]["processed"]
    return LastState(path, int(checkpoint["global_step"]), int(epochs), str(checkpoint.get("finished", "")))


def clean(folder: Path) -> None:
    """Remove what a run that died while writing has left."""
    for path in (*folder.glob(f".*{UNFINISHED}"), folder / NEW):
        remove(path)


def forget(folder: Path) -> None:
    """Remove the last checkpoints of an earlier run, and its best one, so that nothing goes on from them."""
    for path in [*last_files(folder), folder / BEST]:
        remove(path)
