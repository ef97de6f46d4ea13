"""Segments of talks are cut anew like their references, and no character is lost."""

import dataclasses

import pytest

from speechllm.errors import UserError
from speechllm.evaluation import long_form
from speechllm.evaluation.long_form import Alignment, cut_like, realign
from speechllm.evaluation.scoring import score
from speechllm.talk_references import TalkReference, read_talk_references, to_json_lines
from tests.evaluation.predicted import translated

GERMAN = [["Der erste Satz ist kurz.", "Dann kommt der zweite.", "Und Schluss!"], ["Ein anderer Vortrag.", "Danke."]]


def test_cuts_where_the_references_do():
    hypotheses = ["Der erste Satz ist  kurz. Dann\nkommt ein zweiter. und Schluss", "Ein anderer Vortrag Danke."]
    assert cut_like(Alignment(hypotheses, GERMAN, "de")) == [
        ["Der erste Satz ist kurz.", "Dann kommt ein zweiter.", "und Schluss"],
        ["Ein anderer Vortrag", "Danke."],
    ]


@pytest.mark.parametrize(
    ("language", "hypothesis", "references", "expected"),
    [
        (
            "zh-CN",
            "我今天不去学校他喜欢Python 语言",
            ["我今天不去学校。", "他喜欢Python 语言。"],
            ["我今天不去学校", "他喜欢Python 语言"],
        ),
        ("ja", "今日は 学校へ行く。", ["今日は。", "学校へ行く。"], ["今日は", "学校へ行く。"]),
        ("th", "วันนี้ไปโรงเรียนเขาชอบภาษา", ["วันนี้ไปโรงเรียน", "เขาชอบภาษา"], ["วันนี้ไปโรงเรียน", "เขาชอบภาษา"]),
        ("ko", "그는 걸어 갔다 나는 먹었다", ["그는 걸어 갔다.", "나는 먹었다."], ["그는 걸어 갔다", "나는 먹었다"]),
    ],
)
def test_languages_without_spaces(language, hypothesis, references, expected):
    assert cut_like(Alignment([hypothesis], [references], language)) == [expected]


@pytest.mark.parametrize("hypothesis", ["", "x", "a ### b\tc # d", "é é ß 😀 <b> & ”", "word " * 300])
def test_nothing_is_lost(hypothesis):
    (cuts,) = cut_like(Alignment([hypothesis], [["a b c", "", "d e f ## g"]], "de"))
    assert len(cuts) == 3
    assert " ".join(" ".join(cuts).split()) == " ".join(hypothesis.split())


def segments():
    """Two talks in four segments, in the order in which they were decoded."""
    rows = [
        ("b.wav", 0.0, "Ein anderer Vortrag Danke."),
        ("a.wav", 5.0, "kommt ein zweiter. und Schluss"),
        ("a.wav", 0.0, "Der erste Satz ist kurz. Dann"),
    ]
    untold = {"reference_transcript": "", "reference_translation": ""}
    return [
        translated(row, hypothesis_translation=text, recording=f"/talks/{name}", offset_s=offset_s, **untold)
        for row, (name, offset_s, text) in enumerate(rows)
    ]


def references(**changes):
    found = [
        TalkReference(talk, str(number), "de", "", line)
        for talk, lines in zip("ab", GERMAN, strict=True)
        for number, line in enumerate(lines, start=1)
    ]
    return [dataclasses.replace(one, **changes) for one in found]


def test_talks_are_realigned_in_the_order_of_their_segments():
    found = realign(segments(), references())
    assert [(p.id, p.row, p.hypothesis_translation) for p in found] == [
        ("en-de_b_1", 0, "Ein anderer Vortrag"),
        ("en-de_b_2", 1, "Danke."),
        ("en-de_a_1", 2, "Der erste Satz ist kurz."),
        ("en-de_a_2", 3, "Dann kommt ein zweiter."),
        ("en-de_a_3", 4, "und Schluss"),
    ]
    assert [p.reference_translation for p in found] == [*GERMAN[1], *GERMAN[0]]
    assert {(p.task, p.corpus, p.duration_s) for p in found} == {("st", "fake", 0.0)}
    (scored,) = score(found, [{"name": "bleu"}])
    assert 40 < scored.scores()[0].value < 80


def test_utterances_with_a_reference_of_their_own_stay():
    other = translated(7, corpus="other")
    found = realign([other, *segments()], references())
    assert [p.corpus for p in found] == ["other"] + ["fake"] * 5
    assert found[0] == dataclasses.replace(other, row=0)


def test_a_text_without_references_is_left_out_with_its_task():
    joint = [dataclasses.replace(p, task="asr+st", hypothesis_transcript="some words") for p in segments()]
    assert {(p.task, p.hypothesis_transcript) for p in realign(joint, references())} == {("st", "")}
    both = realign(joint, references(transcript="some words"))
    assert {p.task for p in both} == {"asr+st"}
    assert " ".join(p.hypothesis_transcript for p in both).split() == ["some", "words"] * 3


def test_broken_input(monkeypatch):
    with pytest.raises(UserError, match=r"1 of 2 talks have no references, such as 'b' \(de\)"):
        realign(segments(), [one for one in references() if one.talk == "a"])
    with pytest.raises(UserError, match=r"1 talks of the references were not decoded: 'b' \(de\)"):
        realign([p for p in segments() if "a.wav" in p.recording], references())
    with pytest.raises(UserError, match="hold no translations to score with"):
        realign(segments(), references(translation=""))
    monkeypatch.setattr(long_form.shutil, "which", lambda *args, **kwargs: None)
    with pytest.raises(UserError, match=r"pip install 'speechllm\[long_form\]'"):
        realign(segments(), references())


def test_references_on_disk(tmp_path):
    path = tmp_path / "tst.references.jsonl"
    path.write_text(to_json_lines(references()), encoding="utf-8")
    assert read_talk_references(path) == references()
    path.write_text(to_json_lines(references()) + '{"talk": 3}\n')
    with pytest.raises(UserError, match="row 6: expected an object with the texts talk, segment"):
        read_talk_references(path)
    path.write_text("")
    with pytest.raises(UserError, match="there are no references"):
        read_talk_references(path)
    with pytest.raises(UserError, match="cannot be read"):
        read_talk_references(tmp_path / "none")


def test_tasks_are_realigned_each_for_itself():
    joint = [
        dataclasses.replace(p, row=p.row + 3, task="asr+st", hypothesis_transcript="some words") for p in segments()
    ]
    found = realign([*segments(), *joint], references(transcript="some words"))
    alone = realign(segments(), references())
    assert [p.hypothesis_translation for p in found if p.task == "st"] == [p.hypothesis_translation for p in alone]
    assert [p.hypothesis_translation for p in found if p.task == "asr+st"] == [p.hypothesis_translation for p in alone]
    assert [p.row for p in found] == list(range(10))


def test_tasks_that_only_their_transcripts_tell_apart():
    joint = [dataclasses.replace(p, row=p.row + 3, task="asr+st") for p in segments()]
    with pytest.raises(UserError, match=r"st, asr\+st .* score one of these tasks"):
        realign([*segments(), *joint], references())


def test_nothing_to_realign():
    with pytest.raises(UserError, match="every utterance has a reference of its own"):
        realign([translated(0)], references())


def test_an_answer_that_was_cut_off_is_known_where_it_ends():
    cut = [dataclasses.replace(p, hit_limit=p.offset_s == 5.0, missing_separator=p.row == 2) for p in segments()]
    found = {p.id: (p.hit_limit, p.missing_separator) for p in realign(cut, references())}
    assert [name for name, (limit, _) in found.items() if limit] == ["en-de_a_3"]
    assert [name for name, (_, separator) in found.items() if separator] == ["en-de_a_2"]
