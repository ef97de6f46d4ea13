"""Tests on several processes, and tests that are killed and go on: each utterance once, and the same figures."""

import json
import re
import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from speechllm.predictions import read_predictions
from tests.models import tested_run

pytestmark = pytest.mark.loopback

ROWS = 3 * tested_run.ROWS
"""An odd number, one for each utterance and task."""


def run(folder, *steps):
    """Run steps in one process; return what each printed, by its folder and stage, up to one that was killed."""
    steps = [{"folder": str(folder)} | step for step in steps]
    done = subprocess.run(
        [sys.executable, "-m", "tests.models.tested_run", json.dumps(steps)],
        cwd=Path(__file__).parents[2],
        check=False,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=300,
    )
    assert done.returncode in (0, -signal.SIGKILL), done.stdout[-4000:]
    _, *parts = re.split(r"^\[(\w+ \w+)\]\n", done.stdout, flags=re.MULTILINE)
    return dict(zip(parts[::2], parts[1::2], strict=True))


def untimed(predictions):
    """Return predictions without what no two runs have in common."""
    return [replace(prediction, decode_s=0.0, first_token_s=0.0) for prediction in predictions]


def results(folder, out, stage="test"):
    return untimed(read_predictions(folder / out / stage / "predictions.jsonl"))


def scores(folder, out):
    return json.loads((folder / out / "test" / "run.json").read_text())["scores"]


def killed(folder, out, stage="test"):
    """Return the files of the journal that a killed run left."""
    return sorted((folder / out / stage / ".decoded").iterdir())


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Return a folder with a checkpoint, results of one process and of two, and what killed runs left."""
    folder = tested_run.write_corpus(tmp_path_factory.mktemp("tested"))
    (folder / "silent").mkdir()
    silent = tested_run.write_corpus(folder / "silent") / "test.csv"
    silent.write_text(re.sub(r"(?m)^(\d+\.wav),[\w ]+", r"\1,", silent.read_text()))
    run(
        folder,
        {},
        {"validate": "validated_by_one"},
        {"validate": "validated_by_two", "world_size": 2},
        {"out": "one"},
        {"out": "two", "world_size": 2},
        {"out": "one", "stage": "predict"},
        {"out": "two_killed", "world_size": 2, "kill_after": 4},
        {"out": "one_killed", "kill_after": 4},
    )
    failed = {"out": "failed", "corpus": str(folder / "silent"), "world_size": 2, "metrics": ["wer"]}
    printed = run(folder, failed, {"out": "predict_killed", "stage": "predict", "kill_after": 5})
    assert "has no utterance with a reference to score" in printed["failed test"]
    return folder


@pytest.fixture(scope="module")
def printed(folder):
    """Run what was killed or had failed again, and return what was printed."""
    shutil.copytree(folder / "one_killed", folder / "changed")
    assert [path.name for path in killed(folder, "one_killed")] == ["0.jsonl"]
    assert [path.name for path in killed(folder, "two_killed")] == ["0.jsonl", "1.jsonl"]
    torn = killed(folder, "one_killed")[0]
    torn.write_bytes(torn.read_bytes()[:-40])
    failed = {"out": "failed", "corpus": str(folder / "silent"), "world_size": 2, "metrics": ["bleu"]}
    return run(
        folder,
        {"out": "one_killed", "world_size": 2},
        {"out": "two_killed"},
        failed,
        {"out": "changed", "num_beams": 2},
        {"out": "predict_killed", "stage": "predict"},
    )


def test_one_process(folder):
    predictions = read_predictions(folder / "one" / "test" / "predictions.jsonl")
    assert [prediction.row for prediction in predictions] == list(range(ROWS))
    assert [prediction.id for prediction in predictions[::3]] == [f"{row}.wav" for row in range(tested_run.ROWS)]
    assert len({prediction.text for prediction in predictions}) > 5, "a model that always says the same shows nothing"
    assert {prediction.speaker for prediction in predictions} == {"speaker 0", "speaker 1", "speaker 2"}
    assert Path(predictions[0].recording).name == "0.wav"
    assert all(0 < prediction.first_token_s < 60 for prediction in predictions)
    assert {path.name for path in (folder / "one" / "test").iterdir()} == {
        "predictions.jsonl",
        "run.json",
        "report.txt",
    }


def test_two_processes_and_one_agree(folder):
    """Predictions with their statistics, and every figure to the last bit, though batches were others."""
    assert results(folder, "two") == results(folder, "one")
    assert scores(folder, "two") == scores(folder, "one")
    record = json.loads((folder / "two" / "test" / "run.json").read_text())
    assert (record["processes"], record["taken_over"]) == (2, 0)
    assert record["test_sets"] == json.loads((folder / "one" / "test" / "run.json").read_text())["test_sets"]


def test_validation_by_two_processes_and_by_one_agrees(folder):
    one, *two = (json.loads((folder / f"validated_by_{name}.json").read_text()) for name in ("one.0", "two.0", "two.1"))
    assert {"val_wer", "val_bleu", "val_score", "val_loss", "val_cer/table_en_asr_en"} <= set(one)
    assert two[0] == two[1]
    assert two[0] == pytest.approx(one, rel=1e-4)


def test_statistics_of_predictions_give_the_figures(folder):
    predictions = read_predictions(folder / "one" / "test" / "predictions.jsonl")
    (wer,) = [item for item in scores(folder, "one") if item["figure"] == "wer" and item["task"] == "asr"]
    kept = [p.statistics["wer"] for p in predictions if p.task == "asr"]
    sums = {name: sum(values[name] for values in kept) for name in kept[0]}
    assert sums == pytest.approx(wer["sums"])
    errors = sums["substitutions"] + sums["insertions"] + sums["deletions"]
    assert errors == int(errors)
    assert 100 * errors / sums["reference_units"] == wer["value"]
    assert not any("wer" in p.statistics for p in predictions if p.task == "st")


@pytest.mark.parametrize("out", ["one_killed", "two_killed"])
def test_a_killed_test_goes_on(folder, printed, out):
    """SIGKILL in the middle, a last line torn, then another number of processes: nothing is different."""
    taken_over = int(re.search(r"(\d+) utterances are decoded already", printed[f"{out} test"])[1])
    assert 4 <= taken_over < ROWS
    assert f"{ROWS - taken_over} utterances decoded" in printed[f"{out} test"]
    assert results(folder, out) == results(folder, "one")
    assert scores(folder, out) == scores(folder, "one")
    assert not (folder / out / "test" / ".decoded").exists()


def test_a_killed_prediction_goes_on(folder, printed):
    assert "utterances are decoded already" in printed["predict_killed predict"]
    assert results(folder, "predict_killed", "predict") == results(folder, "one", "predict")


def test_other_options_begin_anew(printed):
    text = printed["changed test"]
    assert "decoded anew. It differs in num_beams (was 1, is 2)." in text
    assert "are decoded already" not in text
    assert f"{ROWS} utterances decoded" in text


def test_a_test_that_could_not_be_scored_is_scored_by_the_next(folder, printed):
    """The error of the first of two processes had ended both; nothing is decoded twice."""
    assert f"{ROWS} utterances are decoded already" in printed["failed test"]
    assert len(results(folder, "failed")) == ROWS
    assert {item["figure"] for item in scores(folder, "failed")} == {"bleu"}
