"""What is done to texts before their errors are counted. Each normalizer has a name, which stands in the signature."""

import unicodedata
from collections.abc import Callable
from dataclasses import dataclass

from speechllm.errors import UserError, did_you_mean
from speechllm.metrics.mlc_slm import MlcSlmText, remove_repeated_suffix
from speechllm.metrics.text import collapse_spaces, remove_punctuation
from speechllm.metrics.whisper_text import is_english, transformers_version, whisper_normalizer


@dataclass(frozen=True)
class Normalizer:
    """What texts of one language go through.

    Attributes:
        reference: What is done to references.
        hypothesis: What is done to hypotheses.
        signature: Its name with what else decides about its results, as in ``whisper_english|transformers:5.23.0``.
        divides: Whether it puts spaces between characters where the language is counted by them.
    """

    reference: Callable[[str], str]
    hypothesis: Callable[[str], str]
    signature: str
    divides: bool = False


def lower_nopunct(text: str) -> str:
    """Return ``text`` in lower case and without punctuation, spaces collapsed.

    Punctuation is every character of a Unicode category P, wherever it stands. That includes apostrophes and hyphens
    inside words (``don't`` is ``dont``, ``l'homme`` is ``lhomme``, ``well-known`` is ``wellknown``), so the straight
    and the typographic apostrophe cannot make an error. Symbols (``$``, ``+``) stay, and no Unicode normalization
    takes place. This is the text side of the released scoring code of arXiv 2409.17044.
    """
    return collapse_spaces(remove_punctuation(text.lower()))


def nfkc_nopunct(text: str) -> str:
    """Return ``text`` in Unicode's form NFKC and without punctuation, spaces collapsed.

    Wide Latin letters and digits and half-wide kana become the usual ones. With ``cer``, which removes the spaces of
    Japanese, this is the text side of arXiv 2312.03668.
    """
    return collapse_spaces(remove_punctuation(unicodedata.normalize("NFKC", text)))


def _none(language: str) -> Normalizer:
    return Normalizer(collapse_spaces, collapse_spaces, "none")


def _lower_nopunct(language: str) -> Normalizer:
    return Normalizer(lower_nopunct, lower_nopunct, "lower_nopunct")


def _nfkc_nopunct(language: str) -> Normalizer:
    return Normalizer(nfkc_nopunct, nfkc_nopunct, "nfkc_nopunct")


def _whisper(language: str) -> Normalizer:
    normalize = whisper_normalizer(language)
    rules = "english" if is_english(language) else "basic"
    return Normalizer(normalize, normalize, f"whisper_{rules}|transformers:{transformers_version()}")


def _mlc_slm(language: str, name: str = "mlc_slm", strict_thai: bool = False) -> Normalizer:
    text = MlcSlmText(language, strict_thai)

    def hypothesis(written: str) -> str:
        return remove_repeated_suffix(text(written))

    signature = f"{name}|transformers:{transformers_version()}"
    return Normalizer(text, hypothesis, signature, divides=text.divides)


def _mlc_slm_strict_thai(language: str) -> Normalizer:
    return _mlc_slm(language, "mlc_slm_strict_thai", strict_thai=True)


NORMALIZERS: dict[str, Callable[[str], Normalizer]] = {
    "none": _none,
    "lower_nopunct": _lower_nopunct,
    "nfkc_nopunct": _nfkc_nopunct,
    "whisper": _whisper,
    "mlc_slm": _mlc_slm,
    "mlc_slm_strict_thai": _mlc_slm_strict_thai,
}
"""Makers of normalizers by the name that recipes use, given a language. White space is never scored.

``none`` leaves every word as it is, ``lower_nopunct`` and ``nfkc_nopunct`` are the functions of their names,
``whisper`` is :func:`speechllm.metrics.whisper_text.whisper_normalizer`, and ``mlc_slm`` and ``mlc_slm_strict_thai``
are :class:`speechllm.metrics.mlc_slm.MlcSlmText`.

:meta hide-value:
"""


def get_normalizer(name: str, language: str) -> Normalizer:
    """Return the normalizer called ``name`` for a language.

    Args:
        name: Key of :data:`NORMALIZERS`.
        language: BCP-47 code of the texts.

    Raises:
        UserError: If there is none of that name, or what it needs is not installed.
    """
    if name not in NORMALIZERS:
        msg = f"Unknown normalizer '{name}'.{did_you_mean(name, NORMALIZERS)} Known: {', '.join(NORMALIZERS)}."
        raise UserError(msg)
    return NORMALIZERS[name](language)
