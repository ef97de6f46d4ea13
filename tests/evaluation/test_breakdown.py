"""Figures of parts of a test set, worked out by hand."""

import math

import pytest

from speechllm.errors import UserError
from speechllm.evaluation.breakdown import break_down, duration_bin
from speechllm.evaluation.scoring import score
from tests.evaluation.predicted import predicted, translated

WER = [{"name": "wer"}]


def found(predictions, by, specs=WER, **options):
    parts = break_down(score(predictions, specs), predictions, by, **options)
    return {(part.part, part.figure): (part.value, part.utterances) for part in parts}


@pytest.mark.parametrize(
    ("duration_s", "name"),
    [(0.1, "< 2 s"), (2.0, "2-5 s"), (4.999, "2-5 s"), (5.0, "5-10 s"), (19.99, "10-20 s"), (20.0, ">= 20 s")],
)
def test_bins(duration_s, name):
    assert duration_bin(predicted(0, duration_s=duration_s)) == name


def test_what_could_not_be_read_has_a_bin_of_its_own():
    assert duration_bin(predicted(0, duration_s=0.0, readable=False)) == "unreadable"


def test_by_duration():
    """Errors and words are summed within a bin: (1 + 2) of (4 + 2) words, not the mean of 25 % and 100 %."""
    predictions = [
        predicted(0, duration_s=1.0),
        predicted(1, duration_s=1.5, reference_transcript="a b", hypothesis_transcript=""),
        predicted(2, duration_s=7.0, hypothesis_transcript="one two three four"),
        predicted(3, duration_s=3.0, reference_transcript=""),  # has no rate, and is alone in its bin
    ]
    assert found(predictions, "duration") == {("< 2 s", "wer"): (50.0, 2), ("5-10 s", "wer"): (0.0, 1)}
    every = found(predictions, "duration", main_only=False)
    assert every["< 2 s", "wer_macro"] == (62.5, 2)


def test_by_speaker():
    speakers = ["bob", "anna", "bob", ""]
    predictions = [predicted(row, speaker=speaker) for row, speaker in enumerate(speakers)]
    predictions[2].hypothesis_transcript = "four three two one"  # all four are wrong
    assert found(predictions, "speaker") == {("anna", "wer"): (25.0, 1), ("bob", "wer"): (100 * 5 / 8, 2)}


def test_bleu_of_a_bin_is_that_of_its_sentences_alone():
    predictions = [
        translated(0, duration_s=1.0, hypothesis_translation="der Hund bellt laut"),
        translated(1, duration_s=9.0, hypothesis_translation="etwas ganz anderes hier"),
    ]
    specs = [{"name": "bleu"}]
    parts = found(predictions, "duration", specs)
    assert parts["< 2 s", "bleu"] == (pytest.approx(100.0), 1)
    assert parts["5-10 s", "bleu"] == (0.0, 1)
    assert 0 < score(predictions, specs)[0].scores()[0].value < 100


def test_by_corpus_and_languages_is_the_mean_of_test_sets():
    perfect = {"hypothesis_transcript": "one two three four"}
    predictions = [
        predicted(0, corpus="a"),
        predicted(1, corpus="a", source_language="fr", target_language="fr", **perfect),
        predicted(2, corpus="b", **perfect),
        predicted(3, corpus="b", **perfect),
    ]
    assert found(predictions, "corpus") == {("a", "wer"): (12.5, 2), ("b", "wer"): (0.0, 2)}
    assert found(predictions, "languages") == {("en", "wer"): (12.5, 3), ("fr", "wer"): (0.0, 1)}


def test_test_sets_are_told_apart():
    predictions = [predicted(0, corpus="a"), predicted(1, corpus="b", hypothesis_transcript="")]
    parts = break_down(score(predictions, WER), predictions, "speaker")
    assert [(part.test_set.corpus, part.part, part.value) for part in parts] == [
        ("a", "anna", 25.0),
        ("b", "anna", 100.0),
    ]
    assert not any(math.isnan(part.value) for part in parts)


def test_unknown_breakdown():
    with pytest.raises(UserError, match=r"Unknown breakdown 'speakers'\. Did you mean 'speaker'"):
        break_down([], [], "speakers")
