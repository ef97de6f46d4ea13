"""Word and character error rate against hand-worked corpora and against jiwer."""

import random
from importlib.metadata import version

import jiwer
import pytest

from speechllm.errors import UserError
from speechllm.metrics.base import Sample
from speechllm.metrics.error_rate import CharacterErrorRate, MixedErrorRate, WordErrorRate, count_edits

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


def by_jiwer(output):
    """Return the substitutions, insertions and deletions of each text."""
    counts = []
    for chunks in output.alignments:
        edits = dict.fromkeys(("substitute", "insert", "delete"), 0)
        for chunk in chunks:
            if chunk.type != "equal":
                edits[chunk.type] += max(
                    chunk.ref_end_idx - chunk.ref_start_idx, chunk.hyp_end_idx - chunk.hyp_start_idx
                )
        counts.append(tuple(edits.values()))
    return counts


@pytest.mark.parametrize("part", [WordErrorRate, CharacterErrorRate, MixedErrorRate])
def test_every_count_is_jiwers(part):
    rng = random.Random(7)
    words = ["a", "b", "ab", "the", "été", "don't", "3,5", "今日", "𠮷", "x\u0301"]
    pairs = [
        (" ".join(rng.choices(words, k=rng.randint(0, 12))), " ".join(rng.choices(words, k=rng.randint(1, 12))))
        for _ in range(2000)
    ]
    hypotheses, references = [list(texts) for texts in zip(*pairs, strict=True)]
    process = jiwer.process_characters if part is CharacterErrorRate else jiwer.process_words
    output = process(references, hypotheses)
    expected = [(*edits, len(reference)) for edits, reference in zip(by_jiwer(output), output.references, strict=True)]
    metric = part("fr")
    assert counts(metric, hypotheses, references) == expected
    rate = output.cer if part is CharacterErrorRate else output.wer
    assert score(metric, hypotheses, references) == pytest.approx(100 * rate, abs=1e-12)


def test_words_are_compared_by_what_they_are_and_not_by_their_hashes():
    class SameHash(str):
        def __hash__(self):
            return 1

    assert count_edits([SameHash("aa"), SameHash("bb")], [SameHash("bb"), SameHash("cc")]) == (2, 0, 0)
    assert count_edits([SameHash("aa")], [SameHash("aa")]) == (0, 0, 0)


def test_cer_worked_by_hand():
    """ "ab cd" loses its space, "kitten" becomes "sitting": 1 deletion, 2 substitutions, 1 insertion on 11."""
    metric = CharacterErrorRate("en")
    assert score(metric, ["abcd", "sitting"], ["ab cd", "kitten"]) == pytest.approx(100 * 4 / 11)
    assert counts(metric, ["abcd", "sitting"], ["ab cd", "kitten"]) == [(0, 0, 1, 5), (2, 1, 0, 6)]


@pytest.mark.parametrize("language", ["ja", "ko", "th", "zh", "zh-CN", "yue", "km"])
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


def test_a_reference_of_fillers_alone_has_no_rate():
    metric = WordErrorRate("en", normalizer="whisper")
    assert metric.score([Sample("hmm well", "Uh, um."), Sample("colour", "Color!")])["wer_whisper"] == 0
    assert metric.scored(metric.statistics([Sample("hmm well", "Uh, um.")])).tolist() == [False]


@pytest.mark.parametrize(
    ("language", "hypothesis", "reference", "expected"),
    [
        ("ja", "今日わ", "今日は", 100 / 3),  # spec 17.5
        ("ko", "그는 걸어 갔다", "그는 걸어갔다", 0),  # data 4.1
        ("ko", "\u1100\u1173\u1102\u1173\u11ab", "그는", 0),  # NFD: five code points, two syllables
        ("th", "นำ", "น้ำ", 100 / 3),  # the tone mark
        ("zh-CN", "我 用 Python 2", "我用Python 3", 25),
        ("zh", "我用 java", "我用Python", 100 / 3),
        ("yue", "佢哋嚟", "佢哋 嚟咗", 25),
        ("en", "the dog", "the cat", 50),
        ("en", "今日わ", "今日は", 100),  # not a language that is counted by characters
    ],
)
def test_mer_worked_by_hand(language, hypothesis, reference, expected):
    assert score(MixedErrorRate(language), [hypothesis], [reference]) == pytest.approx(expected)


def test_mer_equals_cer_and_wer_where_it_should():
    references, hypotheses = ["今日は 晴れ", "明日 も"], ["今日 わ晴れ", "明日"]
    assert score(MixedErrorRate("ja"), hypotheses, references) == pytest.approx(
        score(CharacterErrorRate("ja"), hypotheses, references)
    )
    assert score(MixedErrorRate("en"), HYPOTHESES, REFERENCES) == pytest.approx(100 * 4 / 9)


def test_mer_by_the_rule_of_mlc_slm():
    """A loop at the end costs one copy, in hypotheses alone; case, punctuation and spelling cost nothing."""
    english, korean = MixedErrorRate("en", normalizer="mlc_slm"), MixedErrorRate("ko", normalizer="mlc_slm")
    assert score(english, ["it is colour no no no no no no"], ["It's color."]) == pytest.approx(100 / 3)
    assert score(english, ["It's color."], ["it is colour no no no no no no"]) == pytest.approx(100 * 6 / 9)
    assert score(korean, ["그는 걸어 갔다 네네네네네네"], ["그는, 걸어갔다."]) == pytest.approx(100 / 6)
    thai = [Sample("นำ", "น้ำ")]
    assert MixedErrorRate("th", normalizer="mlc_slm").score(thai)["mer_mlc_slm"] == 0
    strict = MixedErrorRate("th", normalizer="mlc_slm_strict_thai").score(thai)
    assert strict["mer_mlc_slm_strict_thai"] == pytest.approx(25)  # น ้ ํ า


def test_cer_of_paper_c():
    """Spec 17.6: NFKC, without punctuation and spaces; one of six characters is wrong."""
    metric = CharacterErrorRate("ja", normalizer="nfkc_nopunct")
    assert score(metric, ["ＡＢＣ は、カナ"], ["ABCはｶﾅ。"]) == 0
    assert score(metric, ["ABCはカヌ"], ["ＡＢＣ は、ｶﾅ"]) == pytest.approx(100 / 6)


@pytest.mark.parametrize("normalizer", ["none", "lower_nopunct", "whisper"])
@pytest.mark.parametrize("language", ["ja", "zh-CN", "th", "yue"])
def test_words_of_a_language_without_them_are_objected_to(language, normalizer):
    objection = WordErrorRate(language, normalizer=normalizer).objection([])
    assert f"'{language}' is written without spaces between words. `mer` and `cer` count characters." in objection
    assert objection.startswith("wer")


def test_what_is_divided_or_counted_by_characters_is_not_objected_to():
    japanese = [Sample("今日は", "今日は")]
    assert WordErrorRate("ko").objection([]) == ""
    assert WordErrorRate("ja", normalizer="mlc_slm").objection(japanese) == ""
    assert "written without" in WordErrorRate("zh", normalizer="mlc_slm").objection([])
    assert CharacterErrorRate("ja").objection(japanese) == ""
    assert MixedErrorRate("ja").objection(japanese) == ""


def test_references_in_another_script_than_their_languages_are_objected_to():
    metric = WordErrorRate("en")
    mostly, partly = [Sample("", "今日は晴れ"), Sample("", "ok")], [Sample("", "今日"), Sample("", "it is fine")]
    assert "are called 'en', but most of their characters" in metric.objection(mostly)
    assert metric.objection(partly) == ""
    assert metric.objection([Sample("今日は晴れ", "it is fine")]) == ""


def test_signatures():
    ours = f"rapidfuzz:{version('rapidfuzz')}"
    assert WordErrorRate("ko").signature() == f"wer|norm:none|{ours}"
    assert CharacterErrorRate("ja").signature() == f"cer|spaces:no|norm:none|{ours}"
    assert CharacterErrorRate("en").signature().startswith("cer|spaces:yes|")
    assert MixedErrorRate("th").signature() == f"mer|units:characters|norm:none|{ours}"
    expected = f"mer|units:words|norm:mlc_slm|transformers:{version('transformers')}|{ours}"
    assert MixedErrorRate("de", normalizer="mlc_slm").signature() == expected


def test_unknown_normalizer():
    with pytest.raises(UserError, match="Did you mean 'none'"):
        WordErrorRate("en", normalizer="non")
