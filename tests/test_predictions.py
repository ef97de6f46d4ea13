"""Predictions on disk: what is written is read again, and a broken file is named with its row."""

import dataclasses
import json

import pytest

from speechllm.errors import UserError
from speechllm.predictions import Prediction, from_line, read_predictions, to_line, write_predictions


def prediction(row, **changes):
    values = {
        "id": f"talk-{row}",
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
        "text": "good mourning\n<|translation|> gute Trauer",
        "duration_s": 1.25,
        "decode_s": 0.5,
        "tokens": 7,
        "readable": True,
        "missing_separator": False,
        "hit_limit": False,
    }
    return Prediction(**(values | changes))


@pytest.fixture
def path(tmp_path):
    return tmp_path / "runs" / "predictions.jsonl"


def rewrite(path, **changes):
    """Change fields of the second row; a field that is set to ``...`` is removed."""
    lines = path.read_text(encoding="utf-8").split("\n")
    values = json.loads(lines[1]) | changes
    lines[1] = json.dumps({name: value for name, value in values.items() if value is not ...})
    path.write_text("\n".join(lines), encoding="utf-8")


def test_round_trip_in_row_order(path):
    predictions = [prediction(2, readable=False, duration_s=0.0), prediction(0), prediction(1, hit_limit=True)]
    write_predictions(path, iter(predictions))
    assert read_predictions(path) == [predictions[1], predictions[2], predictions[0]]


@pytest.mark.parametrize(
    "text",
    [
        "Straße „ß“ 今日は",
        "a\nb\r\nc\td",
        "line\u2028separator\u0085next\x0bpage\x1c",
        'quote " back\\slash',
        "half \ud83d pair",
        "",
    ],
)
def test_any_text_survives(path, text):
    write_predictions(path, [prediction(0, text=text), prediction(1)])
    assert [entry.text for entry in read_predictions(path)] == [text, prediction(1).text]


def test_file_is_utf8_and_unescaped_one_line_each(path):
    write_predictions(path, [prediction(0, text="Straße 今日は"), prediction(1)])
    raw = path.read_bytes()
    assert "Straße 今日は".encode() in raw
    assert raw.count(b"\n") == 2
    assert raw.endswith(b"}\n")
    assert list(json.loads(raw.splitlines()[0])) == [field.name for field in dataclasses.fields(Prediction)]


def test_a_write_that_dies_leaves_the_old_file(path):
    write_predictions(path, [prediction(0)])
    before = path.read_bytes()
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_predictions(path, [prediction(0, text="new"), prediction(1, decode_s=float("nan"))])
    assert path.read_bytes() == before
    assert [file.name for file in path.parent.iterdir()] == ["predictions.jsonl"]


def test_the_new_file_takes_the_old_ones_place_at_once(path):
    """Who has the old file open reads it to its end: it is replaced, never overwritten."""
    write_predictions(path, [prediction(0, text="old")])
    before = path.read_text(encoding="utf-8")
    with path.open(encoding="utf-8") as old:
        write_predictions(path, [prediction(0, text="new")])
        assert old.read() == before
    assert read_predictions(path)[0].text == "new"


def test_write_replaces_and_accepts_nothing(path):
    write_predictions(path, [prediction(0)])
    write_predictions(path, [])
    assert path.read_bytes() == b""
    assert read_predictions(path) == []


def test_the_same_id_may_stand_under_another_task_or_target(path):
    write_predictions(
        path, [prediction(0), prediction(1, id="talk-0", task="st"), prediction(2, id="talk-0", target_language="fr")]
    )
    assert len(read_predictions(path)) == 3


def test_corpora_and_languages_may_have_ids_in_common(path):
    other = prediction(1, id="talk-0", corpus="other")
    write_predictions(path, [prediction(0), other, prediction(2, id="talk-0", source_language="it")])
    assert [p.id for p in read_predictions(path)] == ["talk-0"] * 3


def test_duplicates_are_refused_in_both_directions(path):
    with pytest.raises(
        UserError, match="row 3: the id 'talk-0' with task 'asr\\+st' and target language 'de' stands in row 0"
    ):
        write_predictions(path, [prediction(0), prediction(3, id="talk-0")])
    assert not path.exists()
    write_predictions(path, [prediction(0), prediction(1)])
    rewrite(path, id="talk-0")
    with pytest.raises(UserError, match=r"predictions\.jsonl, row 2: the id 'talk-0' .* stands in row 1 already"):
        read_predictions(path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"tokens": ...}, "missing field 'tokens'"),
        ({"tokens": ..., "text": ...}, "missing field 'text', 'tokens'"),
        ({"duration": 1.0}, r"unknown field 'duration'\. Did you mean 'duration_s'\? Fields: id, row"),
        ({"row": "1"}, "field 'row' must be an integer, but is \"1\""),
        ({"tokens": 7.5}, "field 'tokens' must be an integer, but is 7.5"),
        ({"tokens": True}, "field 'tokens' must be an integer, but is true"),
        ({"readable": 1}, "field 'readable' must be true or false, but is 1"),
        ({"text": None}, "field 'text' must be a string, but is null"),
        ({"decode_s": "fast"}, "field 'decode_s' must be a number, but is \"fast\""),
    ],
)
def test_wrong_fields_are_named_with_file_and_row(path, changes, message):
    write_predictions(path, [prediction(0), prediction(1)])
    rewrite(path, **changes)
    with pytest.raises(UserError, match=rf"predictions\.jsonl, row 2: {message}"):
        read_predictions(path)


def test_whole_numbers_are_numbers(path):
    write_predictions(path, [prediction(0), prediction(1, duration_s=2)])
    assert read_predictions(path)[1].duration_s == 2.0


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (b'{"id": "a", "row"', r"invalid JSON at column 18: .*Is the file complete"),
        (b"", "invalid JSON at column 1: "),
        (b"[1, 2]", r"expected a JSON object, got \[1, 2\]"),
        (b'{"id": "\xff"}', "not UTF-8 at byte 9 of the line"),
    ],
)
def test_broken_lines_are_named_with_file_and_row(path, line, message):
    write_predictions(path, [prediction(0)])
    path.write_bytes(path.read_bytes() + line + b"\n")
    with pytest.raises(UserError, match=rf"predictions\.jsonl, row 2: {message}"):
        read_predictions(path)


def test_absent_file(tmp_path):
    with pytest.raises(UserError, match=r"none\.jsonl: the predictions cannot be read: No such file"):
        read_predictions(tmp_path / "none.jsonl")


def test_a_line_by_itself():
    """As a journal writes it; it ends with its only line feed."""
    line = to_line(prediction(0, text="a\nb\u2028"))
    assert line.count("\n") == 1
    assert from_line(line.encode(), "here") == prediction(0, text="a\nb\u2028")
    with pytest.raises(UserError, match="here: invalid JSON"):
        from_line(line[:-5].encode(), "here")
