"""What may be wrong with the texts of one utterance."""

import re
from collections.abc import Iterator
from functools import cache

from speechllm.data.doctor.rules import Thresholds
from speechllm.data.utterance import Utterance

NO_TRANSLATION = ("", "REMOVE")
"""Texts that stand for no translation."""

DENSE_LANGUAGES = {"ja", "ko", "yue", "zh"}
"""Languages whose characters are syllables or more."""

_BLOCKS = {
    "Latin": "A-Za-zªºÀ-ÖØ-öø-ɏḀ-ỿＡ-Ｚａ-ｚ",
    "Greek": "\u0370-\u03ff\u1f00-\u1fff",
    "Cyrillic": "\u0400-\u052f",
    "Armenian": "\u0530-\u058f",
    "Hebrew": "\u0590-\u05ff\ufb1d-\ufb4f",
    "Arabic": "\u0600-\u06ff\u0750-\u077f\u08a0-\u08ff\ufb50-\ufdff\ufe70-\ufefc",
    "Devanagari": "\u0900-\u097f",
    "Bengali": "\u0980-\u09ff",
    "Gurmukhi": "\u0a00-\u0a7f",
    "Gujarati": "\u0a80-\u0aff",
    "Odia": "\u0b00-\u0b7f",
    "Tamil": "\u0b80-\u0bff",
    "Telugu": "\u0c00-\u0c7f",
    "Kannada": "\u0c80-\u0cff",
    "Malayalam": "\u0d00-\u0d7f",
    "Sinhala": "\u0d80-\u0dff",
    "Thai": "\u0e00-\u0e7f",
    "Lao": "\u0e80-\u0eff",
    "Burmese": "\u1000-\u109f",
    "Georgian": "\u10a0-\u10ff\u1c90-\u1cbf",
    "Ethiopic": "\u1200-\u139f",
    "Khmer": "\u1780-\u17ff",
    "Hangul": "\u1100-\u11ff\u3130-\u318f\uac00-\ud7af",
    "Kana": "\u3040-\u30ff\u31f0-\u31ff\uff66-\uff9f",
    "Han": "\u3005\u3007\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003134f",
}

_LATIN = (
    "af ast ca ceb cs cy da de en es et eu fi fr fy ga gl haw hr hu id ig is it jv lb lg ln lt lv mi ms mt nb nl nn no "
    "ny oc om pl pt rm ro rw sk sl sn so sq sv sw tl tr umb vi wo xh yo zu"
)
_SCRIPTS: dict[str, tuple[str, ...]] = {
    **dict.fromkeys(_LATIN.split(), ("Latin",)),
    **dict.fromkeys("ba be bg ky mk mn ru tg tt uk".split(), ("Cyrillic",)),
    **dict.fromkeys("ar arz ckb fa ps ur".split(), ("Arabic",)),
    **dict.fromkeys("hi mr ne".split(), ("Devanagari",)),
    **dict.fromkeys("ja".split(), ("Kana", "Han")),
    **dict.fromkeys("ko".split(), ("Hangul", "Han")),
    **dict.fromkeys("yue zh".split(), ("Han",)),
    **dict.fromkeys("am ti".split(), ("Ethiopic",)),
    **dict.fromkeys("as bn".split(), ("Bengali",)),
    "el": ("Greek",),
    "gu": ("Gujarati",),
    "he": ("Hebrew",),
    "hy": ("Armenian",),
    "ka": ("Georgian",),
    "km": ("Khmer",),
    "kn": ("Kannada",),
    "lo": ("Lao",),
    "ml": ("Malayalam",),
    "my": ("Burmese",),
    "or": ("Odia",),
    "pa": ("Gurmukhi",),
    "si": ("Sinhala",),
    "ta": ("Tamil",),
    "te": ("Telugu",),
    "th": ("Thai",),
}
"""Scripts of languages that are written in no other."""

_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\ufeff\ud800-\udfff]")
_GARBLED = re.compile("[ÂÃ][\x80-\xbf]|â€|ðŸ")
_MARKUP = re.compile(r"&(?:amp|lt|gt|quot|apos|nbsp|#\d{1,7}|#x[0-9a-fA-F]{1,6});|</?[a-zA-Z][^<>]{0,40}>")


def check_texts(utterance: Utterance, thresholds: Thresholds) -> Iterator[tuple[str, str]]:
    """Yield reason and detail of what is wrong with the texts of an utterance, taken by itself."""
    transcript = utterance.transcript
    unusable = [code for code, text in utterance.translations.items() if text.strip() in NO_TRANSLATION]
    if unusable:
        texts = ", ".join(f"{code}: '{utterance.translations[code].strip()}'" for code in unusable)
        none = len(unusable) == len(utterance.translations)
        yield ("no usable translation" if none else "translation REMOVE or empty"), texts
    for code, text in utterance.translations.items():
        if code not in unusable and characters(text) >= thresholds.copied_chars and _same(text, transcript):
            if language_of(code) != language_of(utterance.source_language):
                yield "translation copies the transcript", f"{code}: '{_shortened(text)}'"
    named = [("transcript", utterance.source_language, transcript)]
    named += [(f"translation {code}", code, text) for code, text in utterance.translations.items()]
    for name, language, text in named:
        if not (text.isascii() and text.isprintable()):
            yield from _odd_characters(name, text)
        if ("&" in text or "<" in text) and (found := _MARKUP.search(text)):
            yield "markup", f"{name}: {found[0]}"
        if name.removeprefix("translation ") not in unusable:
            yield from _foreign(name, language, text, thresholds)


def characters(text: str) -> int:
    """Return the number of characters that are not spaces."""
    return sum(map(len, text.split()))


def language_of(code: str) -> str:
    """Return the language of a BCP-47 code, without region and script."""
    return code.split("-")[0]


def visible(text: str) -> str:
    """Return a text whose tabs, line ends and other control characters are written as escapes."""
    return _CONTROL.sub(lambda found: found[0].encode("unicode_escape").decode("ascii"), text)


def _odd_characters(name: str, text: str) -> Iterator[tuple[str, str]]:
    if found := sorted(set(_CONTROL.findall(text))):
        yield "control characters", f"{name}: {', '.join(f'U+{ord(character):04X}' for character in found[:5])}"
    if "\ufffd" in text:
        yield "replacement character", f"{name}: {text.count(chr(0xFFFD))}"
    if garbled := _GARBLED.search(text):
        yield "garbled encoding", f"{name}: {visible(garbled[0])}"


def _foreign(name: str, language: str, text: str, thresholds: Thresholds) -> Iterator[tuple[str, str]]:
    scripts = _SCRIPTS.get(language_of(language))
    if "-Latn" in language or not scripts or (text.isascii() and scripts == ("Latin",)):
        return
    own, other = (len(pattern.findall(text)) for pattern in _letters(scripts))
    if own + other >= thresholds.script_letters and own < thresholds.script_share * (own + other):
        share = 100 * own / (own + other)
        yield "wrong script", f"{name}: {share:.0f} % {' or '.join(scripts)} in '{_shortened(text)}'"


@cache
def _letters(scripts: tuple[str, ...]) -> tuple[re.Pattern[str], re.Pattern[str]]:
    """Return patterns of one letter of the scripts, and of one letter of another."""
    blocks = "".join(_BLOCKS[script] for script in scripts)
    return re.compile(f"[{blocks}]"), re.compile(rf"[^\W\d_{blocks}]")


def _same(text: str, other: str) -> bool:
    return " ".join(text.split()).casefold() == " ".join(other.split()).casefold()


def _shortened(text: str) -> str:
    return text if len(text) <= 60 else f"{text[:57]}..."
