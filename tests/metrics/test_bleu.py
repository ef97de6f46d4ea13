"""BLEU against a hand-worked corpus and against sacreBLEU's command line."""

import math

import pytest

from speechllm.errors import UserError
from speechllm.metrics.base import Sample
from speechllm.metrics.bleu import Bleu


def score(metric, hypotheses, references):
    samples = [Sample(*texts) for texts in zip(hypotheses, references, strict=True)]
    return metric.score(samples)[metric.figures[0].name]


def test_worked_by_hand():
    """8 of 9 words, 6 of 7 pairs, 4 of 5 triples and 2 of 3 quadruples agree over the two lines; equal lengths."""
    expected = 100 * (8 / 9 * 6 / 7 * 4 / 5 * 2 / 3) ** 0.25
    assert score(Bleu("de"), ["a b c d e", "x y z w"], ["a b c d f", "x y z w"]) == pytest.approx(expected)


def test_brevity_penalty_falls_on_the_hypothesis():
    """A perfect beginning of 4 words out of 6 loses exp(1 - 6/4); the longer text has precisions 4/6, 3/5, 2/4, 1/3."""
    short, long = "the cat sat on", "the cat sat on the mat"
    assert score(Bleu("en"), [short], [long]) == pytest.approx(100 * math.exp(-0.5))
    assert score(Bleu("en"), [long], [short]) == pytest.approx(100 * (4 / 6 * 3 / 5 * 2 / 4 * 1 / 3) ** 0.25)


@pytest.mark.parametrize(
    ("language", "tokenizer", "hypotheses", "references"),
    [
        (
            "de",
            "13a",
            ["Der Hund, der bellt, beißt nicht.", "Ich habe 3,5 Euro (ungefähr).", "", 'Das ist "gut" & schön'],
            [
                "Ein Hund, der bellt, beißt nicht!",
                "Ich habe ungefähr 3,5 Euro.",
                "Nichts da.",
                'Das ist „gut" & schön.',
            ],
        ),
        (
            "zh-CN",
            "zh",
            ["我今天不去学校。", "他喜欢 Python 语言。"],
            ["我今天不想去学校。", "她喜欢 Python 这门语言。"],
        ),
    ],
)
def test_agrees_with_the_command_line(language, tokenizer, hypotheses, references, sacrebleu_cli):
    metric = Bleu(language)
    value = score(metric, hypotheses, references)
    theirs = sacrebleu_cli(hypotheses, references, "-m", "bleu", "--tokenize", tokenizer)
    assert value == pytest.approx(theirs["score"], abs=1e-6)
    assert metric.signature() == theirs["signature"]
    assert 20 < value < 95


def test_the_tokenizer_changes_the_figure():
    hypotheses, references = ["我今天不去学校了"], ["我今天不想去学校了"]
    assert score(Bleu("zh"), hypotheses, references) > 40
    assert score(Bleu("zh", tokenize="none"), hypotheses, references) == 0


def test_signature_needs_no_utterance():
    assert Bleu("fr").signature().startswith("nrefs:1|case:mixed|eff:no|tok:13a|smooth:exp|version:2.")
    assert "|tok:char|" in Bleu("ja", tokenize="char").signature()


@pytest.mark.parametrize(("language", "name"), [("ja", "ja"), ("ko-KR", "ko")])
def test_absent_morphology_is_explained(language, name, monkeypatch):
    monkeypatch.setattr(f"sacrebleu.tokenizers.tokenizer_{name}_mecab.MeCab", None)
    message = rf"'{language}' needs the tokenizer {name}-mecab.*pip install 'sacrebleu\[{name}\]'.*tokenize: char"
    with pytest.raises(UserError, match=message):
        Bleu(language)


def test_unknown_tokenizer():
    with pytest.raises(UserError, match=r"'flores200'.*Known: 13a, intl"):
        Bleu("de", tokenize="flores200")


@pytest.mark.parametrize(("language", "tokenize"), [("th", None), ("yue", None), ("zh", "13a"), ("ja", "none")])
def test_languages_without_spaces_need_a_tokenizer_that_divides_them(language, tokenize):
    objection = Bleu(language, tokenize).objection([])
    assert objection.endswith(f"the tokenizer {tokenize or '13a'} looks for. Give the metric `tokenize: char`.")


@pytest.mark.parametrize(
    ("language", "tokenize"), [("th", "char"), ("yue", "zh"), ("zh", None), ("de", None), ("ko", "13a")]
)
def test_other_tokenizers_have_no_objection(language, tokenize):
    assert Bleu(language, tokenize).objection([]) == ""
