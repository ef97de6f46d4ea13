"""Normalizers before error counting."""

import inspect
from importlib.metadata import version

import jiwer
import pytest

from speechllm.errors import UserError
from speechllm.metrics.error_rate import ErrorRate
from speechllm.metrics.normalizers import NORMALIZERS, get_normalizer, lower_nopunct, nfkc_nopunct

LANGUAGES = ("en", "fr", "ja", "ko-KR", "th", "hi")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Hello, World!", "hello world"),
        ("Don't l'homme L’Eau", "dont lhomme leau"),
        ("well-known – or not…", "wellknown or not"),
        ("«Ça va?» — ¡Sí!", "ça va sí"),
        ("今日は、いい天気。", "今日はいい天気"),
        ("3.500 $ + 5 %", "3500 $ + 5"),
        ("  \tÄPFEL\u00a0und\nBirnen ", "äpfel und birnen"),
        ("?!…", ""),
        ("नमस्ते।", "नमस्ते"),
    ],
)
def test_lower_nopunct(text, expected):
    assert lower_nopunct(text) == expected


def test_lower_nopunct_is_the_published_pipeline():
    pipeline = jiwer.Compose(
        [jiwer.ToLowerCase(), jiwer.RemovePunctuation(), jiwer.Strip(), jiwer.RemoveMultipleSpaces()]
    )
    texts = [
        "Don't – stop!",
        "«Où est l’hôtel ?»",
        "Größe: 3,5 m² (ca.)",
        "¿Qué? ¡Nada!",
        "a . b",
        "50% & $5",
        "Straße.",
    ]
    assert [lower_nopunct(text) for text in texts] == [pipeline(text) for text in texts]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("ＡＢＣは１２３、です。", "ABCは123です"),
        ("ﾃｽﾄ・「はい」…", "テストはい"),
        ("コ\u3099 ー", "ゴ ー"),
        ("Don't", "Dont"),
    ],
)
def test_nfkc_nopunct(text, expected):
    assert nfkc_nopunct(text) == expected


@pytest.mark.parametrize("language", LANGUAGES)
@pytest.mark.parametrize("name", NORMALIZERS)
def test_every_normalizer_is_stable_and_leaves_single_spaces(name, language):
    """What is normalized on one side already, in a file for instance, loses nothing when it is normalized again."""
    normalizer = get_normalizer(name, language)
    for text in ("Uh, [noise] 3 o'clock –  今日は\u3000น้ำ नमस्ते.", "그는 걸어 갔다!", "", " \n", "…", "x" * 9000):
        for side in (normalizer.reference, normalizer.hypothesis):
            once = side(text)
            assert once == " ".join(once.split())
            assert len(side(once)) <= len(once)


@pytest.mark.parametrize("name", NORMALIZERS)
def test_signatures_name_the_normalizer_in_one_word(name):
    signature = get_normalizer(name, "en").signature
    assert signature.startswith(name)
    assert " " not in signature
    assert (f"|transformers:{version('transformers')}" in signature) == ("whisper" in name or "mlc" in name)


def test_whisper_says_which_rules():
    assert get_normalizer("whisper", "en-GB").signature.startswith("whisper_english|")
    assert get_normalizer("whisper", "de").signature.startswith("whisper_basic|")


def test_the_option_lists_every_normalizer():
    documentation = inspect.getdoc(ErrorRate).partition("normalizer:")[2]
    assert [name for name in NORMALIZERS if f"``{name}``" not in documentation] == []


def test_unknown_normalizer_gets_the_near_match():
    with pytest.raises(UserError, match=r"Unknown normalizer 'lower_no_punct'\. Did you mean 'lower_nopunct'\? Known"):
        get_normalizer("lower_no_punct", "en")
