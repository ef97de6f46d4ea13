"""The contract that every registered metric keeps."""

import dataclasses

import numpy as np
import pytest

import speechllm.metrics  # noqa: F401 (registers the metrics)
from speechllm.errors import UserError
from speechllm.metrics.base import Metric, Sample
from speechllm.registry import METRICS
from tests.metrics.comet_twin import score_distance, write_comet

REFERENCES = ["the cat sat on a mat", "a small dog barks at us", "", "yes"]
HYPOTHESES = ["the cat sat on the mat", "a small dog barks at me", "oh", ""]
COMPARING = [name for name in METRICS.names() if METRICS.get(name).compares]
UNITS = ("%", "points", "s", "/s", "ratio")


def samples(hypotheses=HYPOTHESES):
    spoken = {"source": "la", "duration_s": 2.0, "decode_s": 0.5, "first_token_s": 0.1, "tokens": 6}
    return [Sample(*texts, **spoken) for texts in zip(hypotheses, REFERENCES, strict=True)]


@pytest.fixture(scope="module")
def comet(tmp_path_factory):
    return {"model": str(write_comet(tmp_path_factory.mktemp("comet"), score_distance))}


@pytest.fixture(params=METRICS.names())
def metric(request):
    """Each metric with its defaults; COMET with a checkpoint whose score says how far two texts are from each other."""
    options = request.getfixturevalue("comet") if request.param == "comet" else {}
    return METRICS.build({"name": request.param, **options}, language="en")


def test_there_are_metrics():
    assert {"bleu", "cer", "chrf", "health", "mer", "speed", "wer"} <= set(METRICS.names())


def test_declares_what_it_scores(metric):
    assert isinstance(metric, Metric)
    assert metric.scores
    assert set(metric.scores) <= {"transcript", "translation", "answer"}
    names = [figure.name for figure in metric.figures]
    assert len(set(names)) == len(names) > 0
    assert {figure.unit for figure in metric.figures} <= set(UNITS)
    assert len(set(metric.columns)) == len(metric.columns)


def test_shapes(metric):
    statistics = metric.statistics(samples())
    assert statistics.shape == (4, len(metric.columns))
    assert statistics.dtype == np.float64
    assert np.isfinite(statistics).all()
    assert metric.values(statistics).shape == (4, len(metric.figures))
    assert metric.values(statistics.sum(axis=0)).shape == (len(metric.figures),)
    assert metric.statistics([]).shape == (0, len(metric.columns))


def test_an_utterance_scores_the_same_in_every_company(metric):
    whole = metric.statistics(samples())
    alone = np.concatenate([metric.statistics([sample]) for sample in samples()])
    np.testing.assert_allclose(whole, alone, atol=1e-6)


def test_figures_come_from_sums(metric):
    """What is resampled is what is printed."""
    statistics = metric.statistics(samples())
    expected = dict(zip((figure.name for figure in metric.figures), metric.values(statistics.sum(axis=0)), strict=True))
    assert metric.score(samples()) == pytest.approx(expected, nan_ok=True)


def test_what_has_no_figure_adds_nothing(metric):
    statistics = metric.statistics(samples())
    assert not statistics[~metric.scored(statistics)].any()


@pytest.mark.parametrize("metric", COMPARING, indirect=True)
def test_a_better_hypothesis_has_a_better_main_figure(metric):
    figure = metric.figures[0]
    assert figure.higher_is_better is not None
    figures = []
    for hypotheses in (REFERENCES, [HYPOTHESES[0], *REFERENCES[1:]], ["zzz", "qqq", "", "hm"]):
        scored = [sample for sample in samples(hypotheses) if sample.reference]
        figures.append(metric.score(scored)[figure.name])
    assert figures == sorted(figures, reverse=figure.higher_is_better)
    assert len(set(figures)) == 3


def test_the_order_of_utterances_does_not_matter(metric):
    expected = metric.score(samples())
    assert metric.score(samples()[::-1]) == pytest.approx(expected, rel=1e-12, nan_ok=True)


def test_nothing_to_score_is_an_error(metric):
    with pytest.raises(UserError, match="has no utterance"):
        metric.score([])


def test_signature_is_one_word(metric):
    assert metric.signature()
    assert " " not in metric.signature()


def test_unknown_language():
    with pytest.raises(UserError, match="Unknown language 'xx'"):
        METRICS.build({"name": "wer"}, language="xx")


def test_samples_are_not_changed():
    with pytest.raises(dataclasses.FrozenInstanceError):
        samples()[0].hypothesis = "x"
