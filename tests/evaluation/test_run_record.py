"""``run.json``: what it holds, that strict JSON reads it, and that the same test set has the same fingerprint."""

import json
import math
import subprocess
from dataclasses import replace

import pytest

from speechllm.evaluation.breakdown import break_down
from speechllm.evaluation.run_record import Run, fingerprint, git_state, hardware, make_record, write_record
from speechllm.evaluation.scoring import averages, score, scores
from speechllm.evaluation.significance import confidence_intervals
from tests.evaluation.predicted import predicted, translated

KEYS = {
    *(
        "speechllm",
        "time",
        "command",
        "recipe",
        "seed",
        "checkpoint",
        "step",
        "decoding",
        "packages",
        "git",
        "hardware",
    ),
    *("processes", "wall_s", "taken_over", "decoded", "test_sets", "scores", "breakdown"),
}


def record(predictions, names=("wer",), run=None):
    scored = score(predictions, [{"name": name} for name in names])
    intervals = {
        (figure.name, item.test_set): interval
        for item in scored
        for figure, interval in zip(item.metric.figures, confidence_intervals(item, samples=50), strict=True)
    }
    parts = break_down(scored, predictions, "speaker")
    return make_record(run or Run(), predictions, [*scores(scored), *averages(scored)], intervals, parts)


def test_contents(tmp_path):
    predictions = [predicted(0), predicted(1, speaker="bob", hypothesis_transcript="one two three four")]
    run = Run(command="speechllm test", seed=3, decoding={"num_beams": 5}, processes=2, wall_s=1.5)
    write_record(tmp_path / "run.json", record(predictions, run=run))
    assert [path.name for path in tmp_path.iterdir()] == ["run.json"]
    found = json.loads((tmp_path / "run.json").read_text())
    assert set(found) == KEYS
    assert (found["command"], found["seed"], found["recipe"], found["checkpoint"]) == ("speechllm test", 3, None, None)
    assert {"python", "torch", "rapidfuzz", "sacrebleu"} <= set(found["packages"])
    (test_set,) = found["test_sets"]
    assert (test_set["corpus"], test_set["utterances"], test_set["audio_s"]) == ("fake", 2, 4.0)
    main = found["scores"][0]
    assert (main["figure"], main["value"], main["unit"], main["higher_is_better"]) == ("wer", 12.5, "%", False)
    assert (main["low"], main["high"]) == (0.0, 25.0)
    assert main["sums"]["substitutions"] == 1
    assert found["breakdown"] == [
        {"by": "speaker", "figure": "wer", "corpus": "fake", "split": "test", "task": "asr", "source_language": "en"}
        | {"target_language": "en", "text": "transcript"}
        | {"parts": [{"part": "anna", "value": 25.0, "utterances": 1}, {"part": "bob", "value": 0.0, "utterances": 1}]}
    ]


def test_averages_have_no_interval():
    found = record([predicted(0), predicted(1, corpus="other")])["scores"]
    kinds = {(entry["kind"], entry["figure"]): entry for entry in found}
    assert kinds["mean", "wer"]["low"] is None
    assert kinds["mean", "wer"]["corpus"] == ""
    assert kinds["test set", "wer"]["low"] is not None


def test_what_is_not_a_number_is_null(tmp_path):
    write_record(tmp_path / "run.json", {"a": math.nan, "b": [math.inf, 1.0], "c": {"d": -math.inf}})
    assert json.loads((tmp_path / "run.json").read_text()) == {"a": None, "b": [None, 1.0], "c": {"d": None}}


def test_fingerprint_is_of_the_test_set_alone():
    predictions = [predicted(0), translated(1)]
    mark = fingerprint(predictions)
    other = [
        replace(p, row=9, hypothesis_transcript="x", text="x", decode_s=9.0, duration_s=2.001) for p in predictions
    ]
    assert fingerprint(reversed(other)) == mark
    for changes in ({"id": "v"}, {"reference_transcript": "x"}, {"duration_s": 2.1}, {"target_language": "fr"}):
        assert fingerprint([replace(predictions[0], **changes), predictions[1]]) != mark
    assert fingerprint(predictions[:1]) != mark


def test_git(tmp_path):
    assert git_state(tmp_path) is None

    def git(*arguments):
        names = ["-c", "user.name=a", "-c", "user.email=a@b.c"]
        subprocess.run(["git", "-C", str(tmp_path), *names, *arguments], check=True, capture_output=True)

    git("init")
    assert git_state(tmp_path) is None, "no commit yet"
    (tmp_path / "file").write_text("one")
    git("add", "file")
    git("commit", "-m", "one")
    state = git_state(tmp_path)
    assert len(state["commit"]) == 40
    assert not state["dirty"]
    (tmp_path / "other").write_text("git does not know it")
    assert git_state(tmp_path) == state
    (tmp_path / "file").write_text("two")
    assert git_state(tmp_path)["dirty"]


def test_git_may_be_absent(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert git_state(tmp_path) is None


def test_hardware():
    found = hardware()
    assert set(found) == {"cpu", "cores", "memory_gb", "gpus"}
    assert found["cores"] >= 1
    assert found["memory_gb"] > 0.1
    assert found["cpu"]


@pytest.mark.parametrize("name", ["speechllm.evaluation.run_record", "speechllm.evaluation.test_report"])
def test_loads_without_torch(name):
    import sys

    code = f"import sys, {name}; assert not {{'torch', 'lightning', 'transformers'}} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
