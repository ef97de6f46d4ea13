"""The contract of every registered encoder."""

import pytest
import torch

import speechllm.encoders  # noqa: F401
from speechllm.errors import UserError
from speechllm.registry import ENCODERS
from speechllm.tuning import TUNING_MODES
from tests.tiny import noise, tiny_encoder

NAMES = ENCODERS.names()
OWN_WEIGHTS = [name for name in NAMES if "tuning" in ENCODERS.options(name)]
"""Encoders that are loaded and tuned as one; `parallel` leaves that to the two inside it."""


def test_some_are_registered():
    assert "whisper" in NAMES


@pytest.mark.parametrize("name", NAMES)
def test_output_lengths_are_those_of_the_frames(name):
    encoder = tiny_encoder(name)
    lengths = [max(encoder.min_samples, n) for n in range(400, 30_000, 997)]
    assert len(lengths) >= 30
    with torch.no_grad():
        for n in lengths:
            frames = encoder(*noise(n)[0][None, None], torch.tensor([n]))
            expected = encoder.output_lengths(torch.tensor([n]))
            assert frames.values.shape == (1, int(expected), encoder.dim)
            assert frames.lengths.tolist() == expected.tolist()


@pytest.mark.parametrize("name", NAMES)
def test_frame_rate(name):
    encoder = tiny_encoder(name)
    ten_s = encoder.output_lengths(torch.tensor([160_000]))
    assert abs(float(ten_s) - 10 * encoder.frame_rate) <= 1


@pytest.mark.parametrize("tuning", TUNING_MODES)
@pytest.mark.parametrize("name", OWN_WEIGHTS)
def test_tuning(name, tuning):
    """Frozen encoders give frames without gradient and stay in evaluation mode; others train what they say."""
    encoder = tiny_encoder(name, tuning=tuning)
    encoder.train()
    frames = encoder(noise(8000)[0][None], torch.tensor([8000]))
    assert frames.values.requires_grad == (tuning != "frozen")
    assert encoder.training == (tuning != "frozen")
    trained = {key for key, p in encoder.named_parameters() if p.requires_grad}
    if tuning == "frozen":
        assert trained == set()
    else:
        frames.values.square().sum().backward()
        assert trained
        assert {key for key, p in encoder.named_parameters() if p.grad is not None} == trained


@pytest.mark.parametrize("name", OWN_WEIGHTS)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_dtype(name, dtype):
    encoder = tiny_encoder(name, dtype=dtype)
    frames = encoder(noise(8000)[0][None], torch.tensor([8000]))
    assert frames.values.dtype == getattr(torch, dtype)
    assert frames.values.isfinite().all()


@pytest.mark.parametrize("name", NAMES)
def test_state_dict_round_trip(name):
    first, second = tiny_encoder(name), tiny_encoder(name)
    second.load_state_dict(first.state_dict())
    clip = noise(8000)[0][None]
    lengths = torch.tensor([8000])
    assert torch.equal(first(clip, lengths).values, second(clip, lengths).values)


@pytest.mark.parametrize("name", NAMES)
def test_too_short_is_an_error_that_names_the_utterance(name):
    encoder = tiny_encoder(name)
    with pytest.raises(UserError, match=r"Utterance 'talk-7' has 0 samples; this encoder needs at least"):
        encoder.check_durations(torch.tensor([16_000, 0]), ["talk-1", "talk-7"])


@pytest.mark.parametrize("name", OWN_WEIGHTS)
@pytest.mark.parametrize(
    ("options", "message"),
    [({"tuning": "frosen"}, "Did you mean 'frozen'"), ({"dtype": "bf16"}, "Unknown dtype 'bf16'")],
)
def test_wrong_options(name, options, message):
    with pytest.raises(UserError, match=message):
        tiny_encoder(name, **options)
