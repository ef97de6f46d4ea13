"""Weights & Biases beside TensorBoard, where it is asked for."""

import importlib.util
import re
import secrets
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import WandbLogger
from lightning.pytorch.utilities import rank_zero_only

from speechllm.errors import UserError

ID_FILE = "wandb_run_id.txt"


def logger_options(project: str, run_dir: Path, goes_on: bool) -> dict[str, Any]:
    """Return the options of a logger to a project, whose run there is the same after a restart.

    Args:
        project: Name of the project, or ``team/project``.
        run_dir: Run folder, which keeps the id of the run.
        goes_on: Whether this goes on with the run of that folder.

    Raises:
        UserError: If the package is not installed.
    """
    if importlib.util.find_spec("wandb") is None:
        msg = (
            "`--wandb` needs the package of Weights & Biases, which is not installed. Install it with "
            "`pip install 'speechllm[wandb]'`, or leave the flag out: TensorBoard's files are written in any case."
        )
        raise UserError(msg)
    team, _, name = project.rpartition("/")
    options = {"project": name, "name": run_dir.name, "save_dir": str(run_dir), "id": run_id(run_dir, goes_on)}
    return options | ({"entity": team} if team else {})


def run_id(run_dir: Path, goes_on: bool) -> str:
    """Return the id of a folder's run: the one it has, where it goes on with that, else a new one."""
    path = run_dir / ID_FILE
    if goes_on and path.is_file():
        known = path.read_text(encoding="utf-8").strip()
        if re.fullmatch(r"[\w-]{1,64}", known):
            return known
    new = secrets.token_hex(4)
    if getattr(rank_zero_only, "rank", 0) in (0, None):  # the others send nothing
        run_dir.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{new}\n", encoding="utf-8")
    return new


def log_recipe(loggers: list[Any], recipe: dict[str, Any]) -> None:
    """Show the resolved recipe and the command line of a run beside its curves."""
    for logger in loggers:
        if isinstance(logger, WandbLogger):
            logger.log_hyperparams(recipe)
