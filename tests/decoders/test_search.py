"""Our search against transformers' own, and what it saves: prompts read once, finished utterances gone."""

from dataclasses import replace

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from speechllm.batch import AdapterOutput
from speechllm.decoders import search
from speechllm.decoders.base import Decoding
from speechllm.decoders.cached_llm import CachedLLM
from speechllm.decoders.limits import cut_at_end
from tests.tiny import LLM_FAMILIES, make_batch, noise, tiny_decoder

LENGTHS = [5, 9, 2, 14, 3]


@pytest.fixture
def speech():
    return AdapterOutput(torch.randn(5, 14, 16), torch.tensor(LENGTHS))


@pytest.fixture
def batch():
    return make_batch(noise(8000, 16_000, 4000, 12_000, 9000))


def likely_ends(decoder):
    """Let answers end here and there before their limits, as those of a trained model do."""
    for parameter in decoder.llm.parameters():
        if parameter.dim() > 1:
            parameter.data *= 15  # so that a state depends on what came before it
    head = torch.nn.Linear(16, 262)
    torch.nn.init.normal_(head.weight, std=0.6)
    head.bias.data.zero_()
    head.bias.data[decoder.prompt.end_id] = 2.0
    name = "embed_out" if hasattr(decoder.llm, "embed_out") else "lm_head"
    setattr(decoder.llm, name, head)
    return decoder


class ReferenceLimit:
    """Bounds of new tokens as a logits processor of transformers."""

    def __init__(self, limits, num_beams, end_id):
        self.limits, self.end_id = torch.tensor(limits).repeat_interleave(num_beams), end_id

    def __call__(self, input_ids, scores):
        forced = torch.full_like(scores, float("-inf"))
        forced[:, self.end_id] = 0
        return torch.where((input_ids.shape[1] + 1 >= self.limits)[:, None], forced, scores)


def reference(decoder, speech, batch, decoding):
    """Return what transformers' `generate` answers, from the whole prompts of all beams."""
    rows = zip(batch.tasks, batch.source_languages, batch.target_languages, strict=True)
    around = [decoder.prompt.around(*row) for row in rows]
    joined = decoder._join(around, speech, [[] for _ in around], "left")
    limits = [decoding.limit(*pair) for pair in zip(batch.durations_s, batch.tasks, strict=True)]
    output = decoder.llm.generate(
        inputs_embeds=joined.embeds,
        attention_mask=joined.mask.long(),
        num_beams=decoding.num_beams,
        do_sample=False,
        max_new_tokens=max(limits),
        logits_processor=[ReferenceLimit(limits, decoding.num_beams, decoder.prompt.end_id)],
    )
    cut = [cut_at_end(ids, decoder.end_ids) for ids in output.tolist()]
    return [(decoder.tokenizer.decode(ids), tokens) for ids, tokens in cut]


def texts(hypotheses):
    return [(hypothesis.text, hypothesis.tokens) for hypothesis in hypotheses]


@pytest.mark.parametrize("num_beams", [1, 2, 4])
@pytest.mark.parametrize("family", LLM_FAMILIES)
def test_as_transformers_searches(family, num_beams, speech, batch):
    decoder = likely_ends(tiny_decoder(family))
    decoding = Decoding(num_beams, tokens_per_second=20, extra_tokens=6)
    expected = reference(decoder, speech, batch, decoding)
    assert texts(decoder.generate(speech, batch, decoding)) == expected
    assert len({tokens for _, tokens in expected}) > 1, "answers of one length would prove little"


@pytest.mark.parametrize("num_beams", [1, 3])
def test_each_prompt_is_read_once_and_what_is_finished_leaves(num_beams, speech, batch, monkeypatch):
    decoder = likely_ends(tiny_decoder())
    decoding = Decoding(num_beams, tokens_per_second=20, extra_tokens=6)
    shapes = []
    decoder.llm.base_model.register_forward_hook(
        lambda module, inputs, output: shapes.append(tuple(output.last_hidden_state.shape[:2]))
    )
    hypotheses = decoder.generate(speech, batch, decoding)
    assert shapes[0][0] == 5
    assert shapes[0][1] > max(LENGTHS)
    steps = [rows for rows, length in shapes[1:] if length == 1]
    assert len(steps) == len(shapes) - 1 < max(hypothesis.tokens for hypothesis in hypotheses) + 20
    assert steps[0] <= 5 * num_beams
    assert steps[-1] < 5 * num_beams
    assert steps == sorted(steps, reverse=True)
    if num_beams == 1:
        going_on = [sum(h.tokens > count + 1 for h in hypotheses) for count in range(len(steps))]
        assert steps == going_on
    shapes.clear()
    monkeypatch.setattr(search, "KEPT_SHARE", 0)  # nobody leaves: the same answers
    assert texts(decoder.generate(speech, batch, decoding)) == texts(hypotheses)
    assert {rows for rows, length in shapes[1:]} == {5 * num_beams}


def two_targets(batch, speech):
    """Return each utterance twice, once for each task, the two of different instructions."""
    rows = [0, 1, 0, 2, 1, 3, 4]
    asked = batch.select(rows)
    asked.tasks = ["asr", "st", "st", "asr+st", "asr", "st", "asr"]
    asked.audio_of = [rows.index(row) for row in rows]
    return asked, speech.select(rows)


@pytest.mark.parametrize("num_beams", [1, 3])
@pytest.mark.parametrize("family", LLM_FAMILIES)
def test_speech_is_read_once_for_several_targets(family, num_beams, speech, batch):
    decoder = likely_ends(tiny_decoder(family, prompt={"template": "<a>{speech}</a> {instruction}: "}))
    asked, repeated = two_targets(batch, speech)
    decoding = Decoding(num_beams, tokens_per_second=20, extra_tokens=6)
    rows = []
    decoder.llm.base_model.register_forward_hook(
        lambda module, inputs, output: rows.append(output.last_hidden_state.shape[0])
    )
    together = texts(decoder.generate(repeated, asked, decoding))
    windowed = family in ("mistral", "gemma2")
    assert rows[:2] == ([7, rows[1]] if windowed else [5, 7])
    apart = replace(asked, audio_of=list(range(7)))
    assert texts(decoder.generate(repeated, apart, decoding)) == together
    assert len(set(together)) > 2, "one answer for all would prove nothing"


@pytest.mark.parametrize("family", LLM_FAMILIES)
def test_a_static_cache_answers_the_same(family, speech, batch):
    decoder = likely_ends(tiny_decoder(family))
    decoding = Decoding(tokens_per_second=20, extra_tokens=6)
    dynamic = texts(decoder.generate(speech, batch, decoding))
    assert texts(decoder.generate(speech, batch, replace(decoding, kv_cache="static"))) == dynamic


@pytest.mark.parametrize("family", LLM_FAMILIES)
def test_a_static_cache_in_mixed_precision(family, speech, batch):
    """Weights in float32, where rotary embeddings leave keys in another format than values."""
    decoder = likely_ends(tiny_decoder(family))
    with torch.autocast("cpu", torch.bfloat16):
        hypotheses = decoder.generate(speech, batch, Decoding(max_new_tokens=6, kv_cache="static"))
        first = decoder.generate(speech, batch, Decoding(max_new_tokens=2))
    assert [hypothesis.tokens <= 6 for hypothesis in hypotheses] == [True] * 5
    assert [long.text[:1] for long in hypotheses] == [short.text[:1] for short in first]


def test_on_a_gpu_finished_utterances_are_looked_for_now_and_then():
    """Limits are known without looking; the meta device stands for a GPU, which cannot be looked at."""
    alive = torch.ones(3, dtype=torch.bool, device="meta")
    assert search._going_on(alive, 0, [5, 1, 3]) == [0, 2]
    assert search._going_on(alive, 3, [5, 1, 3]) == [0]
    with pytest.raises(NotImplementedError):
        search._going_on(alive, search.LOOK_EVERY - 1, [50, 1, 3])
    flags = torch.tensor([True, True, False])
    assert search._going_on(flags, 0, [5, 1, 3]) == [0]


class ScalarCount(TorchDispatchMode):
    """Counts how often a value is asked for by itself, for which a GPU would have to be waited for."""

    def __init__(self):
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.count += func is torch.ops.aten._local_scalar_dense.default
        return func(*args, **(kwargs or {}))


def values_asked_for(decoder, speech, batch, num_beams, monkeypatch):
    """Return how often a value is asked for where answers have 4 tokens, and where they have 12."""
    monkeypatch.setattr(
        search, "_going_on", lambda alive, count, limits: [*range(len(limits))] * (count + 1 < limits[0])
    )
    counts = []
    for tokens in (4, 12):
        with ScalarCount() as scalars:
            decoder.generate(speech, batch, Decoding(num_beams, max_new_tokens=tokens))
        counts.append(scalars.count)
    return counts


@pytest.mark.parametrize("num_beams", [1, 2])
@pytest.mark.parametrize("family", [name for name in LLM_FAMILIES if name not in ("mistral", "gemma2")])
def test_no_value_is_asked_for_at_each_token(family, num_beams, speech, batch, monkeypatch):
    """Neither by us nor by transformers, but where masks must know of windows."""
    few, many = values_asked_for(tiny_decoder(family), speech, batch, num_beams, monkeypatch)
    assert few == many


def test_the_count_sees_a_mask_that_is_looked_at(speech, batch, monkeypatch):
    monkeypatch.setattr(CachedLLM, "_attention_of_step", CachedLLM._seen)
    few, many = values_asked_for(tiny_decoder(), speech, batch, 1, monkeypatch)
    assert many == few + 8
