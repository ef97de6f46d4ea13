"""Pieces of text that metrics count: characters that stand for themselves, punctuation, and white space."""

import re
import unicodedata

NO_WORD_SPACES = ("bo", "dz", "hak", "ja", "km", "lo", "my", "nan", "shn", "th", "wuu", "yue", "zh")
"""Languages that are written without spaces between words: white space divides nothing in them that has a meaning."""

COUNTED_BY_CHARACTERS = (*NO_WORD_SPACES, "ko")
"""Languages whose errors are counted by characters: those, and Korean, whose writers do not agree on spaces."""

MLC_SLM_RANGES = (
    "\u1100-\u11ff\u2e80-\ua4cf\ua840-\ud7af\uf900-\ufaff\ufe30-\ufe4f\uff65-\uffdc\U00020000-\U0002ffff\uff01-\uff60"
    "\u0e00-\u0e7f"
)
"""Code points that the MLC-SLM challenge counts one by one: those of Chinese, Japanese, Korean and Thai."""

_CHARACTER = re.compile(
    f"[{MLC_SLM_RANGES}\u0e80-\u109f\u1780-\u17ff\u19e0-\u19ff\U0001aff0-\U0001b16f\U00030000-\U0003ffff]"
)
_WITHOUT_SPACES = re.compile("[\u0e00-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\U00020000-\U0003ffff]")


class _WithoutPunctuation(dict[int, int | None]):
    """What :meth:`str.translate` makes of a character: nothing where its Unicode category is P."""

    def __missing__(self, code: int) -> int | None:
        self[code] = None if unicodedata.category(chr(code)).startswith("P") else code
        return self[code]


_WITHOUT_PUNCTUATION = _WithoutPunctuation()


def counted_by_characters(language: str) -> bool:
    """Return whether errors in a language, given by its BCP-47 code, are counted by characters."""
    return language.split("-")[0] in COUNTED_BY_CHARACTERS


def has_word_spaces(language: str) -> bool:
    """Return whether a language, given by its BCP-47 code, is written with spaces between words."""
    return language.split("-")[0] not in NO_WORD_SPACES


def share_without_spaces(text: str) -> float:
    """Return the share of a text's characters, white space aside, of scripts that put no spaces between words."""
    characters = remove_spaces(text)
    return len(_WITHOUT_SPACES.findall(characters)) / max(len(characters), 1)


def collapse_spaces(text: str) -> str:
    """Return ``text`` without white space at its ends and with one space for every run of white space inside.

    Tabs, line ends and no-break spaces count as white space.
    """
    return " ".join(text.split())


def remove_spaces(text: str) -> str:
    """Return ``text`` without any white space."""
    return "".join(text.split())


def remove_punctuation(text: str) -> str:
    """Return ``text`` without the characters of a Unicode category P, wherever they stand."""
    return text.translate(_WITHOUT_PUNCTUATION)


def divide_characters(text: str) -> str:
    """Return ``text`` with a space around each character of a script whose characters are counted one by one.

    These are the scripts of Chinese, Japanese, Korean and Thai as the MLC-SLM challenge has them, and those of Burmese,
    Khmer, Lao and Tibetan. A vowel sign or a tone mark is a code point, and so counts for itself.
    """
    return collapse_spaces(_CHARACTER.sub(r" \g<0> ", text))
