"""Metrics as users name them."""

import pytest

from speechllm.errors import UserError
from speechllm.evaluation.metric_specs import metric_specs

WHISPER = {"name": "wer", "normalizer": "whisper"}


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("wer", [{"name": "wer"}]),
        ("wer, cer,wer", [{"name": "wer"}, {"name": "cer"}]),
        ("{name: wer, normalizer: whisper}", [WHISPER]),
        ("[cer, {name: wer, normalizer: whisper}]", [{"name": "cer"}, WHISPER]),
        (["wer", WHISPER, "wer"], [{"name": "wer"}, WHISPER]),
        ([], []),
    ],
)
def test_names_and_specs(given, expected):
    assert metric_specs(given) == expected


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("werr", "Unknown metric 'werr'. Did you mean 'wer'?"),
        ("wer cer", "Unknown metric 'wer cer'"),
        ("[wer, {name: wer, normaliser: whisper}]", "does not take 'normaliser'"),
        ("[wer", r"given as 'wer,cer' or .*, but not as '\[wer'. Registered: .*wer"),
        ("[1]", r"not as '\[1\]'"),
    ],
)
def test_what_is_no_metric(given, message):
    with pytest.raises(UserError, match=message):
        metric_specs(given)
