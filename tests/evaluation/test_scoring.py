"""Figures of test sets and over them, against hand-worked corpora."""

import pytest

from speechllm.errors import UserError
from speechllm.evaluation.scoring import averages, by_test_set, check_metrics, score, scores, summarize
from speechllm.evaluation.test_sets import TestSet, group_by_test_set, short_names
from tests.evaluation.predicted import predicted, translated

WER, CER, BLEU = {"name": "wer"}, {"name": "cer"}, {"name": "bleu"}


def spoken(row, language, hypothesis, reference, **changes):
    texts = {"hypothesis_transcript": hypothesis, "reference_transcript": reference}
    return predicted(row, source_language=language, target_language=language, **texts, **changes)


def test_each_language_is_a_test_set():
    """German: 1 error on 4 words and 1 on 1; French: 2 on 10."""
    predictions = [
        spoken(0, "de", "a b c x", "a b c d"),
        spoken(1, "fr", "1 2 3 4 5 6 7 8 x x", "1 2 3 4 5 6 7 8 9 10"),
        spoken(2, "de", "", "a"),
    ]
    scored = score(predictions, [WER])
    assert [item.places.tolist() for item in scored] == [[0, 2], [1]]
    found = {(item.figure, item.test_set.languages): item.value for item in scores(scored)}
    assert found == pytest.approx(
        {("wer", "de"): 40, ("wer_macro", "de"): 62.5, ("wer", "fr"): 20, ("wer_macro", "fr"): 20}
    )
    over = {(item.figure, item.kind): item.value for item in averages(scored)}
    assert over == pytest.approx(
        {
            ("wer", "mean"): 30,
            ("wer", "pooled"): 100 * 4 / 15,
            ("wer_macro", "mean"): 41.25,
            ("wer_macro", "pooled"): 100 * (0.25 + 1 + 0.2) / 3,
        }
    )
    assert summarize(scored) == pytest.approx({"wer": 30, "wer_macro": 41.25})
    assert by_test_set(scored) == pytest.approx(
        {"wer/fake_de": 40, "wer_macro/fake_de": 62.5, "wer/fake_fr": 20, "wer_macro/fake_fr": 20}
    )


def test_sums_are_kept_and_empty_references_counted():
    predictions = [spoken(0, "de", "a x c c", "a b c d e"), spoken(1, "de", "noise", "")]
    first = scores(score(predictions, [WER]))[0]
    assert (first.utterances, first.skipped, first.unit, first.higher_is_better) == (1, 1, "%", False)
    assert (first.sums["substitutions"], first.sums["deletions"], first.sums["reference_units"]) == (2, 1, 5)


def test_tasks_and_targets_are_test_sets_of_their_own():
    joint = {"hypothesis_transcript": "one", "task": "asr+st"}
    predictions = [predicted(0), translated(1, **joint), translated(2, target_language="fr"), translated(3)]
    groups = group_by_test_set(predictions, ("transcript", "translation"))
    assert {(key.task, key.languages, key.text): places for key, places in groups.items()} == {
        ("asr", "en", "transcript"): [0],
        ("asr+st", "en", "transcript"): [1],
        ("asr+st", "en-de", "translation"): [1],
        ("st", "en-fr", "translation"): [2],
        ("st", "en-de", "translation"): [3],
    }
    assert list(short_names(groups).values()) == [
        "fake en asr en",
        "fake en asr+st de",
        "fake en-de asr+st",
        "fake en-fr",
        "fake en-de st",
    ]
    answers = group_by_test_set(predictions, ("answer",))
    assert [key.languages for key in answers] == ["en", "en-de", "en-fr", "en-de"]


def test_a_metric_scores_only_what_has_its_text():
    assert score([predicted(0)], [BLEU]) == []
    (item,) = score([translated(0), predicted(1)], [BLEU])
    assert item.test_set == TestSet("fake", "test", "st", "en", "de", "translation")
    assert averages([item]) == []


def test_signatures_of_an_average_are_named_only_where_they_agree():
    predictions = [spoken(0, "de", "a", "a"), spoken(1, "fr", "b", "b"), spoken(2, "nl", "c", "c")]
    assert averages(score(predictions, [CER]))[0].signature.startswith("cer|spaces:yes")
    mixed = [spoken(0, "de", "a", "a"), spoken(1, "zh", "今", "今")]
    assert {item.signature for item in averages(score(mixed, [CER]))} == {""}


def test_nothing_to_score():
    with pytest.raises(UserError, match=r"fake test, en: wer \('en'\) has no utterance with a reference"):
        score([spoken(0, "en", "a", "")], [WER])


@pytest.mark.parametrize("reference", ["", " "])
@pytest.mark.parametrize("name", ["bleu", "chrf"])
def test_translations_without_any_reference_have_no_figure(name, reference):
    untold = [translated(row, reference_translation=reference) for row in range(3)]
    with pytest.raises(UserError, match=rf"fake test, en-de: {name} \('de'\) has no utterance with a reference"):
        score(untold, [{"name": name}])


def test_two_metrics_of_one_figure():
    twins = [WER, {"name": "wer", "normalizer": "none"}]
    with pytest.raises(UserError, match=r"Two metrics give the figure 'wer': .*'none'}\. Leave one out"):
        score([spoken(0, "en", "a", "b")], twins)


def test_a_figure_that_would_mislead_is_left_out_with_a_warning():
    predictions = [spoken(0, "ja", "今日わ", "今日は"), spoken(1, "en", "a b", "a c")]
    with pytest.warns(UserWarning, match=r"fake test, ja: no wer: 'ja' is written without spaces.*`mer` and `cer`"):
        scored = score(predictions, [WER, CER])
    found = {(item.figure, item.test_set.languages): item.value for item in scores(scored)}
    assert ("wer", "ja") not in found
    assert found["wer", "en"] == 50
    assert found["cer", "ja"] == pytest.approx(100 / 3)
    assert averages(scored)[0].figure == "cer"


def test_nothing_but_figures_that_would_mislead_is_an_error():
    with pytest.raises(UserError, match="ja: no wer: 'ja' is written without spaces between words"):
        score([spoken(0, "ja", "今日わ", "今日は")], [WER])
    with pytest.raises(UserError, match="fake test, en: no wer: the references are called 'en', but most"):
        score([spoken(0, "en", "今日わ", "今日は")], [WER])


def test_metrics_can_be_checked_before_there_are_texts(monkeypatch):
    blank = [spoken(0, "ja", "", ""), spoken(1, "en", "", ""), translated(2)]
    assert check_metrics(blank, [CER, BLEU]) == []
    (left_out,) = check_metrics(blank, [WER, CER])
    assert left_out.startswith("No wer: 'ja' is written without spaces")
    with pytest.raises(UserError, match="No wer: 'ja'"):
        check_metrics(blank[:1], [WER])
    monkeypatch.setattr("sacrebleu.tokenizers.tokenizer_ja_mecab.MeCab", None)
    with pytest.raises(UserError, match="BLEU of 'ja' needs the tokenizer ja-mecab"):
        check_metrics([translated(0, target_language="ja")], [BLEU])


def test_what_has_no_reference_is_left_out_and_said(recwarn):
    """A test set whose references were not published is decoded, and what needs none is told of it."""
    untold = [translated(0, reference_translation=""), predicted(1)]
    found = score(untold, [WER, BLEU, {"name": "health"}])
    assert {(item.metric.figures[0].name, item.test_set.text) for item in found} == {
        ("wer", "transcript"),
        ("empty_rate", "transcript"),
        ("empty_rate", "translation"),
    }
    (warning,) = recwarn
    assert "fake test, en-de: bleu ('de') has no utterance with a reference to score" in str(warning.message)
    with pytest.raises(UserError, match=r"bleu \('de'\) has no utterance with a reference"):
        score(untold[:1], [BLEU])


def test_an_utterance_with_a_translation_is_not_silence():
    """A corpus of translations alone has no transcripts, and its speakers say something all the same."""
    untold = [translated(0, task="asr+st", reference_transcript="", hypothesis_transcript="some words")]
    values = summarize(score(untold, [{"name": "health"}]))
    assert values["hallucination_rate_on_silence_transcript"] != values["hallucination_rate_on_silence_transcript"]
    silent = [
        translated(0, task="asr+st", reference_transcript="", reference_translation="", hypothesis_transcript="a")
    ]
    assert summarize(score(silent, [{"name": "health"}]))["hallucination_rate_on_silence_transcript"] == 100


def test_tasks_have_averages_of_their_own():
    """Of `asr`: 0 and 50 %; of `asr+st`: 100 %. Checkpoints are chosen by the mean of all."""
    predictions = [
        spoken(0, "de", "a b", "a b"),
        spoken(1, "fr", "a x", "a b"),
        spoken(2, "nl", "x x", "a b", task="asr+st"),
    ]
    scored = score(predictions, [WER])
    found = {(item.figure, item.kind, item.test_set.task): item.value for item in averages(scored)}
    assert found == {
        ("wer", "mean", "asr"): 25,
        ("wer", "pooled", "asr"): 25,
        ("wer_macro", "mean", "asr"): 25,
        ("wer_macro", "pooled", "asr"): 25,
    }
    assert summarize(scored)["wer"] == 50
