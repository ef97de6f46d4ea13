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


@pytest.mark.parametrize(
    ("hypotheses", "references", "message"),
    [
        (("h", "a\nb\n"), ("r", "a\n"), r"h has 2, .*r has 1. Nothing was scored"),
        (("h", "a\n"), ("r", ""), "r: the file is empty"),
        (("h", "a\n"), None, "row 1: no reference. Give `--references`"),
        (("h.tsv", "u1\ta\nu2\tb\n"), ("r.tsv", "u1\ta\n"), r"row 2: '.*r.tsv' has no reference of 'u2'"),
        (("h.tsv", "u1\ta\n"), ("r.tsv", "u1\ta\nu2\tb\n"), r"no hypothesis for 1 of 2 utterances of .*: 'u2'"),
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


def test_languages_are_checked():
    with pytest.raises(UserError, match="Unknown language 'xx'"):
        Origin("xx")
    with pytest.raises(UserError, match="Unknown language 'english'"):
        Origin("en", "english")


def test_a_file_that_is_not_there():
    with pytest.raises(UserError, match=r"nowhere\.txt: the file cannot be read: No such file"):
        read_pairs(Path("nowhere.txt"), None, None, TRANSCRIPTS)
