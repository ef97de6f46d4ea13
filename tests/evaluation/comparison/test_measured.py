"""What is measured of systems: metrics in common, figures, tests against baselines, statistics that are at hand."""

import dataclasses

import numpy as np
import pytest

from speechllm.errors import UserError
from speechllm.evaluation.comparison.figures import can_build, check_figures, choose_metrics
from speechllm.evaluation.comparison.measured import (
    DifferenceTest,
    all_figures,
    differing_signatures,
    few_units,
    measure,
    score_systems,
    untested,
)
from speechllm.evaluation.run_record import describe_test_sets
from speechllm.evaluation.significance import compare
from speechllm.evaluation.systems import System
from speechllm.metrics.base import Figure, Metric
from speechllm.registry import METRICS
from tests.evaluation.predicted import predicted, translated

WER, CER = {"name": "wer"}, {"name": "cer"}
REFERENCE = "one two three four"


def system(name, wrong, group="", count=40, run=None):
    """Return a system that has a word wrong in the utterances ``wrong``."""
    predictions = [
        predicted(
            row,
            reference_transcript=REFERENCE,
            hypothesis_transcript="one two tree four" if row in wrong else REFERENCE,
        )
        for row in range(count)
    ]
    return System(name, predictions, group, run or {}, f"runs/{name}")


def recipe(*metrics):
    return {"recipe": {"model": {"class_path": "SpeechLLM", "init_args": {"metrics": list(metrics)}}}}


def test_metrics_are_those_that_the_recipes_have_in_common():
    whisper = {"name": "wer", "normalizer": "whisper"}
    systems = [
        system("a", (), run=recipe("wer", "cer", whisper)),
        system("b", (), run=recipe(whisper, "wer", "bleu")),
        system("text", ()),
    ]
    specs, notes = choose_metrics(systems)
    assert specs == [WER, whisper]
    assert notes == [
        "Left out: cer, which only a was tested with. Name it with --metrics to add it.",
        "Left out: bleu, which only b was tested with. Name it with --metrics to add it.",
    ]
    assert choose_metrics(systems, ["cer", whisper]) == ([CER, whisper], [])
    systems[0].run = {**systems[0].run, "metrics": [CER]}  # scored again since
    systems[1].run = {"metrics": [CER, WER]}
    assert choose_metrics(systems)[0] == [CER]


def test_systems_without_recipes_are_scored_by_what_they_wrote():
    assert choose_metrics([system("a", ())])[0] == [WER]
    every = system("a", (), run=recipe("wer", "health", "speed"))
    assert choose_metrics([every]) == ([WER], [])
    assert choose_metrics([every], "health") == ([{"name": "health"}], [])
    assert choose_metrics([system("a", (), run=recipe("health"))])[0] == [{"name": "health"}]
    joint = System("b", [translated(0, task="asr+st")], "", {}, "")
    assert [spec["name"] for spec in choose_metrics([joint])[0]] == ["wer", "bleu", "chrf"]


def test_recipes_with_nothing_in_common_are_refused():
    with pytest.raises(UserError, match=r"any metric in common \(a: wer; b: cer\). Name some: `--metrics"):
        choose_metrics([system("a", (), run=recipe("wer")), system("b", (), run=recipe("cer"))])
    with pytest.raises(UserError, match=r"Unknown metric 'wr'\. Did you mean 'wer'"):
        choose_metrics([system("a", ())], ["wr"])


def test_unknown_figures_are_refused_with_the_nearest():
    check_figures(["wer", "wer_macro"], ["wer", "wer_macro"])
    with pytest.raises(UserError, match=r"'wer_makro'. Did you mean 'wer_macro'\? .* give: wer, wer_macro\."):
        check_figures(["wer_makro"], ["wer", "wer_macro"])


def test_figures_and_tests_are_those_of_the_significance_module():
    systems = [system("base", range(10)), system("same", range(1, 11)), system("good", ())]
    scored, notes = score_systems(systems, [WER])
    baselines = {("", "base"): None, ("", "same"): ("", "base"), ("", "good"): ("", "base")}
    how = DifferenceTest(samples=200)
    results = {result.system[1]: result for result in measure(scored, None, baselines, how)}
    assert notes == []
    assert {name: result.value for name, result in results.items()} == {"base": 6.25, "same": 6.25, "good": 0.0}
    assert results["base"].comparison is None
    assert (results["same"].significant, results["good"].significant) == (False, True)
    sets = [next(iter(item.sets.values())) for item in scored]
    assert results["good"].comparison == compare(sets[0], sets[2], None, 200, 12345)[0]
    low, high = results["base"].interval
    assert low < 6.25 < high
    assert (results["base"].corpus, results["base"].languages, results["base"].utterances) == ("fake", "en", 40)


def test_randomization_can_decide_and_units_can_be_speakers():
    systems = [system("base", range(10)), system("good", ())]
    for item in systems:
        item.predictions = [dataclasses.replace(p, speaker=f"s{p.row // 20}") for p in item.predictions]
    scored, _ = score_systems(systems, [WER])
    baselines = {("", "base"): None, ("", "good"): ("", "base")}
    for test in ("bootstrap", "randomization"):
        by_utterance = measure(scored, None, baselines, DifferenceTest(samples=200, test=test))[1]
        assert by_utterance.significant
        by_speaker = measure(scored, None, baselines, DifferenceTest("speaker", 200, test=test))[1]
        assert not by_speaker.significant, "all errors are those of one of two speakers"


def test_what_was_not_tested_is_said():
    systems = [system("base", range(10)), system("good", ()), system("other", (), "g"), system("another", (), "g")]
    scored, _ = score_systems(systems, [WER])
    keys = [item.key for item in scored]
    baselines = {keys[0]: None, keys[1]: keys[0], keys[2]: None, keys[3]: keys[0]}
    results = measure(scored, None, baselines, DifferenceTest(samples=10))
    why = "not tested against a baseline, and so without asterisk: wer en."
    assert untested(results, baselines) == [f"g/other: {why}"]
    by_talk = [
        dataclasses.replace(s, predictions=[dataclasses.replace(p, recording="talk") for p in s.predictions])
        for s in systems
    ]
    scored, _ = score_systems(by_talk[:2], [WER])
    results = measure(scored, None, baselines, DifferenceTest("recording", 10))
    assert untested(results, baselines) == [f"good: {why}"]
    published = measure(scored, None, dict.fromkeys(keys[:2], ("", "printed")), DifferenceTest(samples=10))
    assert untested(published, dict.fromkeys(keys[:2], ("", "printed"))) == [f"base: {why}", f"good: {why}"]
    assert untested(measure(scored, None, {}, DifferenceTest(samples=10)), dict.fromkeys(keys)) == []


def test_units_too_few_for_the_bootstrap_are_pointed_out():
    systems = [system("base", range(10)), system("good", ())]
    for item in systems:
        item.predictions = [dataclasses.replace(p, speaker=f"s{p.row % 4}") for p in item.predictions]
    scored, _ = score_systems(systems, [WER])
    baselines = {("", "base"): None, ("", "good"): ("", "base")}

    def said(how):
        return few_units(scored, measure(scored, None, baselines, how), how)

    (sentence,) = said(DifferenceTest("speaker", 10))
    assert sentence.startswith("fake test en: with 4 speakers, the bootstrap takes chance for a difference")
    assert said(DifferenceTest("speaker", 10, test="randomization")) == []
    assert said(DifferenceTest("utterance", 10)) == []


def test_figures_come_in_the_order_that_was_asked_for():
    scored, _ = score_systems([system("a", range(3))], [CER, WER])
    results = measure(scored, ["wer_macro", "wer", "cer"], {}, DifferenceTest(samples=10))
    assert [result.figure for result in results] == ["wer_macro", "wer", "cer"]
    assert [result.figure for result in measure(scored, None, {}, DifferenceTest(samples=10))] == ["cer", "wer"]
    assert all_figures(scored) == ["cer", "wer", "cer_macro", "wer_macro"]


def test_transcripts_that_come_with_several_translations_have_a_column_each():
    joint = [
        translated(row, task="asr+st", target_language=code, hypothesis_transcript="the dog barks")
        for code in ("de", "fr")
        for row in range(3)
    ]
    scored, _ = score_systems([System("a", joint, "", {}, "")], [WER, {"name": "bleu"}])
    columns = [(main, column[2]) for main, column in scored[0].sets]
    assert columns == [("wer", "en (to de)"), ("wer", "en (to fr)"), ("bleu", "en-de"), ("bleu", "en-fr")]


def test_two_metrics_of_one_figure():
    with pytest.raises(UserError, match=r"Two metrics give the figure 'wer', one of them .*'none'"):
        score_systems([system("a", ())], [WER, {"name": "wer", "normalizer": "none"}])


def test_a_metric_that_fails_for_one_system_is_noted():
    silent = System("silent", [predicted(row, reference_transcript="") for row in range(3)], "", {}, "")
    scored, notes = score_systems([system("a", ()), silent], [WER])
    assert list(scored[1].sets) == []
    assert notes[0].startswith("silent: wer is left out: fake test, en: wer ('en') has no utterance with a reference")
    with pytest.raises(UserError, match="has no utterance with a reference"):
        score_systems([silent], [WER])


class Slow(Metric):
    """Stands for a metric that takes minutes: it refuses to compute what is known."""

    scores = ("transcript",)
    kept = True
    figures = (Figure("slow", "points", True),)
    columns = ("score", "scored")

    def __init__(self, language, version=1):
        super().__init__(language)
        self.version = version

    def statistics(self, samples):
        assert all(not sample.reference for sample in samples), "this was known"
        return np.zeros((len(samples), 2))

    def scored(self, statistics):
        return statistics[:, 1] > 0

    def values(self, sums):
        return sums[..., :1] / sums[..., 1:]

    def signature(self):
        return f"slow|{self.version}"


def test_statistics_of_slow_metrics_come_from_the_predictions(monkeypatch):
    monkeypatch.setitem(METRICS._parts, "slow", Slow)
    monkeypatch.setattr("speechllm.evaluation.comparison.kept_statistics.SLOW", ("slow",))
    kept = [predicted(row, statistics={"slow": {"score": float(row), "scored": 1.0}}) for row in range(4)]
    kept.append(predicted(4, reference_transcript=""))
    entry = {
        "figure": "slow",
        "kind": "test set",
        "corpus": "fake",
        "split": "test",
        "task": "asr",
        "text": "transcript",
    }
    entry |= {"source_language": "en", "target_language": "en", "signature": "slow|1"}
    run = System("a", kept, "", {"scores": [entry]}, "")
    scored, _ = score_systems([run], [{"name": "slow"}])
    (result,) = measure(scored, None, {}, DifferenceTest(samples=10))
    assert (result.value, result.utterances) == (1.5, 4)
    for stale in ({"name": "slow", "version": 2}, {"name": "slow"}):
        if "version" not in stale:
            run = System("a", [dataclasses.replace(p, statistics={}) for p in kept], "", run.run, "")
        with pytest.raises(AssertionError, match="this was known"):
            score_systems([run], [stale])


SIGNATURE = "comet|model:Unbabel/wmt22-comet-da|weights:0"


def elsewhere(name, score, signature=SIGNATURE, **spec):
    """Return a run that was scored by COMET on a machine that has its checkpoint."""
    kept = {"comet": {"score": score, "scored": 1.0, "empty_source": 0.0}}
    entry = {
        "figure": "comet",
        "kind": "test set",
        "corpus": "fake",
        "split": "test",
        "task": "st",
        "text": "translation",
    }
    entry |= {"source_language": "en", "target_language": "de", "signature": signature}
    predictions = [translated(row, statistics=kept) for row in range(4)]
    return System(name, predictions, "", {"scores": [entry], "metrics": [{"name": "comet", **spec}, "bleu"]}, "")


@pytest.fixture
def no_checkpoint(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")


def test_comet_of_another_machine_is_taken_as_recorded(no_checkpoint):
    spec = {"name": "comet", "model": "/nowhere/model"}
    systems = [elsewhere("a", 0.8, model="/nowhere/model"), elsewhere("b", 0.7, model="/nowhere/model")]
    assert choose_metrics(systems)[0] == [spec, {"name": "bleu"}]
    scored, notes = score_systems(systems, [spec])
    baselines = {("", "a"): None, ("", "b"): ("", "a")}
    first, second = measure(scored, None, baselines, DifferenceTest(samples=50))
    assert (first.figure, first.value, first.signature, second.value) == ("comet", 80.0, SIGNATURE, pytest.approx(70.0))
    assert second.significant
    assert notes == []
    assert differing_signatures([first, second]) == []


def test_recorded_scores_without_a_source_are_pointed_out(no_checkpoint):
    systems = [elsewhere(name, 0.8, model="/nowhere/model") for name in "ab"]
    without = {"comet": {"score": 0.8, "scored": 1.0, "empty_source": 1.0}}
    changed = [dataclasses.replace(p, statistics=without) for p in systems[1].predictions[:3]]
    systems[1].predictions = [*changed, systems[1].predictions[3]]
    _, notes = score_systems(systems, [{"name": "comet", "model": "/nowhere/model"}])
    assert notes == ["b: comet en-de: 3 of 4 utterances were scored with an empty source."]


def test_scores_of_other_hypotheses_are_not_taken(no_checkpoint):
    spec = {"name": "comet", "model": "/nowhere/model"}
    systems = [elsewhere(name, 0.8, model="/nowhere/model") for name in "ab"]
    for system in systems:
        system.run["test_sets"] = describe_test_sets(system.predictions)
    systems[1].predictions[2] = dataclasses.replace(systems[1].predictions[2], hypothesis_translation="der Hund")
    scored, notes = score_systems(systems, [spec])
    assert [len(item.sets) for item in scored] == [1, 0]
    assert notes[0].startswith("b: comet is left out: ")


def test_comet_is_left_out_where_it_was_not_recorded(no_checkpoint):
    spec = {"name": "comet", "model": "/nowhere/model"}
    systems = [elsewhere("a", 0.8, model="/nowhere/model"), elsewhere("b", 0.7, model="/nowhere/other")]
    scored, notes = score_systems(systems, [spec])
    assert [len(item.sets) for item in scored] == [1, 0]
    assert notes[0].startswith("b: comet is left out: ")
    assert "/nowhere/model" in notes[0]
    systems[0].predictions[1] = dataclasses.replace(systems[0].predictions[1], statistics={})
    with pytest.raises(UserError):
        score_systems(systems, [spec])
    assert not can_build(spec, systems)
    assert can_build({"name": "bleu"}, systems)


def test_figures_that_were_not_computed_alike_are_pointed_out(no_checkpoint):
    spec = {"name": "comet", "model": "/nowhere/model"}
    systems = [
        elsewhere("a", 0.8, model="/nowhere/model"),
        elsewhere("b", 0.7, "comet|weights:1", model="/nowhere/model"),
    ]
    scored, _ = score_systems(systems, [spec])
    assert differing_signatures(measure(scored, None, {}, DifferenceTest(samples=9))) == [
        "comet was not computed alike, so that differences may be those of programs: "
        f"{SIGNATURE} (a); comet|weights:1 (b)"
    ]
