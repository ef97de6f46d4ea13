"""Pieces of text: what is punctuation, and which characters count for themselves."""

import random
import unicodedata

import pytest

from speechllm.metrics.text import (
    collapse_spaces,
    counted_by_characters,
    divide_characters,
    has_word_spaces,
    remove_punctuation,
    remove_spaces,
    share_without_spaces,
)


def test_spaces():
    assert collapse_spaces(" a \t b\u00a0c\n") == "a b c"
    assert remove_spaces(" 今日 は\u3000雨\t") == "今日は雨"


def test_punctuation_is_what_unicode_calls_so():
    rng = random.Random(1)
    text = "".join(chr(rng.randrange(0x30000)) for _ in range(20_000))
    expected = "".join(c for c in text if not unicodedata.category(c).startswith("P"))
    assert remove_punctuation(text) == expected
    assert 0 < len(text) - len(expected) < 1000


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("今日は晴れ", "今 日 は 晴 れ"),
        ("그는 걸어갔다", "그 는 걸 어 갔 다"),
        ("น้ำ", "น ้ ำ"),
        ("用Python 3写", "用 Python 3 写"),
        ("ﾊﾛｰ　Ａ、𠮷", "ﾊ ﾛ ｰ Ａ 、 𠮷"),
        ("မြန်မာ", "မ ြ န ် မ ာ"),
        ("ខ្មែរ ລາວ བོད", "ខ ្ ម ែ រ ລ າ ວ བ ོ ད"),
        ("don't l'été привет नमस्ते", "don't l'été привет नमस्ते"),
    ],
)
def test_divides_characters_of_these_scripts_alone(text, expected):
    assert divide_characters(text) == expected
    assert divide_characters(expected) == expected


def test_languages():
    assert [code for code in ("ja", "zh-CN", "yue", "th", "km", "my", "lo") if has_word_spaces(code)] == []
    assert has_word_spaces("ko-KR")
    assert counted_by_characters("ko-KR")
    assert counted_by_characters("zh-TW")
    assert not counted_by_characters("vi")
    assert has_word_spaces("hi")


def test_share_of_characters_without_spaces():
    assert share_without_spaces("今日 ab") == 0.5
    assert share_without_spaces("그는 걸어갔다") == 0
    assert share_without_spaces(" ") == 0
