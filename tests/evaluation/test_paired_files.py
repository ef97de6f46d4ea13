"""Hypotheses and references from files, line by line or id by id."""

from pathlib import Path

import pytest

from speechllm.errors import UserError
from speechllm.evaluation.paired_files import Origin, read_pairs

TRANSCRIPTS, TRANSLATIONS = Origin("en"), Origin("de", "en", "tst")


@pytest.fixture
def write(tmp_path):
    def write(name, text):
        (tmp_path / name).write_text(text, encoding="utf-8")
        return tmp_path / name

    return write


def test_lines(write):
    found = read_pairs(write("hyp.txt", "a b\n\nc\n"), write("tst.en", "a c\nnothing\nc\n"), None, TRANSCRIPTS)
    assert [(p.id, p.row, p.hypothesis_transcript, p.reference_transcript) for p in found] == [
        ("1", 0, "a b", "a c"),
        ("2", 1, "", "nothing"),
        ("3", 2, "c", "c"),
    ]
    assert {(p.corpus, p.task, p.source_language, p.target_language) for p in found} == {("files", "asr", "en", "en")}


def test_translations_with_their_sources(write):
    (found,) = read_pairs(write("h", "Hallo\n"), write("r", "Hallo du\n"), write("s", "hello you\n"), TRANSLATIONS)
    assert (found.task, found.source_language, found.target_language) == ("st", "en", "de")
    assert (found.reference_transcript, found.reference_translation) == ("hello you", "Hallo du")
    assert found.corpus == "tst"
    assert (found.hypothesis_transcript, found.hypothesis_translation) == ("", "Hallo")


def test_a_table_with_everything(write):
    table = write("x.tsv", 'id\thyp\tref\tspeaker\taudio\tduration\nu7\ta "b\ta\tann\tt.wav\t2.5\n')
    (found,) = read_pairs(table, None, None, TRANSCRIPTS)
    assert (found.id, found.hypothesis_transcript, found.reference_transcript) == ("u7", 'a "b', "a")
    assert (found.speaker, found.recording, found.duration_s) == ("ann", "t.wav", 2.5)


def test_tables_are_matched_by_id(write):
    references = write("r.csv", "reference,id\nright,u2\nleft,u1\n")
    found = read_pairs(write("h.tsv", "u1\tlift\nu2\trite\n"), references, None, TRANSCRIPTS)
    assert [(p.id, p.reference_transcript) for p in found] == [("u1", "left"), ("u2", "right")]


def test_json_with_numbers_and_what_is_not_known(write):
    line = '{"id": 7, "hypothesis": "a", "reference": "b", "speaker": 12, "recording": null, "duration": 2}'
    for table in (write("x.jsonl", line), write("x.json", line), write("y.json", f"[\n {line}\n]\n")):
        (found,) = read_pairs(table, None, None, TRANSCRIPTS)
        assert (found.id, found.speaker, found.recording, found.duration_s) == ("7", "12", "", 2.0)


def test_what_nemo_writes(write):
    row = '{"audio_filepath": "t.wav", "duration": 2.5, "text": "right", "pred_text": "rite"}'
    (found,) = read_pairs(write("x.json", row), None, None, TRANSCRIPTS)
    assert (found.hypothesis_transcript, found.reference_transcript, found.recording) == ("rite", "right", "t.wav")
    with pytest.raises(UserError, match="no reference"):
        read_pairs(write("y.jsonl", '{"text": "right", "hypothesis": "rite"}'), None, None, TRANSCRIPTS)


def test_what_sclite_reads(write):
    hypotheses = write("h.trn", "lift (u1)\n(u2)\n\nmiss (or so) (u 3)\n")
    references = write("r.trn", "right (u2)\nleft (u1)\nmiss (u 3)\n")
    found = read_pairs(hypotheses, references, None, TRANSCRIPTS)
    assert [(p.id, p.hypothesis_transcript, p.reference_transcript) for p in found] == [
        ("u1", "lift", "left"),
        ("u2", "", "right"),
        ("u 3", "miss (or so)", "miss"),
    ]


@pytest.mark.parametrize(
    ("hypotheses", "references", "message"),
    [
        (("h", "a\nb\n"), ("r", "a\n"), r"h has 2, .*r has 1. Nothing was scored"),
        (("h", "a\n"), ("r", ""), "r: the file is empty"),
        (("h", "a\n"), None, "row 1: no reference. Give `--references`"),
        (("h.tsv", "u1\ta\nu2\tb\n"), ("r.tsv", "u1\ta\n"), r"row 2: '.*r.tsv' has no reference of 'u2'"),
        (("h.tsv", "u1\ta\n"), ("r.tsv", "u1\ta\nu2\tb\n"), r"no hypothesis for 1 of 2 utterances of .*: 'u2'"),
        (("h.csv", "hyp\na\nb\n"), ("r.csv", "ref\na\nb\n"), r"r.csv, row 2: no 'id', by which rows of tables belong"),
        (
            ("h.tsv", "u1\ta\nu2\tb\n"),
            ("r.csv", "ref\na\nb\n"),
            r"r.csv, row 2: no 'id', by which rows of tables belong",
        ),
        (("h.csv", "hyp\na\nb\n"), ("r.tsv", "u1\ta\nu2\tb\n"), r"h.csv, row 2: no 'id', by which rows of tables"),
        (
            ("h.csv", "ref,hyp,pred_text\na,b,c\n"),
            None,
            r"h.csv: the columns 'hyp' and 'pred_text' are each the hypothesis",
        ),
        (
            ("h.jsonl", '{"ref": "a", "reference": "b", "hyp": "c"}'),
            None,
            "row 1: the columns 'ref' and 'reference' are",
        ),
        (("h.csv", "id;hyp;ref\nu1;a;b\n"), None, "the header has id;hyp;ref. Cells are divided by commas in .csv"),
        (("h.json", '[{"id": "1"}]'), None, "h.json, row 1: no 'hypothesis'; there is id"),
        (("h.json", '[{"id": "1"},\n  oh]'), None, "h.json: invalid JSON at line 2, column 3"),
        (("h.jsonl", '\n{"id": "1"'), None, "h.jsonl, row 2: invalid JSON at column 11"),
        (("h.jsonl", '{"hypothesis": null}'), None, "row 1: 'hypothesis' must be a text, but is null"),
        (("h.trn", "a (u1)\nb\n"), ("r.trn", "a (u1)\n"), "h.trn, row 2: a row of .trn ends with"),
        (
            ("h.csv", "id,hyp,ref,duration\nu1,a,b,x\n"),
            None,
            "row 2: 'duration_s' must be a number of seconds, but is 'x'",
        ),
    ],
)
def test_files_that_do_not_belong_together(write, hypotheses, references, message):
    with pytest.raises(UserError, match=message):
        read_pairs(write(*hypotheses), references and write(*references), None, TRANSCRIPTS)


def test_lines_that_begin_with_ids(write):
    """As Kaldi writes them: an id counted as a word makes an error rate too low."""
    references = write("r", "utt-1 left\nutt-2 right\n")
    with pytest.raises(UserError, match=r"each line of both files begins with an id, such as 'utt-1'.*\.tsv"):
        read_pairs(write("h", "utt-1 lift\nutt-2\n"), references, None, TRANSCRIPTS)
    counted = write("c", "1 left\n1 right\n"), write("d", "1 lift\n1 right\n")
    assert len(read_pairs(*counted, None, TRANSCRIPTS)) == 2
    words = write("w", "left\nright\n")
    assert len(read_pairs(words, words, None, TRANSCRIPTS)) == 2


def test_languages_are_checked():
    with pytest.raises(UserError, match="Unknown language 'xx'"):
        Origin("xx")
    with pytest.raises(UserError, match="Unknown language 'english'"):
        Origin("en", "english")


def test_a_file_that_is_not_there():
    with pytest.raises(UserError, match=r"nowhere\.txt: the file cannot be read: No such file"):
        read_pairs(Path("nowhere.txt"), None, None, TRANSCRIPTS)
