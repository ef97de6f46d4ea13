"""How the MLC-SLM challenge prepares transcripts (arXiv 2601.01461): by characters in Japanese, Korean and Thai."""

import re
import unicodedata

from speechllm.metrics.text import MLC_SLM_RANGES, collapse_spaces
from speechllm.metrics.whisper_text import whisper_normalizer

LANGUAGES = ("ja", "ko", "th")
"""Languages of the challenge that are counted by characters."""

PUNCTUATION = '!"#$%&()*+,./:;<=>?@[\\]^_`{|}~。、？！・¿¡，'
"""What is removed at first; apostrophes and hyphens stay for Whisper's normalizer."""

LONGEST_SUFFIX, REPEATS = 10, 5
"""Units of the longest repeated suffix that is looked for, and how often it must stand there."""

_CHARACTER = re.compile(f"[{MLC_SLM_RANGES}]")
_WITHOUT_PUNCTUATION = dict.fromkeys(map(ord, PUNCTUATION))
_THAI_MARKS = re.compile("([\u0e31\u0e34-\u0e3a\u0e47-\u0e4e])")
_SARA_AM = ("\u0e33", "\u0e4d\u0e32")  # a vowel that NFKC takes apart, into a mark and a letter


class MlcSlmText:
    """The rule of the challenge, for references and hypotheses alike.

    Lower case; no punctuation; in Japanese, Korean and Thai a space around each character; then Whisper's normalizer.
    Texts are brought into the form NFC first, so that Hangul written in its parts is counted by syllables as well. The
    released code removes punctuation from references alone; here both sides lose it.

    Args:
        language: BCP-47 code.
        strict_thai: Whether the vowel signs and tone marks of Thai are counted. Whisper's normalizer turns them into
            spaces, so by default they are lost on both sides.

    Attributes:
        divides: Whether the language is counted by characters.
    """

    def __init__(self, language: str, strict_thai: bool = False) -> None:
        self.divides = language.split("-")[0] in LANGUAGES
        self._keeps_marks = strict_thai and language.split("-")[0] == "th"
        self._whisper = whisper_normalizer(language)

    def __call__(self, text: str) -> str:
        """Return the prepared text, its units divided by single spaces."""
        text = unicodedata.normalize("NFC", text).lower().translate(_WITHOUT_PUNCTUATION)
        if self.divides:
            text = _CHARACTER.sub(r" \g<0> ", text)
        if not self._keeps_marks:
            return self._whisper(text)
        parts = _THAI_MARKS.split(text.replace(*_SARA_AM))  # every second one is a mark
        return collapse_spaces(" ".join(part if place % 2 else self._whisper(part) for place, part in enumerate(parts)))


def remove_repeated_suffix(text: str) -> str:
    """Return ``text`` with one copy of a suffix that stands five times or more at its end.

    The shortest suffix of up to ten units is taken, and only once.

    Args:
        text: Units divided by single spaces.
    """
    units = text.split()
    for size in range(1, min(LONGEST_SUFFIX, len(units) // 2) + 1):
        suffix = units[-size:]
        copies = 1
        while units[-size * (copies + 1) : -size * copies] == suffix:
            copies += 1
        if copies >= REPEATS:
            return " ".join(units[: -size * (copies - 1)])
    return text
