"""Language codes and the names that prompts use."""

import re

import pytest

from speechllm.errors import UserError
from speechllm.languages import LANGUAGE_NAMES, check_language, language_name


@pytest.mark.parametrize(
    ("code", "name"), [("en", "English"), ("de", "German"), ("sv-SE", "Swedish"), ("zh-CN", "Chinese"), ("th", "Thai")]
)
def test_name(code, name):
    check_language(code)
    assert language_name(code) == name


def test_the_table_covers_the_corpora():
    must_c = {"cs", "de", "es", "fa", "fr", "it", "nl", "pt", "ro", "ru", "tr", "vi", "zh", "ar"}
    covost2_to_english = {"fr", "de", "es", "ca", "it", "ru", "zh", "pt", "fa", "et", "mn"} | {
        *("nl", "tr", "ar", "sv", "lv", "sl", "ta", "ja", "id", "cy"),
    }
    assert must_c | covost2_to_english | {"en", "ko", "th", "pl"} <= set(LANGUAGE_NAMES)


def test_codes_and_names_are_well_formed_and_sorted():
    assert all(re.fullmatch("[a-z]{2}", code) for code in LANGUAGE_NAMES)
    assert all(re.fullmatch("[A-Z][a-z]+", name) for name in LANGUAGE_NAMES.values())
    assert len(set(LANGUAGE_NAMES.values())) == len(LANGUAGE_NAMES)
    assert list(LANGUAGE_NAMES) == sorted(LANGUAGE_NAMES)


@pytest.mark.parametrize("function", [check_language, language_name])
@pytest.mark.parametrize("code", ["xx", "EN", "english", "", "xx-DE", "_de"])
def test_unknown_codes_are_refused_with_the_list(function, code):
    with pytest.raises(UserError) as error:
        function(code)
    message = str(error.value)
    assert message.startswith(f"Unknown language '{code}'.")
    assert message.endswith("Known: ar, ca, cs, " + ", ".join(list(LANGUAGE_NAMES)[3:]) + ".")


def test_near_match_and_place_are_named():
    with pytest.raises(
        UserError, match=r"^manifest\.jsonl, row 3: unknown language 'deu'\. Did you mean 'de'\? Known: ar"
    ):
        check_language("deu", where="manifest.jsonl, row 3")
