"""``speechllm comet-env``, with a stand-in for Python that makes folders and says what it was asked."""

import json
import subprocess
import sys
import time
from collections import namedtuple

import pytest

from speechllm.cli import main
from speechllm.commands import comet_env as command
from speechllm.errors import UserError
from speechllm.metrics.comet_environment import PINS, RUNNER, environment_python, installed_versions

STAND_IN = """#!/bin/sh
echo "$@" >> "$STAND_IN_LOG"
case "$2" in
  -c) echo "$STAND_IN_VERSION"; exit ;;
esac
case "$2 $3" in
  "venv --clear")
    [ "$STAND_IN_FAILS" = venv ] && { echo "ensurepip is not available"; exit 1; }
    mkdir -p "$4/bin"; cp "$0" "$4/bin/python"; exit 0 ;;
  "pip install")
    echo "Looking in indexes: a b"; echo "Collecting torch==2.13.0"; echo "Requirement already satisfied: x"
    [ "$STAND_IN_FAILS" = pip ] && { echo "ERROR: No matching distribution found for torch==2.13.0"; exit 1; }
    exit 0 ;;
esac
[ "$1 $3" = "-I load" ] || { echo "unexpected: $@"; exit 9; }
[ "$STAND_IN_FAILS" = load ] && { echo "ImportError: libcudart.so" >&2; exit 1; }
echo '{"unbabel-comet": "2.2.7", "transformers": "4.57.6", "torch": "2.13.0"}'
"""


@pytest.fixture
def stand_in(tmp_path, monkeypatch):
    """Put the stand-in on the path; return it, and a function that gives the steps that it was asked for."""
    python = tmp_path / "bin" / "python3.11"
    python.parent.mkdir()
    python.write_text(STAND_IN)
    python.chmod(0o755)
    log = tmp_path / "log"
    monkeypatch.setenv("STAND_IN_LOG", str(log))
    monkeypatch.setenv("STAND_IN_VERSION", "3 11")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("SPEECHLLM_COMET_PYTHON", raising=False)
    installed_versions.cache_clear()

    def steps():
        lines = log.read_text().splitlines() if log.exists() else []
        log.unlink(missing_ok=True)
        return [line for line in lines if " -c " not in line]

    yield str(python), steps
    installed_versions.cache_clear()


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "cache" / "speechllm" / "comet-2.2.7"


def test_makes_tries_and_marks_the_environment(stand_in, folder, capsys):
    python, steps = stand_in
    main(["comet-env", "--python", python])
    made, installed, tried = steps()
    assert made == f"-m venv --clear {folder}"
    assert installed == f"-m pip install --progress-bar off {' '.join(PINS)}"
    assert tried.endswith("comet_runner.py load")
    assert {"unbabel-comet==2.2.7", "torch==2.13.0", "setuptools<81", "sentencepiece==0.2.0"} <= set(PINS)
    assert "index" not in installed
    written = json.loads((folder / "speechllm.json").read_text())
    assert written["versions"]["transformers"] == "4.57.6"
    assert environment_python() == str(folder / "bin" / "python")
    printed = capsys.readouterr().out
    assert f"Making the environment of unbabel-comet 2.2.7 in {folder}.\nIt takes 2 GB" in printed
    assert "  Collecting torch==2.13.0\n" in printed
    assert "Looking in" not in printed
    assert "Ready: unbabel-comet 2.2.7, transformers 4.57.6, torch 2.13.0; 0.0 GB" in printed


def test_what_is_complete_stays_and_can_be_made_anew(stand_in, folder, capsys):
    python, steps = stand_in
    command.comet_env(python)
    steps()
    command.comet_env(python)
    assert steps() == []
    assert f"unbabel-comet 2.2.7 is there already, in {folder}. `--recreate` makes it anew." in capsys.readouterr().out
    (folder / "old").touch()
    installed_versions.cache_clear()
    main(["comet-env", "--python", python, "--recreate"])
    assert len(steps()) == 3
    assert not (folder / "old").exists()
    assert (folder / "speechllm.json").exists()


def test_what_was_interrupted_is_completed(stand_in, folder, monkeypatch):
    """The environment is kept where the user stops pip, and pip goes on in it."""
    python, steps = stand_in
    run_step = command._step

    def stop(what, arguments):
        if "pip" in arguments:
            raise KeyboardInterrupt
        run_step(what, arguments)

    monkeypatch.setattr(command, "_step", stop)
    with pytest.raises(KeyboardInterrupt):
        command.comet_env(python)
    assert (folder / "bin" / "python").exists()
    monkeypatch.setattr(command, "_step", run_step)
    steps()
    assert command.comet_env(python) == folder
    assert [line.split()[1] for line in steps()] == ["pip", str(RUNNER)]


@pytest.mark.parametrize(
    ("step", "message"),
    [
        ("venv", r"(?s)Could not make an environment; what was made is removed.*ensurepip is not available"),
        (
            "pip",
            r"(?s)Could not install unbabel-comet.*`pip config list`.*ERROR: No matching distribution found for torch",
        ),
        ("load", r"(?s)does not run unbabel-comet: ImportError: libcudart\.so"),
    ],
)
def test_a_failure_leaves_nothing_behind(step, message, stand_in, folder, monkeypatch):
    python, _ = stand_in
    monkeypatch.setenv("STAND_IN_FAILS", step)
    with pytest.raises(UserError, match=message):
        command.comet_env(python)
    assert not folder.exists()
    monkeypatch.setenv("STAND_IN_FAILS", "")
    assert command.comet_env(python) == folder


@pytest.mark.parametrize("version", ["3 9", "3 13"])
def test_pythons_without_wheels(version, stand_in, folder, monkeypatch):
    python, _ = stand_in
    monkeypatch.setenv("STAND_IN_VERSION", version)
    with pytest.raises(UserError, match=rf"Python {version.replace(' ', '.')}\. unbabel-comet's.* for 3\.10 to 3\.12"):
        command.comet_env(python)
    assert not folder.exists()


def test_no_such_python(stand_in, tmp_path):
    with pytest.raises(UserError, match=r"`--python` is '.*none', which does not run"):
        command.comet_env(str(tmp_path / "none"))


def test_a_python_is_found(stand_in, monkeypatch):
    python, _ = stand_in
    assert command._find_python() == sys.executable
    version = namedtuple("version", "major minor")
    monkeypatch.setattr(command.sys, "version_info", version(3, 14))
    monkeypatch.setenv("PATH", python.rpartition("/")[0])
    assert command._find_python() == "python3.11"
    monkeypatch.setenv("PATH", "")
    with pytest.raises(UserError, match=r"needs Python 3\.10 to 3\.12.*none of python3\.11, .*name it with `--python`"):
        command._find_python()


def test_too_little_space(stand_in, folder, monkeypatch):
    python, steps = stand_in
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(command.shutil, "disk_usage", lambda place: usage(10**10, 10**10, 10**9))
    with pytest.raises(UserError, match=r"has 1\.0 GB left; .* takes 2 GB.*Set XDG_CACHE_HOME"):
        command.comet_env(python)
    assert steps() == []
    assert not folder.exists()


def test_help_is_fast():
    start_s = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-m", "speechllm", "comet-env", "--help"], check=True, capture_output=True, text=True
    )
    assert time.perf_counter() - start_s < 2
    assert "--recreate" in done.stdout
