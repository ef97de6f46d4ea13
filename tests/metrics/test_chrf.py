"""ChrF against a hand-worked corpus and against sacreBLEU's command line."""

import pytest

from speechllm.errors import UserError
from speechllm.metrics.base import Sample
from speechllm.metrics.chrf import Chrf


def score(metric, hypotheses, references):
    samples = [Sample(*texts) for texts in zip(hypotheses, references, strict=True)]
    return metric.score(samples)[metric.figures[0].name]


def test_one_line_worked_by_hand():
    """Orders 1 to 3: precisions 3/4, 2/3, 1/2 and recalls 1; order 4 is not in the reference. F2 = 5PR / (4P + R)."""
    precision = (3 / 4 + 2 / 3 + 1 / 2) / 3
    assert score(Chrf("de"), ["abcd"], ["abc"]) == pytest.approx(100 * 5 * precision / (4 * precision + 1))
    assert score(Chrf("de"), ["abc"], ["abcd"]) == pytest.approx(100 * 5 * precision / (4 + precision))


def test_counts_are_pooled_over_lines():
    """Orders 1 to 3 over both lines: 5 of 6 and 6, 3 of 4 and 4, 1 of 2 and 2; the mean of the lines differs."""
    assert score(Chrf("de"), ["abcd", "xy"], ["abc", "xyz"]) == pytest.approx(100 * (5 / 6 + 3 / 4 + 1 / 2) / 3)


@pytest.mark.parametrize("word_order", [0, 2])
def test_agrees_with_the_command_line(word_order, sacrebleu_cli):
    hypotheses = ["Der Hund, der bellt, beißt nicht.", "我今天不去学校。", "", "Ich habe 3,5 Euro."]
    references = [
        "Ein Hund, der bellt, beißt nicht!",
        "我今天不想去学校。",
        "Nichts da.",
        "Ich habe ungefähr 3,5 Euro.",
    ]
    metric = Chrf("de", word_order=word_order)
    value = score(metric, hypotheses, references)
    theirs = sacrebleu_cli(hypotheses, references, "-m", "chrf", "--chrf-word-order", str(word_order))
    assert value == pytest.approx(theirs["score"], abs=1e-6)
    assert metric.signature() == theirs["signature"]
    assert 20 < value < 95


def test_signature_needs_no_utterance():
    assert Chrf("de").signature().startswith("nrefs:1|case:mixed|eff:yes|nc:6|nw:0|space:no|version:2.")


def test_negative_word_order():
    with pytest.raises(UserError, match="`word_order` of chrF must be 0"):
        Chrf("de", word_order=-1)
