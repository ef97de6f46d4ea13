"""The README's promises are executed: its Python blocks, its commands, its make targets, its paths."""

import re
import shlex
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
import soundfile

from speechllm.cli import COMMANDS, OTHER_COMMANDS, main
from speechllm.predictions import read_predictions
from speechllm.recipe_files import recipes
from speechllm.registry import ADAPTERS, ENCODERS, METRICS
from tests.corpora.covost2 import write_covost2
from tests.corpora.must_c import write_must_c
from tests.corpora.table import write_fake as write_table
from tests.tiny import noise

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```", README, flags=re.M | re.S)
TWIN = ["--config", str(ROOT / "tests/conf/quickstart.yaml")]
COMMAND_LINES = [
    line.split("  #")[0]
    for language, block in BLOCKS
    if language == "bash"
    for line in block.splitlines()
    if line.startswith("speechllm ")
]
MAKE_LINES = [
    line.split("#")[0].strip()
    for language, block in BLOCKS
    if language == "bash"
    for line in block.splitlines()
    if line.startswith("make ")
]


def test_something_was_found():
    assert {language for language, _ in BLOCKS} == {"bash", "python"}
    assert MAKE_LINES == ["make quickstart", "make test"]
    assert len(COMMAND_LINES) >= 7


@pytest.fixture(scope="module")
def quickstart(tmp_path_factory):
    """Run `make quickstart` on the tiny twin, as the README says, in an empty folder; return the folder."""
    folder = tmp_path_factory.mktemp("quickstart")
    first, second = (make_quickstart(folder) for _ in range(2))
    return folder, first, second


def make_quickstart(folder):
    """Run the target with this environment's programs instead of .venv's."""
    command = ["make", "--no-print-directory", "-f", str(ROOT / "Makefile"), "quickstart", "STAMP="]
    command += [f"BIN={Path(sys.executable).parent}", f"RECIPE={ROOT / 'recipes/quickstart.yaml'}"]
    command += [f"FLAGS={shlex.join(TWIN)} --trainer.enable_progress_bar false"]
    return subprocess.run(command, cwd=folder, check=True, capture_output=True, text=True, timeout=300).stdout


def test_make_quickstart(quickstart):
    """One table with signatures, three examples, and where things are; the second call trains and tests nothing."""
    folder, first, second = quickstart
    for printed in (first, second):
        for text in ("wer", "cer", "bleu", "chrf", "nrefs:1|case:mixed", "hypotheses/s", "real-time factor"):
            assert text in printed
        assert printed.count("  hypothesis  ") == 6
        assert "Checkpoints:  runs/quickstart/checkpoints" in printed
    assert "Found runs/quickstart" not in first
    assert second.startswith("Found runs/quickstart; delete it to train anew.")
    assert len(list((folder / "runs/quickstart/logs").glob("events*"))) == 2, "one of fit and one of test"


def test_a_quickstart_that_was_interrupted_goes_on(quickstart, tmp_path):
    folder, *_ = quickstart
    subprocess.run(["cp", "-r", f"{folder}/.", str(tmp_path)], check=True)
    (tmp_path / "runs/quickstart/trained").unlink()
    (tmp_path / "runs/quickstart/test/report.txt").unlink()
    make_quickstart(tmp_path)
    assert (tmp_path / "runs/quickstart/test/report.txt").is_file()


@pytest.mark.parametrize("block", [block for language, block in BLOCKS if language == "python"])
def test_python_blocks(block, quickstart, monkeypatch, capsys):
    monkeypatch.chdir(quickstart[0])
    exec(compile(block, "README.md", "exec"), {})
    assert capsys.readouterr().out.strip()


@pytest.mark.parametrize("line", COMMAND_LINES)
def test_commands(line, quickstart, monkeypatch, capsys):
    """Trainer commands parse with their recipe; the others run."""
    monkeypatch.chdir(quickstart[0])
    soundfile.write("hello.wav", noise(8000)[0].numpy(), 16_000)
    if not Path("data/must_c").exists():
        write_must_c(Path("data/must_c"), ("de", "fr"))
        write_covost2(Path("data/covost2"))
        write_table(Path("data/mine"))
        Path("hyp.txt").write_text("hello word\n", encoding="utf-8")
        Path("ref.txt").write_text("hello world\n", encoding="utf-8")
        decoded = read_predictions("runs/quickstart/test/predictions.jsonl")
        Path("nllb.txt").write_text("das ist ein Satz\n" * len(decoded), encoding="utf-8")
    _, command, *arguments = shlex.split(line)
    assert command in COMMANDS
    if command in OTHER_COMMANDS:
        main([command, *arguments])
        assert capsys.readouterr().out.endswith("\n")  # a model of two steps may have nothing to say
        return
    recipe = arguments[arguments.index("--config") + 1]
    assert (ROOT / recipe).is_file()
    arguments[arguments.index(recipe)] = str(ROOT / recipe)
    with pytest.raises(SystemExit) as exit_:
        main([command, *arguments, "--print_config"])
    assert exit_.value.code == 0


def test_paths_and_names_exist():
    for path in re.findall(r"`((?:recipes|docs|tests|speechllm)/[\w/.]+)`", README):
        assert (ROOT / path).exists(), path
    table = dict(re.findall(r"^\| `(\w+)(?:/…`, (\d+)|`)", README, flags=re.M))
    counts = Counter(name.split("/")[0] for name in recipes())
    assert {name: int(count or 1) for name, count in table.items() if name in counts} == counts
    assert set(re.findall(r"@(\w+)\.register", README)) == {"ADAPTERS", "ENCODERS", "FUSIONS", "METRICS"}
    assert ADAPTERS.names()
    assert ENCODERS.names()
    assert METRICS.names()
