"""Normalizers before error counting."""

import jiwer
import pytest

from speechllm.errors import UserError
from speechllm.metrics.text import NORMALIZERS, collapse_spaces, get_normalizer, lower_nopunct, remove_spaces


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


def test_spaces():
    assert collapse_spaces(" a \t b\u00a0c\n") == "a b c"
    assert remove_spaces(" 今日 は\u3000雨\t") == "今日は雨"
    assert NORMALIZERS["none"]("Don't,  STOP") == "Don't, STOP"


def test_unknown_normalizer_gets_the_near_match():
    with pytest.raises(UserError, match=r"Unknown normalizer 'lower_no_punct'\. Did you mean 'lower_nopunct'\? Known"):
        get_normalizer("lower_no_punct")
