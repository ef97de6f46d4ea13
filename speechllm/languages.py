"""Language codes (BCP-47) and the English names that prompts use."""

from speechllm.errors import UserError, did_you_mean

LANGUAGE_NAMES: dict[str, str] = {
    "ar": "Arabic",
    "ca": "Catalan",
    "cs": "Czech",
    "cy": "Welsh",
    "de": "German",
    "en": "English",
    "es": "Spanish",
    "et": "Estonian",
    "fa": "Persian",
    "fr": "French",
    "id": "Indonesian",
    "it": "Italian",
    "ja": "Japanese",
    "ko": "Korean",
    "lv": "Latvian",
    "mn": "Mongolian",
    "nl": "Dutch",
    "pl": "Polish",
    "pt": "Portuguese",
    "ro": "Romanian",
    "ru": "Russian",
    "sl": "Slovenian",
    "sv": "Swedish",
    "ta": "Tamil",
    "th": "Thai",
    "tr": "Turkish",
    "vi": "Vietnamese",
    "zh": "Chinese",
}
"""Languages of the corpora that the package reads; a regional code such as ``zh-CN`` counts as its language."""


def language_name(code: str) -> str:
    """Return the English name of a language, as prompts spell it.

    Args:
        code: BCP-47 code; a region is ignored (``sv-SE`` is Swedish).

    Raises:
        UserError: If the language is not known.
    """
    check_language(code)
    return LANGUAGE_NAMES[code.split("-")[0]]


def check_language(code: str, where: str = "") -> None:
    """Check that a language is known.

    Args:
        code: BCP-47 code.
        where: What the code was read from, for the message (``"manifest.jsonl, row 3"``).

    Raises:
        UserError: If the language is not known; the message names ``where`` and the known codes.
    """
    if code.split("-")[0] not in LANGUAGE_NAMES:
        at = f"{where}: unknown" if where else "Unknown"
        msg = f"{at} language '{code}'.{did_you_mean(code, LANGUAGE_NAMES)} Known: {', '.join(LANGUAGE_NAMES)}."
        raise UserError(msg)
