"""The MLC-SLM challenge's preparation of transcripts (spec 17.5)."""

import pytest

from speechllm.metrics.mlc_slm import PUNCTUATION, MlcSlmText, remove_repeated_suffix


@pytest.mark.parametrize(
    ("language", "text", "expected"),
    [
        ("ja", "今日は、Python 3.5です。", "今 日 は python 35 で す"),
        ("ja", "ハロー・ワールド！", "ハ ロ ー ワ ー ル ド"),
        ("ko", "그는 걸어갔다.", "그 는 걸 어 갔 다"),
        ("ko-KR", "\u1100\u1173", "그"),  # in its parts, NFD
        ("en-US", "The colour's [uh] well-known!", "the color is well known"),
        ("fr", "L'homme, peut-être…", "l homme peut être"),
        ("de", "100% (ca.)", "100 ca"),
        ("zh", "我去。", "我去"),  # none of the challenge's languages
        ("en", "今日", "今日"),
    ],
)
def test_prepares(language, text, expected):
    assert MlcSlmText(language)(text) == expected


def test_thai_marks_are_lost_unless_strict():
    """Of น้ำ, NFKC makes four code points, two of which are marks."""
    assert MlcSlmText("th")("น้ำดี ค่ะ!") == "น า ด ค ะ"
    assert MlcSlmText("th", strict_thai=True)("น้ำดี ค่ะ!") == "น ้ ํ า ด ี ค ่ ะ"
    assert MlcSlmText("th", strict_thai=True)("OK ๒๓ ครับ?") == "ok ๒ ๓ ค ร ั บ"


def test_strict_thai_changes_no_other_language():
    for language, text in (("ja", "今日は、コ\u3099ー"), ("ko", "그는 걸어갔다."), ("en", "Don't")):
        assert MlcSlmText(language, strict_thai=True)(text) == MlcSlmText(language)(text)


def test_punctuation_is_the_list_of_the_specification():
    assert set(PUNCTUATION) == set('!"#$%&()*+,./:;<=>?@[\\]^_`{|}~。、？！・¿¡，')
    assert "'" not in PUNCTUATION
    assert "-" not in PUNCTUATION


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("ok no no no no no", "ok no"),
        ("ok no no no no", "ok no no no no"),  # four copies
        ("a b a b a b a b a b", "a b"),
        ("x a b a b a b a b a b a b", "x a b"),
        ("no no no no no ok", "no no no no no ok"),  # not at the end
        ("a a a a a a a a a a a a", "a"),  # the shortest suffix
        (" ".join(["a b b b b b"] * 5), "a b b b b b a b b b b b a b b b b b a b b b b b a b"),  # once
        (" ".join(["1 2 3 4 5 6 7 8 9 10"] * 5), "1 2 3 4 5 6 7 8 9 10"),
        (" ".join(["1 2 3 4 5 6 7 8 9 10 11"] * 5), " ".join(["1 2 3 4 5 6 7 8 9 10 11"] * 5)),
        ("a", "a"),
        ("", ""),
    ],
)
def test_repeated_suffix(text, expected):
    assert remove_repeated_suffix(text) == expected
