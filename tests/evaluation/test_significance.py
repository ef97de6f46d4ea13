"""Paired tests: calibrated under the null, powerful on planted differences, and in line with sacreBLEU's own."""

import numpy as np
import pytest
from sacrebleu.metrics import BLEU
from sacrebleu.significance import PairedTest

from speechllm.errors import UserError
from speechllm.evaluation.scoring import ScoredSet
from speechllm.evaluation.significance import compare, confidence_intervals, intervals_of_metrics, resampling_units
from speechllm.evaluation.test_sets import TestSet
from speechllm.metrics.base import Sample
from speechllm.metrics.bleu import Bleu
from speechllm.metrics.error_rate import WordErrorRate
from tests.evaluation.predicted import predicted

WORDS = np.array("a the cat dog sat ran on under mat rug red blue big small fast slow now then here there".split())


def scored(metric, statistics):
    statistics = np.asarray(statistics, dtype=np.float64)
    test_set = TestSet("fake", "test", "asr", "en", "en", "transcript")
    return ScoredSet(test_set, metric, np.arange(len(statistics)), statistics)


def word_errors(generator, utterances, rate, words=None):
    """Statistics of a system that gets each word wrong with a probability of its own for the utterance."""
    words = generator.integers(5, 25, utterances) if words is None else words
    difficulty = generator.beta(1, 1 / rate - 1, utterances)
    errors = generator.binomial(words, difficulty)
    zeros, ones = np.zeros(utterances), np.ones(utterances)
    return np.stack([errors, zeros, zeros, words, errors / words, ones], axis=1), words


def trial(generator, metric, utterances, rate, samples, seed):
    """Compare a system of 15 % with another on the same sentences, by the pooled rate."""
    left, words = word_errors(generator, utterances, 0.15)
    right, _ = word_errors(generator, utterances, rate, words)
    return compare(scored(metric, left), scored(metric, right), samples=samples, seed=seed)[0]


def test_type_one_error():
    """Two systems that are equally good are called different in about 5 of 100 test sets."""
    generator = np.random.default_rng(0)
    metric = WordErrorRate("en")
    found = [trial(generator, metric, 400, 0.15, samples=1000, seed=seed) for seed in range(200)]
    bootstrap, randomization = np.mean([(one.p_bootstrap < 0.05, one.p_randomization < 0.05) for one in found], axis=0)
    assert 0.03 <= bootstrap <= 0.08
    assert 0.03 <= randomization <= 0.08


def test_power():
    """15 % against 20 % on 1,000 utterances is found nearly always, and its interval leaves out zero."""
    generator = np.random.default_rng(1)
    metric = WordErrorRate("en")
    found = []
    for seed in range(20):
        pooled = trial(generator, metric, 1000, 0.20, samples=500, seed=seed)
        assert pooled.difference == pytest.approx(pooled.system - pooled.baseline)
        found.append((pooled.p_bootstrap < 0.05, pooled.p_randomization < 0.05, pooled.low > 0))
    assert (np.mean(found, axis=0) >= 0.9).all()


def test_intervals_cover():
    """A 95 % interval holds the true rate in about 95 of 100 test sets."""
    generator = np.random.default_rng(2)
    metric = WordErrorRate("en")
    covered = []
    for trial in range(200):
        statistics, _ = word_errors(generator, 300, 0.2)
        low, high = confidence_intervals(scored(metric, statistics), samples=300, seed=trial)[0]
        covered.append(low <= 20 <= high)
    assert 0.9 <= np.mean(covered) <= 0.985


def test_utterances_of_one_speaker_are_not_independent():
    """Where speakers differ much, the interval over speakers is the wider and the honest one."""
    generator = np.random.default_rng(3)
    metric = WordErrorRate("en")
    covered = {"utterance": [], "speaker": []}
    for trial in range(100):
        rates = np.repeat(generator.beta(2, 8, 30), 20)
        words = np.full(600, 10)
        errors = generator.binomial(words, rates)
        columns = [errors, 0 * errors, 0 * errors, words, errors / words, 0 * errors + 1]
        item = scored(metric, np.stack(columns, axis=1))
        speakers = [f"speaker {row // 20}" for row in range(600)]
        for by, units in (("utterance", None), ("speaker", speakers)):
            low, high = confidence_intervals(item, units, samples=300, seed=trial)[0]
            covered[by].append(low <= 20 <= high)
    assert np.mean(covered["speaker"]) > 0.88
    assert np.mean(covered["utterance"]) < 0.75


def sentences(generator, count):
    return [" ".join(generator.choice(WORDS, generator.integers(6, 15))) for _ in range(count)]


def damaged(generator, lines, rate):
    return [
        " ".join(word if generator.random() > rate else generator.choice(WORDS) for word in line.split())
        for line in lines
    ]


@pytest.mark.parametrize(("rate", "expected"), [(0.32, "not"), (0.42, "significant")])
def test_agrees_with_sacrebleu(rate, expected):
    """The same p-values as its own tests, up to the draws."""
    generator = np.random.default_rng(4)
    references = sentences(generator, 150)
    left, right = damaged(generator, references, 0.3), damaged(generator, references, rate)
    theirs = {}
    for test in ("bs", "ar"):
        systems = [("left", left), ("right", right)]
        _, answer = PairedTest(
            systems, {"BLEU": BLEU(references=[references])}, references=None, test_type=test, n_samples=2000
        )()
        theirs[test] = answer["BLEU"][1]
    metric = Bleu("en")
    ours = [
        metric.statistics([Sample(*texts) for texts in zip(lines, references, strict=True)]) for lines in (left, right)
    ]
    (found,) = compare(scored(metric, ours[0]), scored(metric, ours[1]), samples=2000)
    assert found.system == pytest.approx(theirs["bs"].score)
    assert found.p_bootstrap == pytest.approx(theirs["bs"].p_value, abs=0.04)
    assert found.p_randomization == pytest.approx(theirs["ar"].p_value, abs=0.04)
    assert (found.p_bootstrap < 0.05) == (expected == "significant")


def test_a_system_does_not_differ_from_itself():
    metric = WordErrorRate("en")
    statistics, _ = word_errors(np.random.default_rng(5), 50, 0.2)
    for found in compare(scored(metric, statistics), scored(metric, statistics), samples=200):
        assert (found.difference, found.low, found.high) == pytest.approx((0, 0, 0), abs=1e-9)
        assert (found.p_bootstrap, found.p_randomization) == (1, 1)


def test_the_same_draws_give_the_same_answer():
    metric = WordErrorRate("en")
    generator = np.random.default_rng(6)
    left, words = word_errors(generator, 80, 0.2)
    right, _ = word_errors(generator, 80, 0.2, words)
    pair = scored(metric, left), scored(metric, right)
    assert compare(*pair, seed=1) == compare(*pair, seed=1)
    assert compare(*pair, seed=1) != compare(*pair, seed=2)


def test_metrics_of_one_test_set_share_the_draws():
    generator = np.random.default_rng(8)
    pair = [scored(WordErrorRate("en"), word_errors(generator, 60, rate)[0]) for rate in (0.1, 0.4)]
    units = [f"speaker {row % 12}" for row in range(60)]
    together = intervals_of_metrics(pair, units, samples=200)
    np.testing.assert_allclose(together, [confidence_intervals(item, units, samples=200) for item in pair])
    assert together[0][0][1] < together[1][0][0]


def test_large_sets_are_drawn_in_chunks(monkeypatch):
    metric = WordErrorRate("en")
    statistics, _ = word_errors(np.random.default_rng(7), 100, 0.2)
    whole = confidence_intervals(scored(metric, statistics), samples=500)
    monkeypatch.setattr("speechllm.evaluation.significance.CHUNK_NUMBERS", 1000)
    np.testing.assert_allclose(confidence_intervals(scored(metric, statistics), samples=500), whole)


def test_different_numbers_of_utterances():
    metric = WordErrorRate("en")
    with pytest.raises(ValueError, match=r"\(3, 6\), the system \(2, 6\)"):
        compare(scored(metric, np.ones((3, 6))), scored(metric, np.ones((2, 6))))


def test_units():
    predictions = [predicted(row, speaker=f"s{row % 2}", recording=f"talk{row // 2}.wav") for row in range(4)]
    assert resampling_units(predictions, [1, 3]) == ["1", "3"]
    assert resampling_units(predictions, [0, 1, 2], "speaker") == ["s0", "s1", "s0"]
    assert resampling_units(predictions, [1, 2], "recording") == ["talk0.wav", "talk1.wav"]
    with pytest.raises(UserError, match=r"Unknown unit 'speakers'.*Did you mean 'speaker'"):
        resampling_units(predictions, [0], "speakers")
    with pytest.raises(UserError, match="'u0' has no speaker"):
        resampling_units([predicted(0, speaker="")], [0], "speaker")


def test_a_single_unit_says_nothing_about_others():
    metric = WordErrorRate("en")
    statistics, words = word_errors(np.random.default_rng(8), 30, 0.3)
    better = np.stack([np.zeros(30), np.zeros(30), np.zeros(30), words, np.zeros(30), np.ones(30)], axis=1)
    one_talk = ["talk"] * 30
    assert np.isnan(confidence_intervals(scored(metric, statistics), one_talk)).all()
    (found, _) = compare(scored(metric, statistics), scored(metric, better), one_talk)
    assert found.difference < -10
    assert np.isnan([found.low, found.high, found.p_bootstrap, found.p_randomization]).all()


def test_units_without_a_figure_are_no_units():
    metric = WordErrorRate("en")
    statistics = np.array([[1, 0, 0, 4, 0.25, 1], [0, 0, 0, 0, 0, 0]])
    assert np.isnan(confidence_intervals(scored(metric, statistics))).all()
