"""Named cleaners of transcripts: what was not said is taken out, or text is brought to one form.

Translations are references, and are never cleaned.
"""

import html
import re
import unicodedata
from collections.abc import Callable, Sequence
from functools import cache

from speechllm.errors import UserError, did_you_mean

_NOTES = "♩♪♫♬🎵🎶"
_EVENTS = (
    "applause|audience|audio|cheer(?:s|ing)|cough(?:s|ing)?|crosstalk|inaudible|laugh(?:s|ing|ter)?|music|"
    "sigh(?:s|ing)?|sing(?:s|ing)|unclear|video|whistl(?:es|ing)"
)
# Not "(I …)": that is an aside, and spoken.
_CAPITAL_OR_NOTE = rf"\s*(?!I\b)[A-ZÀ-ÖØ-Þ{_NOTES}]"
_ANNOTATION = re.compile(
    rf"(?:\s*(?:\({_CAPITAL_OR_NOTE}[^()]*\)|\[{_CAPITAL_OR_NOTE}[^\[\]]*\]|[(\[]\s*(?i:{_EVENTS})\s*[)\]]))+\s*"
)
_MUSIC = re.compile(f"[{_NOTES}\ufe0f]+")
_ENTITY = re.compile(r"&(?:amp|lt|gt|quot|apos|nbsp|#\d{1,7}|#x[0-9a-fA-F]{1,6});")
_DASHES = re.compile(r"\s*(?:-{2,}|[–—]|-(?=\s|$))[\s–—-]*")

_QUOTED = re.compile(r'"((?:[^"]|"")*)"')
_FULL_WIDTH = {code: chr(code - 0xFEE0) for code in range(0xFF01, 0xFF5F)} | {0x3000: " "}
_HALF_WIDTH_KANA = re.compile("[\uff66-\uff9f]+")
# What is written and not spoken, but for a point within a number.
_JAPANESE_PUNCTUATION = re.compile(
    r"""(?<!\d)\.|\.(?!\d)|[、。・…‥,!?;:"'`‘’“”«»≪≫()\[\]{}<>〈〉《》「」『』【】〔〕｢｣､｡･〜~‐–—―─\-♪♬♫★☆●○◆◇■□▲△▼▽※→←↑↓‼⁉]"""
)
_MLC_SLM_PUNCTUATION = re.compile(r"""[!"#$%&()*+,./:;<=>?@\[\\\]^_`{|}~。、？！・¿¡，]""")

_LABEL = re.compile(r"[\s–—-]*([^\W\d_][^:]{0,58}):(?:\s+|$)")
_ROLES = frozenset(
    """announcer audience boy boys caller child children chorus computer crowd girl girls host interpreter interviewee
    interviewer man men moderator narrator operator presenter reporter robot singer singers speaker student students
    teacher translator video voice voiceover voices woman women""".split()
)
_QUALIFIERS = frozenset(
    "another female first in male member news off old on over radio second tape third tv young".split()
)
_TURN = re.compile(rf"(?<=[.?!…)\]\"”’–—-])\s+([A-Z]{{2,3}}|(?i:(?:{'|'.join(sorted(_ROLES))})(?: \d)?)):(?:\s+|$)")
_ABBREVIATED = re.compile(r"(?:[^\W\d_]\.)+|(?:Dr|Jr|Mr|Mrs|Ms|Prof|Sr|St)\.")
_PARTICLES = frozenset("al bin da de del della den der di du el ibn la le ten ter van von y".split())
# Words that open a sentence and no name, and abbreviations that are no initials of a speaker.
_OPENERS = frozenset(
    """A After All An And Another Answer Any As At Because But By Case Chapter Each Every Example Fact Finally First For
    From He Her Here His How If In It Its Lesson Let Many Most My Next No Not Now Number On Once One Only Or Our Part
    Point Problem Question Rule Second She So Some Step That The Their Then There These They Third This Those To Two We
    What When Where Which Who Why With Yes You Your""".split()
)
_ABBREVIATIONS = frozenset("AI AM DNA EU FBI GPS HIV NASA NGO OK PC PM PS RNA TED TV UK UN US USA VR".split())


def annotations(text: str) -> str:
    """Take out what an editor wrote about the sound: ``(Laughter)``, ``[Applause]``, ``(♫ La la ♫)``, ``(Man: Yes.)``.

    That is anything in round or square brackets that begins with a capital or a note, and a few words such as
    ``(laughs)`` in small letters. Other brackets are asides of the speaker, and stay, as does ``(I …)``.
    """
    if "(" not in text and "[" not in text:
        return text
    spoken, found = _ANNOTATION.subn(lambda match: "" if match.string[match.end() :][:1] in ".,;:!?" else " ", text)
    return _tidy(spoken) if found else text


def music(text: str) -> str:
    """Take out notes such as ``♫`` and ``♪``; words that are sung stay."""
    spoken, found = _MUSIC.subn(" ", text)
    return _tidy(spoken) if found else text


def entities(text: str) -> str:
    """Read what is escaped for HTML: ``&amp;`` becomes ``&``, ``&#39;`` an apostrophe."""
    return _ENTITY.sub(lambda match: html.unescape(match[0]), text) if "&" in text else text


def speaker_prefixes(text: str) -> str:
    """Take out who speaks: ``Bruno Giussani:``, ``Narrator:``, ``Man 1:``, and initials such as ``CA:``.

    At the beginning of a text that is two to four words that are written like a name, a role, or two or three capitals;
    after the end of a sentence only a role or capitals. It is a guess: of ``Star Wars: a film`` too little is left.
    Times (10:30), single words (``Remember:``) and sentences that begin like one (``The United Nations:``) stay.
    """
    if ":" not in text:
        return text
    label = _LABEL.match(text)
    if label and _is_speaker(label[1]):
        text = text[label.end() :]
    return _TURN.sub(lambda match: match[0] if match[1] in _ABBREVIATIONS else " ", text)


def dashes(text: str) -> str:
    """Take out dashes that a text begins with, as ``--`` where a sentence goes on; a minus sign stays."""
    leading = _DASHES.match(text)
    return text[leading.end() :] if leading else text


def whitespace(text: str) -> str:
    """Make every run of white space one space: tabs, line ends and U+2028 within a text too."""
    return " ".join(text.split())


def quotes(text: str) -> str:
    """Take off the quotes that an export put around a sentence, as Common Voice's lists up to release 9 do.

    Inner quotes are doubled there. Quotes that belong to the sentence stay.
    """
    quoted = _QUOTED.fullmatch(text)
    return quoted[1].replace('""', '"') if quoted else text


def japanese(text: str) -> str:
    """Bring Japanese to one form of width, without punctuation.

    Letters, digits and signs become half-width, and katakana full-width; punctuation, brackets, quotes and the marks of
    subtitles (♪, ★, →) are taken out, spaces left single. Digits stay digits.
    """
    text = _HALF_WIDTH_KANA.sub(lambda kana: unicodedata.normalize("NFKC", kana[0]), text)
    return " ".join(_JAPANESE_PUNCTUATION.sub("", text.translate(_FULL_WIDTH)).split())


def mlc_slm(text: str) -> str:
    """Take out capitals and punctuation, as the baseline of MLC-SLM does.

    Apostrophes and hyphens stay. Signs are taken out, not replaced: ``3.5`` becomes ``35``.
    """
    return " ".join(_MLC_SLM_PUNCTUATION.sub("", text.lower()).split())


def lowercase(text: str) -> str:
    """Write everything in small letters."""
    return text.lower()


CLEANERS: dict[str, Callable[[str], str]] = {
    "quotes": quotes,
    "entities": entities,
    "annotations": annotations,
    "music": music,
    "speaker_prefixes": speaker_prefixes,
    "dashes": dashes,
    "whitespace": whitespace,
    "japanese": japanese,
    "mlc_slm": mlc_slm,
    "lowercase": lowercase,
}
"""Cleaners by name, in the order in which they are applied."""

UNSPOKEN = ["annotations", "music", "dashes", "entities", "whitespace"]
"""Cleaners that are safe for transcripts of talks: they take out signs, and what brackets mark as not said.

Only ``speaker_prefixes`` is not among them, which guesses, and may take out words that were said.
"""


def check_cleaners(names: Sequence[str]) -> list[str]:
    """Return names of cleaners in the order in which they are applied, each once.

    Raises:
        UserError: If a name is unknown.
    """
    for name in names:
        if name not in CLEANERS:
            known = ", ".join(CLEANERS)
            msg = f"Unknown cleaner of transcripts '{name}'.{did_you_mean(name, CLEANERS)} Known: {known}."
            raise UserError(msg)
    return [name for name in CLEANERS if name in names]


def clean(text: str, names: Sequence[str]) -> str:
    """Return a transcript without what cleaners take out; it may become empty.

    Args:
        text: The transcript.
        names: Cleaners out of :data:`CLEANERS`; they are applied in its order, whatever their order here.

    Raises:
        UserError: If a name is unknown.
    """
    for cleaner in _cleaners(tuple(names)):
        text = cleaner(text)
    return text


@cache
def _cleaners(names: tuple[str, ...]) -> list[Callable[[str], str]]:
    return [CLEANERS[name] for name in check_cleaners(names)]


def _tidy(text: str) -> str:
    """Return a text with single spaces; nothing, where no letter or digit is left."""
    return " ".join(text.split()) if any(map(str.isalnum, text)) else ""


def _is_speaker(label: str) -> bool:
    """Return whether what stands before a colon names a speaker."""
    words = label.split()
    lowered = [word.lower() for word in words if not word.isdigit()]
    if lowered and _ROLES.intersection(lowered) and _ROLES.union(_QUALIFIERS).issuperset(lowered):
        return True
    if len(words) == 1:
        return label.isascii() and label.isupper() and 2 <= len(label) <= 3 and label not in _ABBREVIATIONS
    return (
        len(words) <= 4
        and words[0] not in _OPENERS
        and words[0][0].isupper()
        and words[-1][0].isupper()
        and all(word in _PARTICLES or (word[0].isupper() and _is_word(word)) for word in words)
    )


def _is_word(word: str) -> bool:
    """Return whether a word may be one of a name: no end of a sentence, but initials and titles."""
    ends = word.endswith(".") and not _ABBREVIATED.fullmatch(word)
    return not ends and all(sign.isalpha() or sign in "'’.-" for sign in word)
