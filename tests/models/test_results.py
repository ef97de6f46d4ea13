"""What a test leaves behind where its segments are not those of the references."""

import json

import pytest

from speechllm.evaluation.run_record import Run
from speechllm.models.results import write_test
from speechllm.predictions import read_predictions
from speechllm.talk_references import TalkReference
from tests.evaluation.predicted import translated


class FinishedRun:
    """A run that has decoded its segments."""

    taken_over = 0

    def __init__(self, predictions):
        self.predictions, self.forgotten = predictions, False

    def gather(self):
        return self.predictions, 3.0

    def forget(self):
        self.forgotten = True


class OneProcess:
    count = 1

    def on_first(self, work):
        return work()


def test_segments_of_talks_are_scored_as_the_references_have_them(tmp_path):
    untold = {"reference_transcript": "", "reference_translation": "", "recording": "/talks/ted_1.wav"}
    segments = [
        translated(0, hypothesis_translation="das ist der erste Satz und", offset_s=0.0, **untold),
        translated(1, hypothesis_translation="das der zweite Satz hier", offset_s=4.0, **untold),
    ]
    talks = [
        TalkReference("ted_1", str(number), "de", "", text)
        for number, text in enumerate(["das ist der erste Satz", "und das der zweite", "Satz hier"])
    ]
    run = FinishedRun(segments)
    values = write_test(run, OneProcess(), tmp_path, [{"name": "bleu"}, {"name": "speed"}], Run(), talks)
    assert run.forgotten
    assert values["bleu"] == pytest.approx(100)
    assert [p.id for p in read_predictions(tmp_path / "segments.jsonl")] == ["u0", "u1"]
    assert [p.hypothesis_translation for p in read_predictions(tmp_path / "predictions.jsonl")] == [
        one.translation for one in talks
    ]
    record = json.loads((tmp_path / "run.json").read_text())
    assert [spec["name"] for spec in record["metrics"]] == ["bleu"]
    report = (tmp_path / "report.txt").read_text()
    assert "2 utterances decoded in 3.0 s by 1 process: 0.67 hypotheses/s." in report, "not the 3 that are scored"
