"""What the page says of an utterance is what the metrics say of it."""

import pytest
from sacrebleu.metrics import CHRF

from speechllm.evaluation.page.measures import Measure, measure
from speechllm.metrics.base import Figure, Metric
from speechllm.registry import METRICS
from tests.evaluation.predicted import predicted, translated

WER = Measure("wer", "transcript", "%", False, True)
CHRF_MEASURE = Measure("chrf", "translation", "points", True, False)


def test_errors_and_words_of_each_transcript():
    predictions = [
        predicted(0),  # one word of four is wrong
        predicted(1, hypothesis_transcript=""),
        predicted(2, reference_transcript=""),  # nothing to count
    ]
    assert measure(predictions, [{"name": "wer"}, {"name": "bleu"}]) == {
        WER: {(0, "transcript"): (1, 4), (1, "transcript"): (4, 4)}
    }


def test_words_are_not_counted_where_writing_has_none():
    chinese = predicted(
        0, source_language="zh", target_language="zh", reference_transcript="今天", hypothesis_transcript="今日"
    )
    english = predicted(1)
    found = measure([chinese, english], [{"name": "wer"}])
    assert {key.name: values for key, values in found.items()} == {
        "wer": {(1, "transcript"): (1, 4)},
        "cer": {(0, "transcript"): (1, 2)},
    }


def test_a_normalizer_stands_in_the_name():
    found = measure(
        [predicted(0, hypothesis_transcript="One, two. Three four")], [{"name": "wer", "normalizer": "lower_nopunct"}]
    )
    assert {key.name: values for key, values in found.items()} == {"wer_lower_nopunct": {(0, "transcript"): (0, 4)}}


def test_sentences_have_sacrebleus_chrf_whether_asked_for_or_not():
    predictions = [translated(0), translated(1, hypothesis_translation="")]
    expected = CHRF().sentence_score("der Hund bellt leise", ["der Hund bellt laut"]).score
    for specs in ([], [{"name": "bleu"}], [{"name": "chrf"}]):
        found = measure(predictions, specs)
        assert list(found) == [CHRF_MEASURE]
        assert found[CHRF_MEASURE][0, "translation"] == (pytest.approx(expected), 1)
        assert found[CHRF_MEASURE][1, "translation"] == (0, 1)
    assert [key.name for key in measure(predictions, [{"name": "chrf", "word_order": 2}])] == ["chrf++"]


def test_transcripts_have_words_where_nothing_counts_them():
    assert list(measure([predicted(0)], [{"name": "bleu"}])) == [WER]
    assert [key.name for key in measure([predicted(0)], [{"name": "cer"}])] == ["cer"]


def test_scores_that_predictions_keep_are_shown_and_not_computed(monkeypatch):
    class Kept(Metric):
        scores = ("translation",)
        kept = True
        figures = (Figure("kept", "points", True),)
        columns = ("score", "scored")

        def statistics(self, samples):
            raise AssertionError("a slow metric must not run for the page")

        def values(self, sums):
            return 100 * sums[..., :1]

        def scored(self, statistics):
            return statistics[:, 1] > 0

        def signature(self):
            return "kept"

    monkeypatch.setitem(METRICS._parts, "kept", Kept)
    with_scores = [
        translated(0, statistics={"kept": {"score": 0.8, "scored": 1.0}}),
        translated(1),
        translated(2, statistics={"kept": {"score": 0.0, "scored": 0.0}}),
    ]
    found = measure(with_scores, [{"name": "kept"}])
    key = Measure("kept", "translation", "points", True, False)
    assert found[key] == {(0, "translation"): (pytest.approx(80), 1)}
    assert key not in measure([translated(0)], [{"name": "kept"}])
