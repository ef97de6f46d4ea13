"""The report of a test: what it says about predictions whose figures were worked out by hand."""

from dataclasses import replace

import pytest

from speechllm.evaluation.run_record import Run
from speechllm.evaluation.scoring import score
from speechllm.evaluation.test_report import test_report as make_report
from tests.evaluation.predicted import predicted, translated

SPECS = [{"name": name} for name in ("wer", "cer", "bleu", "health", "speed")]


def report(predictions, run=None, intervals=None):
    return make_report(predictions, score(predictions, SPECS), intervals or {}, run or Run())


def test_one_test_set():
    """One word of four is wrong in each but the last, which is empty."""
    predictions = [
        predicted(0, duration_s=1.0),
        predicted(1, speaker="bob", duration_s=3.0),
        predicted(2, hypothesis_transcript="", text="", speaker="bob", duration_s=3.5),
    ]
    scored = score(predictions, SPECS)
    intervals = {("wer", scored[0].test_set): (25.0, 100.0)}
    text = make_report(predictions, scored, intervals, Run(processes=2, wall_s=1.5))
    lines = text.split("\n")
    assert lines[0].split() == ["metric", "value", "unit", "95", "%", "interval", "signature"]
    assert lines[2].split()[:6] == ["wer", "50.00", "%", "25.00", "to", "100.00"]
    assert "fake en, test, asr: 3 utterances." in lines
    assert "wer_macro 50.00 %, cer_macro 37.04 %" in lines
    assert ["wer", "2", "0", "4", "12"] in [line.split() for line in lines]
    assert ["<", "2", "s", "1", "25.00", "5.56"] in [line.split() for line in lines]
    assert ["2-5", "s", "2", "62.50", "52.78"] in [line.split() for line in lines]
    assert "wer of 2 speakers: best 25.00 (anna), median 43.75, worst 62.50 (bob)." in lines
    assert "1 of 3 answers are empty." in lines
    assert "3 utterances decoded in 1.5 s by 2 processes: 2.00 hypotheses/s." in lines
    assert "By the time of each batch: real-time factor 0.2000, 10.0 tokens/s, 0.100 s to the first token." in lines
    assert text.count("  hypothesis  ") == 3
    assert "bleu" not in text
    assert len(lines) < 45


def test_several_test_sets():
    predictions = [predicted(0), predicted(1, corpus="other", hypothesis_transcript=""), translated(2), translated(3)]
    lines = report(predictions).split("\n")
    assert lines[0].split() == ["test", "set", "utterances", "wer", "cer", "bleu"]
    assert lines[2].split()[:3] == ["fake", "en", "1"]
    rows = {line.split("  ")[0]: line.split()[-2:] for line in lines[2:7]}
    assert rows["fake en"] == ["25.00", "5.56"]
    assert rows["mean"] == ["62.50", "52.78"]
    assert rows["pooled"] == ["62.50", "52.78"]
    assert rows["fake en-de"][0] == "2"
    assert any(line.startswith("bleu    points  nrefs:1|") for line in lines)


def test_what_went_wrong_is_said():
    loop = "no " * 9
    predictions = [
        predicted(0, readable=False, duration_s=0.0, hit_limit=True),
        predicted(1, hypothesis_transcript=loop, text=loop),
        predicted(2, reference_transcript="", hypothesis_transcript="thank you"),
        translated(3, hypothesis_translation="the dog barks"),
    ]
    lines = report(predictions).split("\n")
    assert "1 of 4 clips could not be read and are scored as empty output." in lines
    assert "1 of 4 answers were cut off at the limit of new tokens." in lines
    assert "1 of 3 transcripts repeat a passage over and over." in lines
    assert "1 of 1 translations are nearly the source text." in lines
    assert "1 of 1 clips in which nothing is said have transcripts." in lines
    assert "1 utterance has no reference to score and no part in wer, cer." in lines


@pytest.mark.parametrize("speaker", ["", "anna"])
def test_nothing_is_said_where_nothing_is(speaker):
    perfect = [predicted(row, speaker=speaker, hypothesis_transcript="one two three four") for row in range(4)]
    text = report([replace(p, decode_s=0.0, first_token_s=0.0) for p in perfect])
    for words in ("speakers", "duration  ", "decoded", "By the time", "answers", "clips"):
        assert words not in text


def test_speakers_of_two_corpora_may_have_one_name():
    perfect = predicted(0, hypothesis_transcript="one two three four", speaker="1")
    text = report([perfect, replace(predicted(1, speaker="1"), corpus="other")])
    assert "wer of 2 speakers: best 0.00 (fake 1), median 12.50, worst 25.00 (other 1)." in text


def test_what_was_decoded_before_is_not_counted():
    run = Run(wall_s=2.0, taken_over=1)
    expected = "2 utterances decoded in 2.0 s by 1 process: 1.00 hypotheses/s. 1 were decoded before."
    assert expected in report([predicted(row) for row in range(3)], run)


def test_health_alone_is_shown_in_figures():
    predictions = [predicted(0), predicted(1, hypothesis_transcript="", text="")]
    lines = make_report(predictions, score(predictions, [{"name": "health"}]), {}, Run()).split("\n")
    assert lines[2].split()[:3] == ["empty_rate", "50.00", "%"]
    assert any(line.startswith("repetition_loop_rate 0.00 %") for line in lines)


def test_signatures_say_of_which_test_sets_they_are():
    predictions = [
        predicted(0),
        predicted(1, source_language="ja", target_language="ja", reference_transcript="猫", hypothesis_transcript="猫"),
    ]
    lines = make_report(predictions, score(predictions, [{"name": "cer"}]), {}, Run()).split("\n")
    (en, ja) = [line.split() for line in lines if "cer|spaces" in line]
    assert (en[3:], ja[3:]) == (["fake", "en"], ["fake", "ja"])
    assert lines[lines.index("") + 1].split() == ["metric", "unit", "signature", "of"]


def test_texts_that_no_metric_scores():
    text = make_report([predicted(0, duration_s=0.0)], [], {}, Run())
    assert text.startswith("No metric scores a text of these utterances.\n\n")
    assert "u0 (asr, en)" in text
