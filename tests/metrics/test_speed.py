"""Figures of speed, by hand-worked times."""

import math

import pytest

from speechllm.metrics.base import Sample
from speechllm.metrics.speed import Speed

TIMED = [
    Sample("", "", duration_s=3.0, decode_s=0.5, first_token_s=0.1, tokens=6),
    Sample("", "", duration_s=1.0, decode_s=1.5, first_token_s=0.3, tokens=2),
]


def test_worked_by_hand():
    assert Speed("en").score(TIMED) == pytest.approx(
        {
            "real_time_factor": 0.5,
            "tokens_per_second": 4.0,
            "utterances_per_second": 1.0,
            "time_to_first_token_s": 0.2,
        }
    )


def test_what_was_not_measured_has_no_part():
    """The audio of an utterance without a time would make the others look faster."""
    other = Sample("", "", duration_s=100.0, tokens=50)
    assert Speed("en").score([*TIMED, other]) == pytest.approx(Speed("en").score(TIMED))
    untimed = Sample("", "", duration_s=2.0, decode_s=1.0, tokens=2)
    assert Speed("en").score([*TIMED, untimed])["time_to_first_token_s"] == pytest.approx(0.2)


def test_nothing_measured_is_no_error():
    values = Speed("en").score([Sample("a", "a", duration_s=2.0)])
    assert all(math.isnan(value) for value in values.values())


def test_unreadable_audio_counts_with_the_time_that_it_took():
    values = Speed("en").score([*TIMED, Sample("", "", decode_s=2.0)])
    assert values["real_time_factor"] == 1.0
