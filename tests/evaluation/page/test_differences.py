"""Differences are those that the error rates count, on the units that they count."""

import random
import re

import numpy as np
import pytest

from speechllm.evaluation.page.differences import find_differences
from speechllm.metrics.base import Sample
from speechllm.metrics.error_rate import CharacterErrorRate, WordErrorRate

EDITS = {"~": 0, "+": 1, "-": 2}


@pytest.mark.parametrize(
    ("language", "reference", "hypothesis", "code"),
    [
        ("en", "the cat sat", "the cat sat", ""),
        ("en", "the cat sat", "the dog sat", "1=1~1="),
        ("en", "the cat sat", "the cat", "2=1-"),
        ("en", "the cat sat", "well the cat sat down", "1+3=1+"),
        ("en", "the cat sat", "", "3-"),
        ("en", "", "the cat", ""),
        ("en", "  the\tcat\n", "the cat", ""),
        ("de", "Ärger im Büro", "ärger im Büro", "1~2="),
        ("zh", "今天天气", "今天气", "2=1-1="),
        ("zh-TW", "今天", "明天", "1~1="),
        ("yue", "食咗飯", "食飯", "1=1-1="),
        ("ko", "오늘은 비가", "오늘은비가", ""),
        ("ko", "오늘은 비가", "오늘 눈이", "2=2~1-"),
        ("my", "မြန်မာ", "မြန်မ", "5=1-"),
        ("lo", "ລາວ", "ລວ", "1=1-1="),
        ("km", "ខ្មែរ", "ខ្មែ", "4=1-"),
        ("ja", "雨 です", "雨です", ""),
        ("vi", "trời mưa", "trời nắng", "1=1~"),
        ("th", "สวัสดี", "สวัสดิ", "5=1~"),
    ],
)
def test_code(language, reference, hypothesis, code):
    assert find_differences([reference], [hypothesis], language) == [code]


def test_nothing_to_align():
    assert find_differences([], [], "en") == []


@pytest.mark.parametrize(("language", "metric"), [("en", WordErrorRate), ("ja", CharacterErrorRate)])
def test_counts_are_those_of_the_metric(language, metric):
    """Over random texts: as many substitutions, insertions, deletions and units of the reference."""
    draw = random.Random(3)
    texts = [" ".join(draw.choices("abcde", k=draw.randint(0, 12))) for _ in range(400)]
    references, hypotheses = texts[::2], texts[1::2]
    codes = find_differences(references, hypotheses, language)
    statistics = metric(language).statistics([Sample(h, r) for r, h in zip(references, hypotheses, strict=True)])
    checked = 0
    for reference, hypothesis, code, counted in zip(references, hypotheses, codes, statistics, strict=True):
        found, units = np.zeros(3), 0
        for length, edit in re.findall(r"(\d+)(.)", code):
            if edit in EDITS:
                found[EDITS[edit]] += int(length)
            units += int(length) * (edit != "+")
        assert found.tolist() == counted[:3].tolist(), (reference, hypothesis)
        if code:
            assert units == counted[3]
            checked += 1
    assert checked > 150
