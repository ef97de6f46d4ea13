"""``speechllm comet-env``: the environment in which the metric ``comet`` runs unbabel-comet."""

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

from speechllm.errors import UserError

PYTHONS = ((3, 10), (3, 12))
"""First and last version of Python that has wheels of every package (numpy 1.26 ends at 3.12)."""

NEEDED_GB = {"with CUDA": 7, "without": 2}
"""Space that the environment takes, by the build of torch that pip's index has for this machine."""


def run(arguments: list[str]) -> None:
    """Parse the command's options and make the environment."""
    from jsonargparse import ArgumentParser

    parser = ArgumentParser(
        prog="speechllm comet-env",
        description="Make the environment in which the metric comet runs unbabel-comet 2.2.7, for `backend: unbabel`. "
        "The package needs older versions than speechllm, so that it cannot share its environment. It goes into the "
        "user's cache ($XDG_CACHE_HOME or ~/.cache) and takes 2 GB, with CUDA's libraries 7 GB. An environment that is "
        "complete stays as it is; one that was interrupted is completed.",
    )
    parser.add_argument(
        "--python",
        type=str,
        help="Python of the environment, 3.10 to 3.12: a name or a path; this one, or the first found, if not given",
    )
    parser.add_argument("--recreate", action="store_true", help="remove the environment first")
    options = parser.parse_args(arguments)
    comet_env(options.python, options.recreate)


def comet_env(python: str | None = None, recreate: bool = False) -> Path:
    """Make the environment of unbabel-comet, try it, and return its folder.

    Args:
        python: Python to make it with, 3.10 to 3.12; this one if it is one of these, else the first that is found.
        recreate: Whether to remove the environment first.

    Raises:
        UserError: If there is no such Python, too little space, or a step fails; the message ends with what pip said,
            and what was made is removed.
    """
    from speechllm.metrics.comet_environment import VERSION, environment_folder, marker

    folder = environment_folder()
    if recreate and folder.exists():
        print(f"Removing {folder}")
        shutil.rmtree(folder)
    if marker(folder).is_file():
        versions = json.loads(marker(folder).read_text(encoding="utf-8"))["versions"]
        print(f"unbabel-comet {versions['unbabel-comet']} is there already, in {folder}. `--recreate` makes it anew.")
        return folder
    chosen = python or _find_python()
    _check_python(chosen)
    _check_space(folder)
    print(
        f"Making the environment of unbabel-comet {VERSION} in {folder}.\n"
        f"It takes {NEEDED_GB['without']} GB and about a minute, with CUDA's libraries {NEEDED_GB['with CUDA']} GB and "
        "several minutes, plus the time of the download.",
        flush=True,
    )
    began = time.monotonic()
    try:
        versions = _make(folder, chosen)
    except UserError:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    shown = ", ".join(f"{name} {version}" for name, version in versions.items())
    print(f"Ready: {shown}; {_size_gb(folder):.1f} GB, {time.monotonic() - began:.0f} s. Use `backend: unbabel`.")
    return folder


def _make(folder: Path, python: str) -> dict[str, str]:
    """Make the environment, install what is pinned, import the package, and mark it as complete."""
    from speechllm.metrics.comet_environment import PINS, installed_versions, marker

    own = str(folder / "bin" / "python")
    if not os.access(own, os.X_OK):
        folder.parent.mkdir(parents=True, exist_ok=True)
        _step("make an environment", [python, "-m", "venv", "--clear", str(folder)])
    _step("install unbabel-comet", [own, "-m", "pip", "install", "--progress-bar", "off", *PINS])
    print("  trying it", flush=True)
    versions = installed_versions(own, load=True)
    marker(folder).write_text(json.dumps({"versions": versions, "pins": PINS}, indent=1), encoding="utf-8")
    return versions


def _step(what: str, command: list[str]) -> None:
    """Run a command, print a line for each package that pip takes, and keep what it says in case it fails.

    Raises:
        UserError: If it fails.
    """
    from speechllm.metrics.comet_environment import tail

    said = []
    variables = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    try:
        with subprocess.Popen(
            command, env=variables, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace"
        ) as process:
            for line in process.stdout or ():
                said.append(line)
                if line.lstrip().startswith(("Collecting", "Downloading", "Using cached", "Processing", "Installing")):
                    print(f"  {line.strip()[:110]}", flush=True)
        status = process.returncode
    except OSError as error:
        status, said = 1, [str(error)]
    if status != 0:
        msg = (
            f"Could not {what}; what was made is removed. pip installs from where it is configured to "
            f"(`pip config list`). The end of what was said:\n{tail(''.join(said), 15)}"
        )
        raise UserError(msg)


def _find_python() -> str:
    first, last = PYTHONS
    if first <= sys.version_info[:2] <= last:
        return sys.executable
    names = [f"python3.{minor}" for minor in (11, 12, 10)]
    found = next((name for name in names if shutil.which(name)), None)
    if found is None:
        msg = (
            f"unbabel-comet needs Python 3.{first[1]} to 3.{last[1]}; this one is {sys.version.split()[0]}, and none "
            f"of {', '.join(names)} is found. Install one and name it with `--python`."
        )
        raise UserError(msg)
    return found


def _check_python(python: str) -> None:
    ask = "import sys; print(*sys.version_info[:2])"
    try:
        done = subprocess.run([python, "-I", "-c", ask], capture_output=True, text=True, check=True)
        version = tuple(map(int, done.stdout.split()))
    except (OSError, subprocess.CalledProcessError, ValueError) as error:
        msg = f"`--python` is '{python}', which does not run: {error}. Give the name or path of a Python."
        raise UserError(msg) from error
    first, last = PYTHONS
    if not first <= version <= last:
        msg = (
            f"`--python` is '{python}', Python {'.'.join(map(str, version))}. unbabel-comet's packages have wheels for "
            f"3.{first[1]} to 3.{last[1]}."
        )
        raise UserError(msg)


def _check_space(folder: Path) -> None:
    place = next(parent for parent in folder.parents if parent.exists())
    free_gb = shutil.disk_usage(place).free / 1e9
    if free_gb < NEEDED_GB["without"]:
        msg = (
            f"'{place}' has {free_gb:.1f} GB left; the environment of unbabel-comet takes {NEEDED_GB['without']} GB, "
            f"with CUDA's libraries {NEEDED_GB['with CUDA']} GB. Set XDG_CACHE_HOME to a folder on another disk."
        )
        raise UserError(msg)


def _size_gb(folder: Path) -> float:
    return sum(path.lstat().st_size for path in folder.rglob("*") if path.is_file()) / 1e9
