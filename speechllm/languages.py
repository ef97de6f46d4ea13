"""Language codes (BCP-47) and the English names that prompts use.

``languages.tsv`` beside this file lists the languages of FLEURS, Common Voice, Whisper and NLLB with what else they are
called: their codes of ISO 639-3 and other names.
"""

import re
from pathlib import Path

from speechllm.errors import UserError, did_you_mean


def _read_table() -> tuple[dict[str, str], dict[str, str]]:
    """Return the name of each language by its code, and its code by all that it is called, in lower case."""
    names, codes = {}, {}
    table = Path(__file__).with_name("languages.tsv").read_text(encoding="utf-8")
    for row in table.splitlines()[1:]:
        code, name, *also = row.split("\t")
        names[code] = name
        codes.update(dict.fromkeys([code, name.lower().replace("-", " "), *"".join(also).split(", ")], code))
    del codes[""]  # of rows with nothing in the last column
    return names, codes


LANGUAGE_NAMES, _CODES = _read_table()
"""Name of each language by its code; a regional code such as ``sv-SE`` counts as its language.

:meta hide-value:
"""

VARIETY_NAMES = {"zh-HK": "Cantonese", "zh-Hant": "Traditional Chinese", "zh-TW": "Traditional Chinese"}
"""Names of regional codes whose language's own name would have a model write or hear something else."""

_ACCENTS = {"american": "US", "australian": "AU", "british": "GB", "filipino": "PH", "indian": "IN"}
"""Regions of MLC-SLM's categories of English."""

_KEPT = {"es-419", "pt-BR", "zh-CN", "zh-HK", "zh-TW"}
"""Regions that tell texts apart; the others of FLEURS's codes only say where a language was recorded."""

_SCRIPTS = {"zh-Hans": "zh-CN", "zh-Hant": "zh-TW"}


def language_name(code: str) -> str:
    """Return the English name of a language, as prompts spell it.

    Args:
        code: BCP-47 code; a region is ignored (``sv-SE`` is Swedish), but for those in :data:`VARIETY_NAMES`.

    Raises:
        UserError: If the language is not known.
    """
    check_language(code)
    return VARIETY_NAMES.get(code) or LANGUAGE_NAMES[code.split("-")[0]]


def check_language(code: str, where: str = "") -> None:
    """Check that a language is known.

    Args:
        code: BCP-47 code.
        where: What the code was read from, for the message (``"manifest.jsonl, row 3"``).

    Raises:
        UserError: If the language is not known; the message names ``where`` and the nearest code.
    """
    if code.split("-")[0] not in LANGUAGE_NAMES:
        raise _unknown(code, where)


def language_code(name: str, where: str = "") -> str:
    """Return the BCP-47 code of a language, however a corpus or a model calls it.

    Args:
        name: A code of BCP-47 (``pt-BR``), FLEURS (``cmn_hans_cn``), ISO 639-3 (``deu``) or NLLB (``zho_Hant``), an
            English name (``german``) or a category of MLC-SLM (``English-American``), in any case. The region of an
            underscored code is kept only where it tells texts apart: ``de_de`` is ``de``, ``es_419`` is ``es-419``.
        where: What the name was read from, for the message.

    Raises:
        UserError: If the language is not known; the message names ``where`` and the nearest code.
    """
    code = _find_code(name)
    if code is None:
        raise _unknown(name, where)
    return code


def _find_code(name: str) -> str | None:
    first, *rest = re.split("[-_ ]", name.strip().lower())
    called = " ".join([first, *rest])
    if called in _CODES or first not in _CODES:
        return _CODES.get(called)
    language = _CODES[first]
    if len(rest) == 1 and rest[0] in _ACCENTS:
        return f"{language}-{_ACCENTS[rest[0]]}"
    if not all(re.fullmatch(r"[a-z]{4}|[a-z]{2}|\d{3}", subtag) for subtag in rest):
        return name if name.startswith(f"{language}-") else None  # a variant, such as rm-sursilv
    tags = [subtag.title() if len(subtag) == 4 else subtag.upper() for subtag in rest]
    if "_" not in name:
        return "-".join([language, *tags])
    regional = f"{language}-{tags[-1]}"
    return regional if regional in _KEPT else _SCRIPTS.get(regional, language)


def _unknown(name: str, where: str) -> UserError:
    at = f"{where}: unknown" if where else "Unknown"
    return UserError(
        f"{at} language '{name}'.{_hint(name)} Languages are BCP-47 codes such as 'de', 'zh-CN' or 'yue'; "
        f"speechllm/languages.tsv lists all {len(LANGUAGE_NAMES)}."
    )


def _hint(name: str) -> str:
    """Return what may be meant: what another scheme calls so, what begins so, or what is spelt nearly so."""
    if code := _find_code(name):
        return f" Did you mean '{code}'?"
    called = name.lower()
    begin = [f"'{code}' ({full})" for code, full in LANGUAGE_NAMES.items() if full.lower().startswith(called)]
    if called and 0 < len(begin) <= 4:
        return f" Did you mean {' or '.join(begin)}?"
    near = did_you_mean(called, [known for known in _CODES if known[:1] == called[:1]])
    return re.sub("'(.*)'", lambda match: f"'{_CODES[match[1]]}'", near)
