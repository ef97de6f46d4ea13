"""The contract that every registered metric keeps."""

import pytest

import speechllm.metrics  # noqa: F401 (registers the metrics)
from speechllm.errors import UserError
from speechllm.metrics.base import Metric
from speechllm.registry import METRICS

PAIRS = [("the cat sat on the mat", "the cat sat on a mat"), ("a small dog barks at me", "a small dog barks at us")]


@pytest.fixture(params=METRICS.names())
def metric(request):
    return METRICS.build({"name": request.param}, language="en")


def test_there_are_metrics():
    assert {"bleu", "cer", "chrf", "wer"} <= set(METRICS.names())


def test_declares_what_it_scores(metric):
    assert isinstance(metric, Metric)
    assert metric.scores in ("transcript", "translation")
    assert isinstance(metric.higher_is_better, bool)


def test_a_perfect_hypothesis_has_the_best_figure(metric):
    for _, reference in PAIRS:
        metric.update(reference, reference)
    assert metric.compute() == pytest.approx(100 if metric.higher_is_better else 0)


def test_a_worse_hypothesis_has_a_worse_figure(metric):
    figures = []
    for hypotheses in ([reference for _, reference in PAIRS], [hypothesis for hypothesis, _ in PAIRS], ["zzz", "qqq"]):
        metric.reset()
        for hypothesis, (_, reference) in zip(hypotheses, PAIRS, strict=True):
            metric.update(hypothesis, reference)
        figures.append(metric.compute())
    assert figures == sorted(figures, reverse=metric.higher_is_better)
    assert len(set(figures)) == 3


def test_is_pooled_so_the_order_does_not_matter(metric):
    pairs = [*PAIRS, ("short", "a much longer reference than its hypothesis")]
    figures = []
    for order in (pairs, pairs[::-1]):
        metric.reset()
        for pair in order:
            metric.update(*pair)
        figures.append(metric.compute())
    assert figures[0] == pytest.approx(figures[1], rel=1e-12)


def test_computing_twice_changes_nothing_and_updates_go_on(metric):
    metric.update(*PAIRS[0])
    first = metric.compute()
    assert (metric.compute(), metric.count) == (first, 1)
    metric.update("zzz", PAIRS[1][1])
    assert (metric.count, metric.compute() == first) == (2, False)


def test_reset_forgets_everything(metric):
    metric.update(*PAIRS[0])
    first = metric.compute(), metric.signature()
    metric.update("zzz", PAIRS[1][1])
    metric.reset()
    assert metric.count == 0
    metric.update(*PAIRS[0])
    assert (metric.compute(), metric.signature()) == first


def test_no_utterance_is_an_error(metric):
    with pytest.raises(UserError, match="has no utterance with a reference to score"):
        metric.compute()


def test_signature_is_one_word(metric):
    metric.update(*PAIRS[0])
    assert metric.signature()
    assert " " not in metric.signature()


def test_unknown_language():
    with pytest.raises(UserError, match="Unknown language 'xx'"):
        METRICS.build({"name": "wer"}, language="xx")
