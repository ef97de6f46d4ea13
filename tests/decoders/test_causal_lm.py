"""The causal LM: target-only loss against full logits, limits, loading, and every family's output layer."""

import pytest
import torch
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM

from speechllm.batch import AdapterOutput
from speechllm.decoders.base import Decoding
from speechllm.decoders.causal_lm import CausalLM
from speechllm.decoders.join import join
from speechllm.decoders.limits import UtteranceLimit, cut_at_end
from speechllm.decoders.tokenizer import load_tokenizer
from speechllm.errors import UserError
from tests.tiny import LLM_FAMILIES, SIZES, make_batch, noise, tiny_decoder

LENGTHS = [5, 9, 2]


def speech(dim=16, lengths=LENGTHS, requires_grad=False):
    values = torch.randn(len(lengths), max(lengths), dim, requires_grad=requires_grad)
    return AdapterOutput(values, torch.tensor(lengths))


def batch():
    return make_batch(noise(8000, 16_000, 4000))


def around(decoder, texts):
    rows = zip(texts.tasks, texts.source_languages, texts.target_languages, strict=True)
    return [decoder.prompt.around(*row) for row in rows]


def answers(decoder, texts):
    rows = zip(texts.tasks, texts.transcripts, texts.translations, strict=True)
    return [decoder.prompt.answer(*row) for row in rows]


def labels_of(joined):
    """Return the labels (B, L) that Hugging Face takes: the answers' tokens at their own places, -100 elsewhere."""
    labels = torch.full(joined.embeds.shape[:2], -100)
    labels.view(-1)[joined.target_places + 1] = joined.targets
    return labels


@pytest.mark.parametrize("family", LLM_FAMILIES)
def test_target_only_loss_and_gradients_equal_full_logits(family):
    """The reference is Hugging Face's own forward with labels, over every position."""
    decoder = tiny_decoder(family, tuning="full")
    given = speech(requires_grad=True)
    output = decoder(given, batch())
    mean = output.losses.sum() / output.target_lengths.sum()
    mean.backward()
    got = {key: p.grad.clone() for key, p in decoder.llm.named_parameters() if p.grad is not None}
    got_speech = given.values.grad.clone()
    decoder.zero_grad()
    given.values.grad = None

    texts = batch()
    joined = join(decoder.llm.get_input_embeddings(), around(decoder, texts), given, answers(decoder, texts), "right")
    reference = decoder.llm(
        inputs_embeds=joined.embeds,
        attention_mask=joined.mask,
        labels=labels_of(joined),
        use_cache=False,
    ).loss
    reference.backward()
    torch.testing.assert_close(mean, reference, rtol=1e-5, atol=1e-6)
    expected = {key: p.grad for key, p in decoder.llm.named_parameters() if p.grad is not None}
    assert set(got) == set(expected)
    for key, gradient in expected.items():
        torch.testing.assert_close(got[key], gradient, rtol=1e-4, atol=1e-6, msg=key)
    torch.testing.assert_close(got_speech, given.values.grad, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("family", LLM_FAMILIES)
def test_output_layer_sees_target_positions_only(family):
    decoder = tiny_decoder(family)
    seen = []
    head = decoder.llm.get_output_embeddings()
    head.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0].shape))
    output = decoder(speech(), batch())
    assert seen == [(int(output.target_lengths.sum()), 16)]


@pytest.mark.parametrize("family", LLM_FAMILIES)
def test_output_layer_is_the_models_own(family):
    tiny_decoder(family).check_output_layer()


def test_output_layer_check_fails_for_a_model_it_does_not_know(monkeypatch):
    decoder = tiny_decoder("gemma2")
    decoder.llm.config.final_logit_softcapping = 0.01
    decoder.check_output_layer()
    monkeypatch.setattr(CausalLM, "output_logits", lambda self, hidden: self.llm.get_output_embeddings()(hidden))
    with pytest.raises(UserError, match="'gemma2' changes its logits"):
        decoder.check_output_layer()


def test_losses_are_sums_over_answer_and_end_token():
    decoder = tiny_decoder()
    decoder.llm.get_output_embeddings().weight.data.zero_()
    output = decoder(speech(), batch())
    lengths = [len(answer) for answer in answers(decoder, batch())]
    assert output.target_lengths.tolist() == lengths
    uniform = torch.tensor(lengths) * torch.tensor(262.0).log()  # 256 bytes and 6 special tokens
    torch.testing.assert_close(output.losses, uniform)
    assert output.losses.dtype == torch.float32


def test_answers_are_truncated_and_counted_but_speech_never():
    decoder = tiny_decoder(max_length=70)
    given, texts = speech(), batch()
    room = [
        70 - len(before) - len(after) - n for (before, after), n in zip(around(decoder, texts), LENGTHS, strict=True)
    ]
    full = tiny_decoder()(given, texts).target_lengths.tolist()
    output = decoder(given, texts)
    assert output.target_lengths.tolist() == [min(pair) for pair in zip(full, room, strict=True)]
    assert int(output.stats["truncated_targets"]) == sum(f > r for f, r in zip(full, room, strict=True)) > 0
    for call in (lambda d: d(given, texts), lambda d: d.generate(given, texts, Decoding())):
        with pytest.raises(UserError, match=r"Utterance 'u0' has 5 speech positions; .*20 positions"):
            call(tiny_decoder(max_length=20))


def test_generation_does_not_look_at_references():
    decoder, given, texts = tiny_decoder(), speech(), batch()
    first = decoder.generate(given, texts, Decoding(max_new_tokens=6))
    texts.transcripts, texts.translations = ["leak"] * 3, ["leak"] * 3
    assert decoder.generate(given, texts, Decoding(max_new_tokens=6)) == first


@pytest.mark.parametrize("num_beams", [1, 2])
def test_limits_hold_for_each_utterance(num_beams):
    decoder = tiny_decoder()
    decoder.llm.get_output_embeddings().weight.data[decoder.end_ids] = 0  # its logit is 0: never the best of 262
    decoding = Decoding(num_beams, tokens_per_second=10, extra_tokens=2)
    hypotheses = decoder.generate(speech(), batch(), decoding)
    assert [h.tokens for h in hypotheses] == [2 + 5, 2 + 10, 2 * (2 + 3)]  # 0.5 s asr, 1 s st, 0.25 s asr+st
    assert all(h.hit_limit for h in hypotheses)


def test_natural_end():
    decoder = tiny_decoder()
    head = decoder.llm.get_output_embeddings()
    head.weight.data.zero_()  # every logit is equal, and the end token is pushed up
    decoder.llm.lm_head = nn.Linear(16, 262)
    decoder.llm.lm_head.weight.data.zero_()
    decoder.llm.lm_head.bias.data.zero_()
    decoder.llm.lm_head.bias.data[decoder.prompt.end_id] = 5
    hypotheses = decoder.generate(speech(), batch(), Decoding(max_new_tokens=8))
    assert [(h.text, h.tokens, h.hit_limit) for h in hypotheses] == [("", 1, False)] * 3
    assert [h.missing_separator for h in hypotheses] == [False, False, True]


@pytest.mark.parametrize("num_beams", [1, 2])
def test_no_answer_ends_before_its_fewest_tokens(num_beams):
    """Paper C asks for two (spec §17.1); every token that ends an answer counts as an end."""
    decoder = tiny_decoder()
    decoder.end_ids = [2, 7]
    decoder._set_generation_config()
    head = nn.Linear(16, 262)
    head.weight.data.zero_()
    head.bias.data[:] = torch.arange(262) / 1000.0
    head.bias.data[[2, 7]] = torch.tensor([5.0, 9.0])
    decoder.llm.lm_head = head
    for fewest in (0, 2):
        decoding = Decoding(num_beams, max_new_tokens=6, min_new_tokens=fewest)
        assert [h.tokens for h in decoder.generate(speech(), batch(), decoding)] == [fewest + 1] * 3
    decoding = Decoding(num_beams, max_new_tokens=1, min_new_tokens=2)
    assert [h.tokens for h in decoder.generate(speech(), batch(), decoding)] == [1] * 3


@pytest.mark.parametrize("duration_s", [0.1, 0.125, 0.375, 1.0, 3.3, 15.99, 16.0])
def test_the_limit_of_paper_c(duration_s):
    """``int(4 * seconds + 20 + 0.5)``, halves rounded up (spec §17.1)."""
    limit = Decoding(tokens_per_second=4, extra_tokens=20).limit(duration_s, "asr")
    assert limit == int(4 * duration_s + 20 + 0.5)
    assert Decoding(max_new_tokens=200).limit(duration_s, "asr") == 200


def test_utterance_limit_by_hand():
    limit = UtteranceLimit([1, 3], end_id=1, end_ids=[1]).select([0, 0, 1, 1])
    scores = torch.tensor([[5.0, 0.0]] * 4)
    inf = float("inf")
    assert limit(0, scores).tolist() == [[-inf, 0], [-inf, 0], [5, 0], [5, 0]]
    assert limit(2, scores)[2].tolist() == [-inf, 0]
    assert scores.tolist() == [[5, 0]] * 4
    both = UtteranceLimit([1, 9], end_id=1, end_ids=[0, 1], min_new_tokens=2)
    scores = torch.tensor([[5.0, 6.0, 1.0]] * 2)
    assert both(0, scores).tolist() == [[-inf, 0, -inf], [-inf, -inf, 1]]
    assert both(1, scores)[1].tolist() == [-inf, -inf, 1]
    assert both(2, scores)[1].tolist() == [5, 6, 1]
    assert both.is_end(torch.tensor([0, 2, 1])).tolist() == [True, False, True]
    assert cut_at_end([7, 8, 2, 0, 0], [2]) == ([7, 8], 3)
    assert cut_at_end([7, 8], [2]) == ([7, 8], 2)


@pytest.mark.parametrize("family", LLM_FAMILIES)
def test_a_saved_model_in_the_real_format(family, tmp_path):
    tokenizer = load_tokenizer("bytes")
    config = AutoConfig.for_model(
        family, **SIZES, **LLM_FAMILIES[family], vocab_size=len(tokenizer), eos_token_id=[2, 7]
    )
    model = AutoModelForCausalLM.from_config(config).eval()
    model.generation_config.eos_token_id = [2, 7]
    model.generation_config.do_sample = True
    model.generation_config.temperature = 0.6
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    decoder = CausalLM(pretrained=str(tmp_path)).eval()
    assert decoder.end_ids == [2, 7]
    assert decoder.dim == 16
    assert decoder.frozen
    assert not decoder.llm.generation_config.do_sample
    ids = torch.arange(12)[None]
    torch.testing.assert_close(decoder.llm(input_ids=ids).logits, model(input_ids=ids).logits, rtol=0, atol=1e-6)
    assert decoder.llm.dtype == torch.float32
    assert CausalLM(pretrained=str(tmp_path), dtype="bfloat16").llm.dtype == torch.bfloat16


def test_soft_capped_attention_is_eager():
    """The fused kernels leave the cap out."""
    assert tiny_decoder("gemma2").llm.config._attn_implementation == "speechllm_eager"
    assert tiny_decoder("llama").llm.config._attn_implementation == "speechllm_sdpa"


def test_frozen_llm_passes_gradients_to_the_speech():
    decoder = tiny_decoder()
    decoder.train()
    given = speech(requires_grad=True)
    decoder(given, batch()).losses.sum().backward()
    assert given.values.grad.abs().sum() > 0
    assert all(p.grad is None for p in decoder.parameters())
    assert not decoder.llm.training


def test_transcript_ids():
    ids = tiny_decoder().transcript_ids(batch())
    assert [load_tokenizer("bytes").decode(row) for row in ids] == batch().transcripts


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"config": None}, "either `pretrained`"),
        ({"config": {"model_type": "lama"}}, "Unknown `model_type` 'lama'.*Did you mean 'llama'"),
        (
            {"prompt": {"stile": "plain"}},
            "The prompt does not take stile. Did you mean 'style'.*It takes: style, template",
        ),
        ({"target_weights": {"transcripts": 2}}, "Did you mean 'transcript'"),
        ({"scale_speech_embeds": True}, "as Gemma does; 'llama' does not"),
        ({"tuning": "fulll"}, "Did you mean 'full'"),
    ],
)
def test_wrong_options(options, message):
    with pytest.raises(UserError, match=message):
        CausalLM(**{"config": CausalLM.tiny["config"], **options})


def test_a_folder_without_a_model(tmp_path):
    load_tokenizer("bytes").save_pretrained(tmp_path)
    with pytest.raises(UserError, match="could not be loaded"):
        CausalLM(pretrained=str(tmp_path))


def test_labels_cover_the_answer_alone():
    decoder, texts = tiny_decoder(), batch()
    joined = join(
        decoder.llm.get_input_embeddings(), around(decoder, texts), speech(), answers(decoder, texts), "right"
    )
    for row, text in zip(labels_of(joined), ["hello 0 </s>", "hällo 1 du du du du </s>", None], strict=True):
        if text:
            assert decoder.tokenizer.decode(row[row != -100]) == text
