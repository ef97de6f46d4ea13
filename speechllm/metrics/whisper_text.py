"""The text normalizer of Whisper's paper, whose rules stand in transformers and whose spelling table does not."""

import functools
import hashlib
import importlib.resources
import importlib.util
import json
import re
import sys
from collections.abc import Callable
from importlib.metadata import version

from speechllm.errors import UserError
from speechllm.metrics.text import collapse_spaces

TABLE = "a9514fed7a5a462d97b9a7a2f93d38e7ec098ad2dd4171096b9d9e7b2a8ccdec"
"""SHA-256 of OpenAI's table of 1,739 British and American spellings, as JSON in ASCII with sorted keys."""

REMEDY = "Install it anew: `pip install --force-reinstall --no-deps 'whisper-normalizer==0.1.15'`."


def whisper_normalizer(language: str) -> Callable[[str], str]:
    """Return Whisper's normalizer of a language.

    English has its own rules: contractions, titles, numbers in words, British spellings, and no fillers such as *uh*,
    so that a text of fillers alone is empty. Every other language has the basic ones: lower case, nothing in brackets,
    a space for each symbol, punctuation mark and combining mark, which divides ``l'homme`` in two words and takes the
    vowel signs of Indian scripts apart. Letters keep their diacritics. Spaces are collapsed.

    Args:
        language: BCP-47 code.

    Raises:
        UserError: If the table of spellings is missing or is not OpenAI's.
    """
    return _english() if is_english(language) else _basic()


def is_english(language: str) -> bool:
    """Return whether a BCP-47 code is one of English."""
    return language.split("-")[0] == "en"


def transformers_version() -> str:
    """Return the version of the package that has the rules."""
    return version("transformers")


def read_spellings() -> dict[str, str]:
    """Return OpenAI's table of British spellings and what they are in American.

    It stands in the package whisper-normalizer, whose own rules differ from Whisper's and are not loaded.

    Raises:
        UserError: If it is missing or is not OpenAI's.
    """
    found = importlib.util.find_spec("whisper_normalizer")
    if found is None:
        msg = "The normalizer 'whisper' needs the spelling table of the package whisper-normalizer, which is absent. "
        raise UserError(msg + REMEDY)
    folder = importlib.resources.files(importlib.util.module_from_spec(found))
    try:
        table = json.loads((folder / "normalizers" / "english.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        msg = f"{folder}: the spelling table normalizers/english.json cannot be read: {error}. {REMEDY}"
        raise UserError(msg) from error
    if hashlib.sha256(json.dumps(table, sort_keys=True).encode()).hexdigest() != TABLE:
        msg = f"{folder}: normalizers/english.json is not the spelling table of Whisper's normalizer. {REMEDY}"
        raise UserError(msg)
    return dict(table)


class _English:
    """Whisper's rules for English, which take most of the time that scoring does.

    Of their fifty replacements of words and endings, a text goes through those alone whose letters, or apostrophe,
    stand in it. The others cannot apply: what is done before takes out whole words and adds none that they look for.
    Brackets are the exception, for letters on both sides of one meet when it is taken out.
    """

    def __init__(self) -> None:
        from transformers.models.whisper.english_normalizer import EnglishTextNormalizer

        self._rules = EnglishTextNormalizer(read_spellings())
        self._all = dict(self._rules.replacers)
        self._needed = {pattern: _needed(pattern) for pattern in self._all}

    def __call__(self, text: str) -> str:
        try:
            return self._normalize(text)
        except ValueError:  # Python reads no number of more digits than its limit; a text may be one
            limit = sys.get_int_max_str_digits()
            sys.set_int_max_str_digits(0)
            try:
                return self._normalize(text)
            finally:
                sys.set_int_max_str_digits(limit)

    def _normalize(self, text: str) -> str:
        lower = text.lower()
        bracketed = any(bracket in lower for bracket in "<[(")
        self._rules.replacers = {
            pattern: replacement
            for pattern, replacement in self._all.items()
            if bracketed or self._needed[pattern] in lower
        }
        return collapse_spaces(self._rules(text))


def _needed(pattern: str) -> str:
    """Return what must stand in a text for a pattern to be found there; nothing where that is not plain."""
    word = pattern.replace(r"\b", "")
    return "'" if "'" in word else word if re.fullmatch("[a-z]+", word) else ""


_english = functools.cache(_English)


@functools.cache
def _basic() -> Callable[[str], str]:
    from transformers.models.whisper.english_normalizer import BasicTextNormalizer

    rules = BasicTextNormalizer(remove_diacritics=False, split_letters=False)
    return lambda text: collapse_spaces(rules(text))
