"""Rows bring together what systems wrote about the same utterance, wherever it stands in theirs."""

import dataclasses

from speechllm.evaluation.page.clips import Clips
from speechllm.evaluation.page.rows import make_content, match_rows
from speechllm.evaluation.systems import System
from tests.evaluation.predicted import predicted, translated


def joint(row, target, transcript, **changes):
    return translated(row, task="asr+st", target_language=target, hypothesis_transcript=transcript, **changes)


def content_of(systems, specs=()):
    rows = match_rows(systems)
    content = make_content(systems, specs, rows, Clips([""] * len(rows)))
    return content.head, list(content.rows)


def hypotheses(rows):
    return [row[8] for row in rows]


def test_matches_by_utterance_and_not_by_position():
    first = [predicted(row, hypothesis_transcript=f"first {row}") for row in range(3)]
    second = [predicted(row, hypothesis_transcript=f"second {row}") for row in (2, 0, 1)]
    _, rows = content_of([System("a", first), System("b", second)])
    assert [row[0] for row in rows] == ["u0", "u1", "u2"]
    assert hypotheses(rows) == [[f"first {row}", f"second {row}"] for row in range(3)]


def test_the_same_id_in_another_corpus_split_or_language_is_another_utterance():
    same = [
        predicted(0),
        predicted(0, corpus="b"),
        predicted(0, split="dev"),
        translated(0),
        translated(0, target_language="fr"),
    ]
    _, rows = content_of([System("a", same)])
    assert len(rows) == 5


def test_a_joint_answer_has_a_row_for_each_of_its_texts():
    head, rows = content_of(
        [System("a", [joint(0, "de", "the dog parks", missing_separator=True, hypothesis_translation="")])]
    )
    assert [head["sets"][row[1]]["text"] for row in rows] == ["transcript", "translation"]
    assert [row[6] for row in rows] == ["the dog barks", "der Hund bellt laut"]
    assert [row[7] for row in rows] == ["", "the dog barks"]
    assert [row[9] for row in rows] == [["2=1~"], ["4-"]]
    assert [row[10] for row in rows] == [[4], [6]], "separator missing in both, and the translation empty"


def test_transcripts_of_different_tasks_share_a_row():
    """A model for ``asr`` and one for ``asr+st`` with two target languages: ids and transcripts are the same."""
    alone = [predicted(0, reference_transcript="the dog barks", hypothesis_transcript="alone")]
    both = [joint(0, "fr", "beside fr"), joint(0, "de", "beside de")]
    _, rows = content_of([System("a", alone), System("b", both), System("c", both[::-1])])
    assert hypotheses(rows)[0] == ["alone", "beside de", "beside de"]
    assert sorted(map(str, hypotheses(rows)[1:]))[0] == "[None, 'beside fr', 'beside fr']"
    assert len(rows) == 4


def test_a_system_that_lacks_a_test_set_has_nothing_there():
    head, rows = content_of([System("a", [predicted(0), predicted(1, corpus="other")]), System("b", [predicted(0)])])
    assert hypotheses(rows)[1][1] is None
    assert rows[1][9:] == [["2=1~1=", ""], [0, 0], [[[1, 4]], [None]]]
    assert [item["corpus"] for item in head["sets"]] == ["fake", "other"]


def test_texts_that_equal_the_reference_are_not_written_twice():
    _, rows = content_of([System("a", [predicted(0, hypothesis_transcript=" one  two three\nfour")])])
    assert rows[0][8:] == [[0], [""], [0], [[[0, 4]]]]


def test_flags():
    plain = predicted(0)
    flagged = [
        dataclasses.replace(plain, hit_limit=True),
        dataclasses.replace(plain, hypothesis_transcript=" \n"),
        dataclasses.replace(plain, missing_separator=True),
        dataclasses.replace(plain, readable=False),
    ]
    head, rows = content_of([System(f"{number}", [one]) for number, one in enumerate(flagged)])
    assert head["flags"] == ["hit limit", "empty", "missing separator", "unreadable"]
    assert rows[0][10] == [1, 2, 4, 8]


def test_rows_of_korean_show_character_errors_first():
    korean = predicted(
        0, source_language="ko", target_language="ko", reference_transcript="비가 와", hypothesis_transcript="비가 왔"
    )
    head, rows = content_of([System("a", [korean])], [{"name": "wer"}, {"name": "cer"}])
    assert [item["measures"] for item in head["sets"]] == [[1, 0]]
    assert rows[0][11] == [[[1, 3], [1, 2]]]


def test_rows_have_the_measures_of_their_test_set():
    chinese = predicted(
        0, source_language="zh", target_language="zh", reference_transcript="今天", hypothesis_transcript="今日"
    )
    head, rows = content_of([System("a", [chinese, predicted(1)])], [{"name": "wer"}, {"name": "cer"}])
    assert [item["measures"] for item in head["sets"]] == [[1], [0, 1]], "words of Chinese are not counted"
    assert rows[0][11] == [[[1, 2]]]
    assert rows[1][11] == [[[1, 4], [1, 18]]]
