"""The environment of unbabel-comet: where it is, what is in it, and whether it works."""

import functools
import json
import os
import shutil
import subprocess
from pathlib import Path

from speechllm.errors import UserError

VERSION = "2.2.7"

PINS = (
    f"unbabel-comet=={VERSION}",
    "torch==2.13.0",
    "transformers==4.57.6",
    "pytorch-lightning==2.6.6",
    "torchmetrics==0.10.3",
    "entmax==1.3",
    "numpy==1.26.4",
    "huggingface-hub==0.36.2",
    "protobuf==4.25.9",
    "sentencepiece==0.2.0",  # 0.2.1 and later ask for protobuf 5, which unbabel-comet excludes
    "setuptools<81",  # torchmetrics 0.10 imports pkg_resources, which 81 drops
)
"""What is installed; unbabel-comet asks for older versions than those that speechllm runs on."""

PYTHON_VARIABLE = "SPEECHLLM_COMET_PYTHON"

RUNNER = Path(__file__).with_name("comet_runner.py")
"""The program that the environment runs; it imports nothing of speechllm."""

DISTRIBUTED = ("RANK", "LOCAL_", "WORLD_SIZE", "GROUP_", "ROLE_", "NODE_RANK", "MASTER_", "TORCHELASTIC_", "SLURM_")
"""Beginnings of the variables that make Lightning believe that it is one of several processes."""


def environment_folder() -> Path:
    """Return where ``speechllm comet-env`` puts the environment."""
    cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(cache) / "speechllm" / f"comet-{VERSION}"


def marker(folder: Path) -> Path:
    """Return the file that is in an environment once it is complete and has been tried."""
    return folder / "speechllm.json"


def environment_python() -> str:
    """Return the Python that runs unbabel-comet: that of SPEECHLLM_COMET_PYTHON, else that of the environment.

    Raises:
        UserError: If there is none.
    """
    given = os.environ.get(PYTHON_VARIABLE)
    if given:
        if shutil.which(given) is None:
            msg = f"{PYTHON_VARIABLE} is '{given}', which is no program. Give the Python of an environment with COMET."
            raise UserError(msg)
        return given
    folder = environment_folder()
    if not marker(folder).is_file():
        state = "was not completed" if folder.exists() else "is not there"
        msg = (
            f"The environment of unbabel-comet, {folder}, {state}. Run `speechllm comet-env`, which makes it, or set "
            f"{PYTHON_VARIABLE} to a Python with unbabel-comet {VERSION}."
        )
        raise UserError(msg)
    return str(folder / "bin" / "python")


@functools.cache
def installed_versions(python: str, load: bool = False) -> dict[str, str]:
    """Return the versions of unbabel-comet, transformers and torch that a Python has.

    Args:
        python: The Python.
        load: Whether to import unbabel-comet as well, which takes some seconds.

    Raises:
        UserError: If it has no unbabel-comet, or cannot run.
    """
    command = [python, "-I", str(RUNNER), "load" if load else "versions"]
    try:
        done = subprocess.run(command, env=environment_variables(), capture_output=True, text=True, check=False)
        if done.returncode == 0:
            versions: dict[str, str] = json.loads(done.stdout.splitlines()[-1])
            return versions
        reason = tail(done.stderr, 3)
    except (OSError, IndexError, json.JSONDecodeError) as error:
        reason = str(error)
    msg = (
        f"'{python}' does not run unbabel-comet: {reason} Make the environment anew with `speechllm comet-env "
        f"--recreate`, or set {PYTHON_VARIABLE} to a Python with unbabel-comet {VERSION}."
    )
    raise UserError(msg)


def environment_variables() -> dict[str, str]:
    """Return the variables that the environment's programs get: no trace of this process's ranks, no pickled code."""
    variables = {key: value for key, value in os.environ.items() if not key.startswith(DISTRIBUTED)}
    if "TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD" not in variables:
        variables["TORCH_FORCE_WEIGHTS_ONLY_LOAD"] = "1"
    return variables


def tail(text: str, lines: int) -> str:
    """Return the last lines of what a program wrote that are not empty."""
    return "\n".join([line.rstrip() for line in text.splitlines() if line.strip()][-lines:]) or "it wrote nothing."
