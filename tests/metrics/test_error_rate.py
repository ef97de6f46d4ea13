"""Word and character error rate against hand-worked corpora and against jiwer."""

import jiwer
import pytest

from speechllm.errors import UserError
from speechllm.metrics.error_rate import CharacterErrorRate, ErrorCounts, WordErrorRate

# One substitution and one deletion, one insertion, one word lost to an empty hypothesis: 4 errors on 9 words.
REFERENCES = ["the cat sat on the mat", "hello world", "yes"]
HYPOTHESES = ["the cat sit on mat", "well hello world", ""]


def score(metric, hypotheses, references):
    for hypothesis, reference in zip(hypotheses, references, strict=True):
        metric.update(hypothesis, reference)
    return metric.compute()


def test_wer_of_the_golden_case():
    assert score(WordErrorRate("en"), ["a b c", "y"], ["a b c d", "x"]) == pytest.approx(40.0)


def test_wer_worked_by_hand():
    metric = WordErrorRate("en")
    assert score(metric, HYPOTHESES, REFERENCES) == pytest.approx(100 * 4 / 9)
    assert metric.counts() == ErrorCounts(hits=6, substitutions=1, insertions=1, deletions=2)
    assert (metric.counts().errors, metric.counts().reference_units) == (4, 9)


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
    assert metric.counts() == ErrorCounts(hits=8, substitutions=2, insertions=1, deletions=1)


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


def test_empty_references_are_skipped_and_counted():
    metric = WordErrorRate("en", normalizer="lower_nopunct")
    assert score(metric, ["a b", "noise", "more noise"], ["a c", "  ", "…"]) == pytest.approx(50)
    assert (metric.count, metric.skipped_empty_references) == (1, 2)
    assert metric.signature() == f"wer|norm:lower_nopunct|level:corpus|jiwer:{version()}|skipped:2"
    metric.reset()
    assert (metric.count, metric.skipped_empty_references) == (0, 0)


def test_only_empty_references_is_an_error():
    metric = CharacterErrorRate("en")
    metric.update("a", "")
    with pytest.raises(UserError, match=r"CharacterErrorRate \('en'\) has no utterance with a reference"):
        metric.compute()
    with pytest.raises(UserError, match="no utterance"):
        metric.counts()


def test_signatures():
    assert WordErrorRate("ja").signature() == f"wer|norm:none|level:corpus|jiwer:{version()}|skipped:0"
    assert CharacterErrorRate("ja").signature() == f"cer|spaces:no|norm:none|level:corpus|jiwer:{version()}|skipped:0"
    assert CharacterErrorRate("en").signature().startswith("cer|spaces:yes|")


def test_unknown_normalizer():
    with pytest.raises(UserError, match="Did you mean 'none'"):
        WordErrorRate("en", normalizer="non")


def version():
    from importlib.metadata import version

    return version("jiwer")
