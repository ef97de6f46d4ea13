"""Word and character error rate against hand-worked corpora and against jiwer."""

from importlib.metadata import version

import jiwer
import pytest

from speechllm.errors import UserError
from speechllm.metrics.base import Sample
from speechllm.metrics.error_rate import CharacterErrorRate, WordErrorRate

# One substitution and one deletion, one insertion, one word lost to an empty hypothesis: 4 errors on 9 words.
REFERENCES = ["the cat sat on the mat", "hello world", "yes"]
HYPOTHESES = ["the cat sit on mat", "well hello world", ""]


def score(metric, hypotheses, references):
    samples = [Sample(*texts) for texts in zip(hypotheses, references, strict=True)]
    return metric.score(samples)[metric.figures[0].name]


def counts(metric, hypotheses, references):
    samples = [Sample(*texts) for texts in zip(hypotheses, references, strict=True)]
    return [tuple(row) for row in metric.statistics(samples)[:, :4].tolist()]


def test_the_golden_case():
    """Spec 17.3: 2 errors on 5 words, and the mean of 1/4 and 1."""
    samples = [Sample("a b c", "a b c d"), Sample("y", "x")]
    assert WordErrorRate("en").score(samples) == pytest.approx({"wer": 40.0, "wer_macro": 62.5})


def test_wer_worked_by_hand():
    metric = WordErrorRate("en")
    assert score(metric, HYPOTHESES, REFERENCES) == pytest.approx(100 * 4 / 9)
    assert counts(metric, HYPOTHESES, REFERENCES) == [(1, 0, 1, 6), (0, 1, 0, 2), (0, 0, 1, 1)]


def test_wer_has_a_direction():
    """A reference that stood in the hypothesis' place would divide by 8 words instead of 9."""
    assert score(WordErrorRate("en"), REFERENCES[:2], HYPOTHESES[:2]) == pytest.approx(100 * 3 / 8)


def test_wer_may_exceed_100():
    assert score(WordErrorRate("en"), ["a a a a"], ["b"]) == pytest.approx(400)


@pytest.mark.parametrize(("part", "reference_rate"), [(WordErrorRate, jiwer.wer), (CharacterErrorRate, jiwer.cer)])
def test_agrees_with_jiwer(part, reference_rate):
    references = [*REFERENCES, "Don't go, Straße!", "l'homme est là", "été à la mer"]
    hypotheses = [*HYPOTHESES, "dont go strasse", "l' homme est la", "ete a mer mer"]
    expected = 100 * reference_rate(references, hypotheses)
    assert score(part("en"), hypotheses, references) == pytest.approx(expected, abs=1e-12)
    assert 30 < expected < 70


def test_cer_worked_by_hand():
    """ "ab cd" loses its space, "kitten" becomes "sitting": 1 deletion, 2 substitutions, 1 insertion on 11."""
    metric = CharacterErrorRate("en")
    assert score(metric, ["abcd", "sitting"], ["ab cd", "kitten"]) == pytest.approx(100 * 4 / 11)
    assert counts(metric, ["abcd", "sitting"], ["ab cd", "kitten"]) == [(0, 0, 1, 5), (2, 1, 0, 6)]


@pytest.mark.parametrize("language", ["ja", "ko", "th", "zh", "zh-CN"])
def test_cer_ignores_spaces_where_they_divide_no_words(language):
    assert score(CharacterErrorRate(language), ["今日わ"], ["今日 は"]) == pytest.approx(100 / 3)
    assert score(CharacterErrorRate(language), ["그는 걸어 갔다"], ["그는\u3000걸어갔다"]) == 0


def test_cer_counts_spaces_elsewhere():
    assert score(CharacterErrorRate("de"), ["abcd"], ["ab cd"]) == pytest.approx(20)


def test_white_space_is_never_an_error():
    for part in (WordErrorRate, CharacterErrorRate):
        assert score(part("fr"), [" quoi\n ? "], ["quoi\u00a0?"]) == 0


def test_normalizer_is_applied_to_both_sides():
    assert score(WordErrorRate("en"), ["dont stop"], ["Don't, stop!"]) == pytest.approx(100)
    assert score(WordErrorRate("en", normalizer="lower_nopunct"), ["dont stop"], ["Don't, stop!"]) == 0
    assert score(WordErrorRate("en", normalizer="lower_nopunct"), ["Don't, stop!"], ["dont stop"]) == 0
    assert score(CharacterErrorRate("en", normalizer="lower_nopunct"), ["A-B."], ["abc"]) == pytest.approx(100 / 3)


def test_empty_references_have_no_rate():
    metric = WordErrorRate("en", normalizer="lower_nopunct")
    samples = [Sample("a b", "a c"), Sample("noise", "  "), Sample("more noise", "…")]
    assert metric.score(samples) == {"wer_lower_nopunct": 50, "wer_lower_nopunct_macro": 50}
    assert metric.scored(metric.statistics(samples)).tolist() == [True, False, False]


def test_only_empty_references_is_an_error():
    with pytest.raises(UserError, match=r"cer \('en'\) has no utterance with a reference"):
        CharacterErrorRate("en").score([Sample("a", "")])


def test_signatures():
    assert WordErrorRate("ja").signature() == f"wer|norm:none|jiwer:{version('jiwer')}"
    assert CharacterErrorRate("ja").signature() == f"cer|spaces:no|norm:none|jiwer:{version('jiwer')}"
    assert CharacterErrorRate("en").signature().startswith("cer|spaces:yes|")


def test_unknown_normalizer():
    with pytest.raises(UserError, match="Did you mean 'none'"):
        WordErrorRate("en", normalizer="non")
