"""What is done to a text before its errors are counted. Each normalizer has a name, which stands in the signature."""

import unicodedata
from collections.abc import Callable

from speechllm.errors import UserError, did_you_mean


def collapse_spaces(text: str) -> str:
    """Return ``text`` without white space at its ends and with one space for every run of white space inside.

    Tabs, line ends and no-break spaces count as white space.
    """
    return " ".join(text.split())


def remove_spaces(text: str) -> str:
    """Return ``text`` without any white space."""
    return "".join(text.split())


def lower_nopunct(text: str) -> str:
    """Return ``text`` in lower case and without punctuation, spaces collapsed.

    Punctuation is every character of a Unicode category P, wherever it stands. That includes apostrophes and hyphens
    inside words (``don't`` is ``dont``, ``l'homme`` is ``lhomme``, ``well-known`` is ``wellknown``), so the straight
    and the typographic apostrophe cannot make an error. Symbols (``$``, ``+``) stay, and no Unicode normalization
    takes place. This is the text side of the released scoring code of arXiv 2409.17044, whose WER was then a mean over
    utterances; ours is pooled.
    """
    kept = (character for character in text.lower() if not unicodedata.category(character).startswith("P"))
    return collapse_spaces("".join(kept))


NORMALIZERS: dict[str, Callable[[str], str]] = {"none": collapse_spaces, "lower_nopunct": lower_nopunct}
"""Normalizers by the name that recipes use. ``none`` leaves every word as it is; white space is never scored."""


def get_normalizer(name: str) -> Callable[[str], str]:
    """Return the normalizer called ``name``.

    Raises:
        UserError: If there is none of that name.
    """
    if name not in NORMALIZERS:
        msg = f"Unknown normalizer '{name}'.{did_you_mean(name, NORMALIZERS)} Known: {', '.join(NORMALIZERS)}."
        raise UserError(msg)
    return NORMALIZERS[name]
