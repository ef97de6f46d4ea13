"""The table and the examples at the end of a run."""

import pytest

from speechllm.predictions import Prediction
from speechllm.report import display_width, format_examples, format_table


def prediction(row, **changes):
    values = {
        "id": f"u{row}",
        "row": row,
        "corpus": "fake",
        "split": "test",
        "task": "asr+st",
        "source_language": "en",
        "target_language": "de",
        "reference_transcript": "good morning",
        "reference_translation": "guten Morgen",
        "hypothesis_transcript": "good mourning",
        "hypothesis_translation": "gute Trauer",
        "text": "",
        "duration_s": 1.25,
        "decode_s": 0.5,
        "tokens": 7,
        "readable": True,
        "missing_separator": False,
        "hit_limit": False,
    }
    return Prediction(**(values | changes))


def test_table():
    rows = [("test_wer", 4.375, "wer|norm:none"), ("test_bleu", 90.0, "nrefs:1"), ("utterances", 300, "")]
    assert format_table(rows, ("name", "value", "signature")).split("\n") == [
        "name        value  signature",
        "----------  -----  -------------",
        "test_wer     4.38  wer|norm:none",
        "test_bleu   90.00  nrefs:1",
        "utterances    300",
    ]


def test_table_is_aligned_as_a_terminal_shows_it():
    rows = [("中文", 1), ("cafe\u0301", 20), ("ab", 300)]
    lines = format_table(rows, ("text", "n")).split("\n")
    assert {display_width(line) for line in lines} == {9}
    assert lines[2] == "中文    1"
    assert lines[3] == "cafe\u0301   20"


def test_numbers_keep_to_the_right_where_some_are_not_given():
    lines = format_table([("a", 1.5), ("b", ""), ("c", 100.0)], ("name", "value")).split("\n")
    assert lines[2:] == ["a       1.50", "b", "c     100.00"]


def test_empty_table_has_its_head():
    assert format_table([], ("name", "value")) == "name  value\n----  -----"


def test_ragged_rows_are_refused():
    with pytest.raises(ValueError, match="2 cells for 3 columns"):
        format_table([("a", 1)], ("name", "value", "signature"))


@pytest.mark.parametrize(
    ("text", "width"), [("abc", 3), ("日本", 4), ("한국", 4), ("น้ำ", 2), ("e\u0301", 1), ("", 0), ("\u200b", 0)]
)
def test_display_width(text, width):
    assert display_width(text) == width


def test_example_of_both_tasks():
    assert format_examples([prediction(0)]).split("\n") == [
        "u0 (asr+st, en → de, 1.2 s)",
        "  transcript   reference   good morning",
        "               hypothesis  good mourning",
        "  translation  reference   guten Morgen",
        "               hypothesis  gute Trauer",
    ]


def test_example_shows_only_what_the_task_asks_for():
    asr = format_examples([prediction(0, task="asr", target_language="en")])
    assert "translation" not in asr
    assert asr.startswith("u0 (asr, en, 1.2 s)")
    st = format_examples([prediction(0, task="st")])
    assert "transcript" not in st
    assert "gute Trauer" in st


def test_example_states_what_went_wrong_and_keeps_to_its_line():
    wrong = prediction(
        0,
        readable=False,
        missing_separator=True,
        hit_limit=True,
        hypothesis_transcript="a\nb",
        hypothesis_translation="",
    )
    lines = format_examples([wrong]).split("\n")
    assert lines[0].endswith("1.2 s, the audio could not be read, no separator, cut off at the limit of tokens)")
    assert lines[2].endswith("hypothesis  a \\n b")
    assert lines[4].endswith("hypothesis  (empty)")


@pytest.mark.parametrize(
    ("total", "n", "ids"),
    [
        (9, 3, ["u0", "u3", "u6"]),
        (10, 3, ["u0", "u3", "u6"]),
        (2, 3, ["u0", "u1"]),
        (5, 1, ["u0"]),
        (0, 3, []),
        (4, 0, []),
    ],
)
def test_examples_are_evenly_spaced(total, n, ids):
    blocks = format_examples([prediction(row) for row in range(total)], n=n).split("\n\n")
    assert [block.split(" ")[0] for block in blocks if block] == ids
