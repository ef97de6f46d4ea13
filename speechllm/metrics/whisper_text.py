"""The text normalizer of Whisper's paper, whose rules stand in transformers and whose spelling table does not."""

import functools
import hashlib
import importlib.resources
import importlib.util
import json
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


@functools.cache
def _english() -> Callable[[str], str]:
    from transformers.models.whisper.english_normalizer import EnglishTextNormalizer

    rules = EnglishTextNormalizer(read_spellings())

    def normalize(text: str) -> str:
        try:
            return collapse_spaces(rules(text))
        except ValueError:  # Python reads no number of more digits than its limit; a text may be one
            limit = sys.get_int_max_str_digits()
            sys.set_int_max_str_digits(0)
            try:
                return collapse_spaces(rules(text))
            finally:
                sys.set_int_max_str_digits(limit)

    return normalize


@functools.cache
def _basic() -> Callable[[str], str]:
    from transformers.models.whisper.english_normalizer import BasicTextNormalizer

    rules = BasicTextNormalizer(remove_diacritics=False, split_letters=False)
    return lambda text: collapse_spaces(rules(text))
