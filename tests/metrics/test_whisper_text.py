"""Whisper's normalizer: what it does where it surprises, and its table of spellings."""

import importlib.util
import json
import random
import sys

import pytest
from transformers.models.whisper.english_normalizer import EnglishTextNormalizer

from speechllm.errors import UserError
from speechllm.metrics import whisper_text
from speechllm.metrics.whisper_text import read_spellings, whisper_normalizer


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("It's five o'clock.", "it is 50 clock"),
        ("Uh, um, hmm.", ""),
        ("[noise] (laughs) Hello <unk>", "hello"),
        ("Mr. Smith's colour centre", "mister smith is color center"),
        ("I can't, won't and y'all gonna", "i can not will not and you all going to"),
        ("twenty-one dollars and fifty cents", "$21.50"),
        ("Two hundred and five", "205"),
        ("3,500 and 3.500", "3500 and 3.500"),
        ("one oh one", "101"),
        ("the first of the nineteen sixties", "the 1st of the 1960s"),
        ("naïve café Straße", "naive cafe strasse"),
        ("kinda sorta dunno", "kinda sorta dunno"),  # the package that has the table has rules for these
        ("  ", ""),
    ],
)
def test_english(text, expected):
    """As openai/whisper 20250625 prints them, without spaces at the ends."""
    assert whisper_normalizer("en-US")(text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("L'homme n'a que 3.500 €.", "l homme n a que 3 500"),
        ("Größe: 3,5 m²", "größe 3 5 m2"),
        ("नमस्ते", "नमस त"),
        ("今日は、[笑] いい天気。", "今日は いい天気"),
        ("uh, colour", "uh colour"),
        ("(rires)", ""),
    ],
)
def test_other_languages(text, expected):
    assert whisper_normalizer("fr")(text) == expected


def test_replacements_that_are_left_out_would_change_nothing():
    """Against the rules as they are, over texts of the words and marks that they are about, and parts of these."""
    rules = EnglishTextNormalizer(read_spellings())
    words = [pattern.replace(r"\b", "") for pattern in rules.replacers]
    words += "uh um hmm m r d been gone ' - , . … 3 1960s twenty colour [x] ( ) <u> can 't s It I'M Mr. MR é".split()
    rng = random.Random(11)
    texts = [
        "".join(rng.choice(words) + rng.choice(["", " ", " ", " ", "'"]) for _ in range(rng.randint(1, 9)))
        for _ in range(4000)
    ]
    ours = whisper_normalizer("en")
    assert [ours(text) for text in texts] == [" ".join(rules(text).split()) for text in texts]


def test_a_number_longer_than_python_reads_is_normalized_all_the_same():
    limit = sys.get_int_max_str_digits()
    assert whisper_normalizer("en")("1" * 6000 + " Colours") == "1" * 6000 + " colors"
    assert sys.get_int_max_str_digits() == limit


def test_the_table_is_openais():
    table = read_spellings()
    assert len(table) == 1739
    assert (table["colour"], table["organised"], table["centre"]) == ("color", "organized", "center")


def test_the_code_beside_the_table_is_not_loaded():
    before = set(sys.modules)
    read_spellings()
    assert not any(name.startswith("whisper_normalizer") for name in set(sys.modules) - before)


def test_absent_table(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"needs the spelling table.*absent\. Install it anew: `pip install"):
        read_spellings()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "cannot be read"),
        ("{", "cannot be read"),
        ("{}", "is not the spelling table"),
        ('{"colour": "color"}', "is not the spelling table"),
    ],
)
def test_damaged_table(tmp_path, monkeypatch, content, message):
    package = tmp_path / "whisper_normalizer"
    (package / "normalizers").mkdir(parents=True)
    (package / "__init__.py").write_text("raise RuntimeError('this must not run')")
    if content is not None:
        (package / "normalizers" / "english.json").write_text(content)
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    monkeypatch.delitem(sys.modules, "whisper_normalizer", raising=False)
    importlib.invalidate_caches()
    with pytest.raises(UserError, match=message):
        read_spellings()


def test_the_order_and_the_layout_of_the_table_do_not_matter(tmp_path, monkeypatch):
    table = read_spellings()
    package = tmp_path / "whisper_normalizer"
    (package / "normalizers").mkdir(parents=True)
    (package / "__init__.py").touch()
    (package / "normalizers" / "english.json").write_text(json.dumps(dict(reversed(table.items()))))
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    importlib.invalidate_caches()
    assert whisper_text.read_spellings() == table
