"""Time to the first token: from the audio on, of the first token alone, greedy and by beams."""

import time

import pytest
import torch

from speechllm.decoders.limits import FirstTokenClock
from speechllm.models import SpeechLLM
from tests.models.conftest import SPECS
from tests.tiny import make_batch, noise

STEP_S, ENCODER_S = 0.05, 0.1


def slow(module, seconds):
    """Let each call of a module take longer."""
    module.register_forward_pre_hook(lambda *_: time.sleep(seconds))


@pytest.mark.parametrize("num_beams", [1, 3])
def test_time_of_the_first_of_several_tokens(num_beams):
    torch.manual_seed(0)
    model = SpeechLLM(**SPECS, max_new_tokens=6, min_new_tokens=5)
    model.configure_model()
    model.eval()
    batch = make_batch(noise(8000, 4000))
    model.decode(batch, num_beams)  # what is built on first use counts for nobody
    slow(model.decoder.llm.base_model, STEP_S)
    slow(model.encoder, ENCODER_S)
    start_s = time.perf_counter()
    hypotheses = model.decode(batch, num_beams)
    whole_s = time.perf_counter() - start_s
    assert [hypothesis.tokens for hypothesis in hypotheses] == [6, 6]
    (first_s,) = {hypothesis.first_token_s for hypothesis in hypotheses}
    assert ENCODER_S + STEP_S <= first_s < whole_s - 4 * STEP_S


def test_utterances_without_audio_have_none():
    model = SpeechLLM(**SPECS, max_new_tokens=3)
    model.configure_model()
    batch = make_batch([*noise(8000), torch.zeros(0)])
    read, unread = model.eval().decode(batch, 1)
    assert read.first_token_s > 0
    assert unread.first_token_s == 0


def test_the_clock_stops_once():
    clock = FirstTokenClock()
    assert clock.first_token_s == 0
    clock.chosen(torch.zeros(6, dtype=torch.int64))
    first_s = clock.first_token_s
    time.sleep(0.01)
    clock.chosen(torch.zeros(6, 3, dtype=torch.int64))
    assert clock.first_token_s == first_s > 0
