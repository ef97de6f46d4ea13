"""Decoding many utterances: batches by duration against one utterance at a time with the encoder padded to 30 s."""

import time
from dataclasses import dataclass

import pytest
import torch

from speechllm.batch import SAMPLE_RATE
from speechllm.models import SpeechLLM
from speechllm.models.inference import Request, answer
from tests.tiny import make_batch

pytestmark = pytest.mark.speed

DURATIONS_S = (3.1, 4.0, 4.6, 5.2, 5.8, 6.3, 7.0, 8.4)
EACH = 8
VOCABULARY = 32_000
ROUNDS = 2
BATCH_SECONDS = 250
ENCODER = {
    "d_model": 384,
    "encoder_layers": 4,
    "encoder_attention_heads": 6,
    "encoder_ffn_dim": 1536,
    "num_mel_bins": 80,
    "init_std": 0.07,
}
LLM = {
    "model_type": "llama",
    "hidden_size": 512,
    "intermediate_size": 1376,
    "num_hidden_layers": 6,
    "num_attention_heads": 8,
    "num_key_value_heads": 8,
    "initializer_range": 0.05,
}
"""Standard deviations that let an answer of random weights depend on its audio."""


@pytest.fixture
def tokenizer(tmp_path):
    """Write a tokenizer of bytes and of pieces that no text has, 32,000 in all."""
    from tokenizers import AddedToken

    from speechllm.decoders.tokenizer import load_tokenizer

    made = load_tokenizer("bytes").backend_tokenizer
    made.add_tokens([AddedToken(f"⟨{number}⟩") for number in range(VOCABULARY - made.get_vocab_size())])
    path = tmp_path / "tokenizer.json"
    made.save(str(path))
    return str(path)


def build(tokenizer, **encoder):
    """Return a model of random weights, the same ones at each call."""
    torch.manual_seed(0)
    model = SpeechLLM(
        encoder={"name": "whisper", "config": ENCODER, **encoder},
        adapter={"name": "projector"},
        decoder={"name": "causal_lm", "config": LLM, "tokenizer": tokenizer},
    )
    model.configure_model()
    model.trained_on = {("asr", "en", "en")}
    return model.eval()


def make_clips():
    """Return the 64 clips, in an order that mixes durations."""
    clips = []
    for number in range(EACH):
        for duration_s in DURATIONS_S:
            time_s = torch.arange(round(duration_s * SAMPLE_RATE)) / SAMPLE_RATE
            noise = torch.randn(len(time_s), generator=torch.Generator().manual_seed(len(clips)))
            tone = (2 * torch.pi * (120 + 17 * len(clips) + 150 * time_s) * time_s).sin()
            clips.append(0.2 * tone * (number + 2 + time_s).cos() + 0.05 * noise)
    return clips


class StockLimit:
    """The same limit of new tokens, as a logits processor of transformers."""

    def __init__(self, limit, end_id):
        self.limit, self.end_id = limit, end_id

    def __call__(self, input_ids, scores):
        if input_ids.shape[1] + 1 >= self.limit:
            scores = torch.full_like(scores, float("-inf"))
            scores[:, self.end_id] = 0
        return scores


@torch.inference_mode()
def stock(model, clips):
    """Decode one clip after the other by transformers' `generate`; return the number of new tokens of each."""
    counts = []
    for clip in clips:
        batch = make_batch([clip])
        batch.tasks = ["asr"]
        decoder, speech = model.decoder, model.speech(batch)
        joined = decoder._join([decoder.prompt.around("asr", "en", "en")], speech, [[]], "left")
        limit = model_limit(model, batch)
        output = decoder.llm.generate(
            inputs_embeds=joined.embeds,
            attention_mask=joined.mask.long(),
            do_sample=False,
            max_new_tokens=limit,
            logits_processor=[StockLimit(limit, decoder.prompt.end_id)],
        )
        counts.append(output.shape[1])
    return counts


def model_limit(model, batch):
    from speechllm.decoders.base import Decoding

    decoding = Decoding(tokens_per_second=model.tokens_per_second, extra_tokens=model.extra_tokens)
    return decoding.limit(batch.durations_s[0], "asr")


def batched(model, clips):
    return answer(model, clips, Request("asr", "en", None, None, BATCH_SECONDS))


@dataclass
class Pace:
    """How fast a way of decoding was."""

    seconds: float
    audio_s: float
    tokens: int

    def __str__(self):
        return (
            f"{self.seconds:.1f} s: {self.audio_s / self.seconds:.1f} times real time, "
            f"{self.tokens / self.seconds:.0f} tokens/s"
        )


def timed(work):
    start_s = time.perf_counter()
    result = work()
    return time.perf_counter() - start_s, result


def test_batches_by_duration_are_three_times_as_fast(tokenizer):
    """64 utterances together, by the clock, against single ones of the same durations, weights and limits.

    The loop pads the encoder's input to 30 s and cuts the frames to the speech, which is its cheaper way. It decodes a
    quarter of the utterances, as many of each duration; its throughput would be the same for all. The best round of
    each counts.
    """
    model, padded = build(tokenizer), build(tokenizer, pad_to_30s=True, trim_to_speech=True)
    pairs = zip(model.state_dict().values(), padded.state_dict().values(), strict=True)
    assert all(torch.equal(*pair) for pair in pairs)
    clips = make_clips()
    stock(padded, clips[:1])  # what is built on first use counts for nobody
    batched(model, clips[:2])
    loops, batches = [], []
    for number in range(ROUNDS):
        some = clips[len(DURATIONS_S) * number : len(DURATIONS_S) * (number + 1)]
        seconds, counts = timed(lambda some=some: stock(padded, some))
        loops.append(Pace(seconds, sum(map(len, some)) / SAMPLE_RATE, sum(counts)))
        seconds, hypotheses = timed(lambda: batched(model, clips))
        tokens = sum(hypothesis.tokens for hypothesis in hypotheses)
        batches.append(Pace(seconds, sum(map(len, clips)) / SAMPLE_RATE, tokens))
    loop = max(pace.audio_s / pace.seconds for pace in loops)
    together = max(pace.audio_s / pace.seconds for pace in batches)
    for pace in loops:
        print(f"\none by one, padded to 30 s: {pace}", end="")
    for pace in batches:
        print(f"\n64 by duration: {pace}", end="")
    print(f"\n{together / loop:.1f} times the throughput")
    assert together >= 3 * loop


def test_answers_are_those_of_single_utterances_without_padding(tokenizer):
    """Padding to 30 s changes the frames, so that no weights give that path and this one the same answers."""
    model, clips = build(tokenizer), make_clips()
    together = batched(model, clips)
    assert len({hypothesis.text for hypothesis in together}) > 32, "one text for all would prove nothing"
    assert together == [batched(model, [clip])[0] for clip in clips]
