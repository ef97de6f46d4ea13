"""Systems of any origin: read with their references, compared on the same utterances only."""

import json
from dataclasses import replace

import pytest

from speechllm.errors import UserError
from speechllm.evaluation.systems import check_same_utterances, read_system, split_by_task
from speechllm.predictions import write_predictions
from tests.evaluation.predicted import predicted, translated


def write_run(folder, predictions, run=None):
    write_predictions(folder / "predictions.jsonl", predictions)
    if run is not None:
        (folder / "run.json").write_text(json.dumps(run))
    return folder


def test_reads_a_run_by_any_of_its_paths(tmp_path):
    write_run(tmp_path / "runs/conv/test", [predicted(0), predicted(1)], {"seed": 7})
    for path in ("runs/conv", "runs/conv/test", "runs/conv/test/predictions.jsonl"):
        system = read_system(str(tmp_path / path))
        assert (system.name, system.group, len(system.predictions), system.run) == ("conv", "", 2, {"seed": 7})
    system = read_system(f"W-L/our conv={tmp_path / 'runs/conv'}")
    assert (system.name, system.group) == ("our conv", "W-L")
    noisy = write_run(tmp_path / "runs/conv/test_white_5dB", [predicted(0)])
    assert read_system(str(noisy)).name == "test_white_5dB"


def test_a_path_with_an_equals_sign_is_a_path(tmp_path):
    folder = write_run(tmp_path / "lr=3/test", [predicted(0)])
    assert read_system(str(folder.parent)).name == "lr=3"


def test_lines_take_their_references_from_the_first_system(tmp_path):
    file = tmp_path / "nllb.txt"
    file.write_bytes("eins\r\n\nzwei\u2028drei\n".encode())
    system = read_system(str(file), [translated(row) for row in range(3)])
    assert system.name == "nllb"
    assert [p.hypothesis_translation for p in system.predictions] == ["eins", "", "zwei\u2028drei"]
    assert {p.reference_translation for p in system.predictions} == {"der Hund bellt laut"}
    assert {(p.decode_s, p.tokens, p.first_token_s) for p in system.predictions} == {(0.0, 0, 0.0)}


def test_the_translation_of_a_joint_task_is_replaced(tmp_path):
    file = tmp_path / "other.txt"
    file.write_text("eins\n")
    joint = [translated(0, task="asr+st", hypothesis_transcript="the dog barked")]
    (found,) = read_system(f"other={file}", joint).predictions
    assert (found.task, found.hypothesis_translation, found.hypothesis_transcript) == ("st", "eins", "")


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.tsv", 'u1\tone "two\nu0\tthree\n'),
        ("a.tsv", 'id\tnote\thyp\nu1\tx\tone "two\nu0\ty\tthree\n'),
        ("a.csv", '\ufeffhypothesis,id\n"one ""two",u1\nthree,u0\n'),
        ("a.jsonl", '{"id": "u1", "pred_text": "one \\"two", "score": 3}\n\n{"pred_text": "three", "id": "u0"}\n'),
    ],
)
def test_tables_are_matched_by_id(tmp_path, name, content):
    file = tmp_path / name
    file.write_text(content, encoding="utf-8")
    system = read_system(str(file), [predicted(0), predicted(1)])
    assert [(p.id, p.hypothesis_transcript) for p in system.predictions] == [("u0", "three"), ("u1", 'one "two')]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.txt", "", "a.txt: the file is empty"),
        ("a.txt", "one\n", r"a.txt: 1 lines for 2 utterances \(2 of fake asr en-en\)"),
        ("a.tsv", "", "a.tsv: the file has no rows"),
        ("a.tsv", "id\thypothesis\n", "a.tsv: the file has no rows"),
        ("a.tsv", "u0\ta\tb\n", "no column 'hypothesis'; the header has u0, a, b"),
        ("a.csv", "id,hypotesis\nu0,x\n", r"no column 'hypothesis'.*Did you mean 'hypothesis'"),
        ("a.csv", "id,hypothesis\nu0,x,y\nu1,z\n", "a.csv, row 2: 3 cells for 2 columns"),
        ("a.csv", 'id,hypothesis\nu0,"x\n', "a.csv, row 2: unexpected end of data"),
        ("a.tsv", "u0\ta\nu0\tb\n", r"row 2: the id 'u0' stands in .*row 1 already"),
        ("a.tsv", "u0\ta\n", "no row for 1 of 2 utterances: 'u1'"),
        ("a.tsv", "u0\ta\nu1\tb\nu22\tc\n", r"row 3: the test set has no utterance 'u22'.*1 of 3 rows are unknown"),
        ("a.jsonl", '{"id": "u0"}\n', "row 1: no 'hypothesis'; there is id"),
        ("a.jsonl", '{"id": "u0", "hyp": 3}\n', "row 1: 'hypothesis' must be a text, but is 3"),
        ("a.jsonl", "[1]\n", "row 1: expected a JSON object"),
        ("a.jsonl", '{"id": \n', "row 1: invalid JSON at column"),
    ],
)
def test_broken_files(tmp_path, name, content, message):
    (tmp_path / name).write_text(content)
    with pytest.raises(UserError, match=message):
        read_system(str(tmp_path / name), [predicted(0), predicted(1)])


def test_bytes_that_are_no_text(tmp_path):
    (tmp_path / "a.txt").write_bytes(b"one\ntwo \xff\n")
    with pytest.raises(UserError, match=r"a\.txt, row 2: not UTF-8"):
        read_system(str(tmp_path / "a.txt"), [predicted(0)])


def test_a_table_cannot_tell_target_languages_apart(tmp_path):
    (tmp_path / "a.tsv").write_text("u0\ta\n")
    like = [translated(0), translated(0, target_language="fr")]
    with pytest.raises(UserError, match="has 'u0' 2 times"):
        read_system(str(tmp_path / "a.tsv"), like)


def test_what_is_not_there(tmp_path):
    write_run(tmp_path / "conv/test_white_5dB", [predicted(0)])
    with pytest.raises(UserError, match=r"conw' does not exist.*Did you mean .*conv'"):
        read_system(str(tmp_path / "conw"))
    with pytest.raises(UserError, match=r"holds no test results.*There are predictions in .*test_white_5dB"):
        read_system(str(tmp_path / "conv"))
    (tmp_path / "a.txt").write_text("x\n")
    with pytest.raises(UserError, match="hypotheses without references"):
        read_system(str(tmp_path / "a.txt"))
    write_run(tmp_path / "none/test", [])
    with pytest.raises(UserError, match="there are no predictions in it"):
        read_system(str(tmp_path / "none"))
    folder = write_run(tmp_path / "bad/test", [predicted(0)])
    (folder / "run.json").write_text("{")
    with pytest.raises(UserError, match=r"run\.json: not valid JSON"):
        read_system(str(folder))


def systems(tmp_path, *predictions):
    return [
        read_system(f"s{number}={write_run(tmp_path / str(number), found)}") for number, found in enumerate(predictions)
    ]


def test_predictions_are_brought_to_one_order(tmp_path):
    one = [predicted(row) for row in range(3)]
    other = [predicted(9 - row, id=f"u{row}", task="asr+st", target_language="de") for row in range(3)]
    found = check_same_utterances(systems(tmp_path, one, other))
    assert [[p.id for p in system.predictions] for system in found] == [["u0", "u1", "u2"]] * 2


def test_utterances_of_two_corpora_may_have_one_id(tmp_path):
    one = [predicted(row, id=f"u{row % 2}", corpus="ab"[row // 2], hypothesis_transcript=f"{row}") for row in range(4)]
    found = check_same_utterances(systems(tmp_path, one, [replace(p, row=3 - p.row) for p in one]))
    texts = [[p.hypothesis_transcript for p in system.predictions if p.corpus == "b"] for system in found]
    assert texts == [["2", "3"]] * 2


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (
            [predicted(0), predicted(2)],
            r"fake en \(transcript\): 's0' has 2 .* 1 only in 's0' \('u1'\) and 1 only in 's1'",
        ),
        ([predicted(0)], "'s0' has 2 utterances and 's1' 1"),
        (
            [predicted(0), predicted(1, reference_transcript="x")],
            "the reference of 'u1' is 'one two three four' for 's0' and 'x' for 's1'",
        ),
        ([predicted(0, corpus="else")], r"no test set in common. s0: fake en \(transcript\); s1: else en"),
    ],
)
def test_different_test_sets(tmp_path, other, message):
    with pytest.raises(UserError, match=message):
        check_same_utterances(systems(tmp_path, [predicted(0), predicted(1)], other))


def test_a_system_may_lack_a_language(tmp_path):
    both = [translated(0), translated(1, target_language="fr")]
    assert len(check_same_utterances(systems(tmp_path, both, [translated(0)]))) == 2


def test_tasks_that_give_the_same_text_are_systems_of_their_own(tmp_path):
    joint = [predicted(0), translated(1, id="u0", task="asr+st")]
    (system,) = systems(tmp_path, joint)
    assert [(found.name, len(found.predictions)) for found in split_by_task(system)] == [
        ("s0 (asr)", 1),
        ("s0 (asr+st)", 1),
    ]
    (system,) = systems(tmp_path, [predicted(0), translated(1, id="u0")])
    assert split_by_task(system) == [system]
