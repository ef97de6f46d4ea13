"""Every family with every prompt that fits it: what is taught, what it costs alone and in a batch, how it ends."""

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from speechllm.batch import AdapterOutput
from speechllm.decoders.base import Decoding
from speechllm.decoders.causal_lm import CausalLM
from speechllm.errors import UserError
from tests.decoders.families import MODELS, save_tokenizer
from tests.tiny import LLM_FAMILIES, SIZES, make_batch, noise

CPU = torch.device("cpu")
LENGTHS = (3, 7, 1)
PROMPTS = [
    ("llama_2", "joint"),
    ("llama_2", "plain"),
    ("llama_31", "chat"),
    ("mistral_v01", "joint"),
    ("mistral_v03", "chat"),
    ("gemma", "joint"),
    ("gemma", "chat"),
    ("qwen_25", "chat"),
    ("qwen_25", "parallel"),
    ("gpt_neox", "plain"),
    ("japanese_gpt_neox", "nue"),
]


@pytest.fixture
def build(tmp_path):
    """Return a function that builds a family's decoder, its tokenizer read from a folder as checkpoints hold it."""

    def build(family, **options):
        model_type = MODELS[family]
        config = {"model_type": model_type, **SIZES, **LLM_FAMILIES[model_type], "initializer_range": 0.3}
        return CausalLM(config=config, tokenizer=save_tokenizer(family, tmp_path / family), **options).eval()

    return build


def batch_for(style):
    """Return three utterances of a task that the style knows, one of them without words."""
    texts = make_batch(noise(8000, 16_000, 4000))
    tasks = {"joint": ["asr+st"] * 3, "nue": ["asr"] * 3}
    texts.tasks = tasks.get(style, ["asr", "st", "asr+st"])
    texts.transcripts, texts.translations = ["good day you", "", "good"], ["guten Tag", "Tag", ""]
    if style == "nue":
        texts.transcripts, texts.source_languages = ["今日はいい天気", "天気", "今日"], ["ja"] * 3
    return texts


def speech():
    values = torch.randn(3, max(LENGTHS), 16)
    for row, length in enumerate(LENGTHS):
        values[row, length:] = 1e4
    return AdapterOutput(values, torch.tensor(LENGTHS))


@pytest.mark.parametrize(("family", "style"), PROMPTS)
def test_labels_spell_the_answer_and_its_end(family, style, build):
    decoder, texts = build(family, prompt={"style": style}), batch_for(style)
    answers = [
        decoder.prompt.answer(*row) for row in zip(texts.tasks, texts.transcripts, texts.translations, strict=True)
    ]
    joined = decoder._join(decoder._around(texts), speech(), answers, "right")
    tail = " " if style == "joint" else ""
    end = decoder.tokenizer.decode([decoder.prompt.end_id])
    targets = joined.targets.split(joined.target_lengths.tolist())
    for row, (labels, task) in enumerate(zip(targets, texts.tasks, strict=True)):
        target = {
            "asr": texts.transcripts[row],
            "st": texts.translations[row],
            "asr+st": f"{texts.transcripts[row]} <|translation|> {texts.translations[row]}",
        }[task]
        decoded = decoder.tokenizer.decode(labels, clean_up_tokenization_spaces=False)
        assert decoded.lstrip() == f"{target}{tail}{end}".lstrip()
        assert decoder.prompt.parse(task, decoded.removesuffix(end)) == (
            texts.transcripts[row] if "asr" in task else "",
            texts.translations[row] if "st" in task else "",
            False,
        )


@pytest.mark.parametrize(("family", "style"), PROMPTS)
def test_alone_and_in_a_padded_batch(family, style, build):
    """Spec §12.8: the token-weighted loss and both part losses of a batch are those of its utterances alone."""
    decoder = build(family, prompt={"style": style}, target_weights={"transcript": 2.0})
    texts, given, decoding = batch_for(style), speech(), Decoding(max_new_tokens=8, min_new_tokens=2)
    with torch.no_grad():
        together, hypotheses = decoder(given, texts), decoder.generate(given, texts, decoding)
        alone = []
        for row, length in enumerate(LENGTHS):
            own = AdapterOutput(given.values[row : row + 1, :length], given.lengths[row : row + 1])
            alone.append(decoder(own, texts.select([row])))
            assert decoder.generate(own, texts.select([row]), decoding) == [hypotheses[row]]
    torch.testing.assert_close(together.losses, torch.cat([o.losses for o in alone]), rtol=1e-5, atol=1e-5)
    assert together.target_lengths.tolist() == [int(o.target_lengths[0]) for o in alone]
    assert len({h.text for h in hypotheses}) > 1, "one text for all would prove nothing"


def test_weights_of_transcript_and_translation_in_a_model(build):
    """Against the log-probabilities of the model's own forward, answer by answer."""
    weights = {"transcript": 0.25, "translation": 2.0}
    decoder = build("llama_2", prompt={"style": "joint"}, target_weights=weights)
    texts, given = batch_for("joint"), speech()
    output = decoder(given, texts)
    sums = {"transcript": [], "translation": []}
    for row, length in enumerate(LENGTHS):
        ids, transcript_tokens = decoder.prompt.answer_parts("asr+st", texts.transcripts[row], texts.translations[row])
        embed = decoder.llm.get_input_embeddings()
        parts = [embed(torch.tensor([1, 349])), given.values[row, :length], embed(torch.tensor([350, *ids]))]
        logits = decoder.llm(inputs_embeds=torch.cat(parts)[None]).logits[0, length + 2 : -1]
        token_losses = -logits.log_softmax(-1)[torch.arange(len(ids)), ids]
        first, second = token_losses[:transcript_tokens], token_losses[transcript_tokens:]
        mean = (0.25 * first.sum() + 2 * second.sum()) / (0.25 * len(first) + 2 * len(second))
        torch.testing.assert_close(output.losses[row], mean * len(ids))
        sums["transcript"].append(first)
        sums["translation"].append(second)
    for name, losses in sums.items():
        torch.testing.assert_close(output.stats[f"loss_{name}"], torch.cat(losses).mean())


@pytest.mark.parametrize("family", ["llama_2", "gemma"])
def test_weights_one_change_nothing(family, build):
    state = build(family).state_dict()
    results = []
    for weights in (None, {"transcript": 1, "translation": 1}, {"transcript": 3.0, "translation": 3.0}):
        decoder = build(family, target_weights=weights)
        decoder.load_state_dict(state)
        torch.manual_seed(1)
        results.append(decoder(speech(), batch_for("plain")).losses)
    assert torch.equal(results[0], results[1])
    torch.testing.assert_close(results[0], results[2])


@pytest.mark.parametrize("model_type", ["gemma", "gemma2"])
def test_gemma_scales_its_tokens_and_leaves_the_speech_as_it_is(model_type):
    """transformers 5 scales inside the embedding (spec §12.7); ``scale_speech_embeds`` scales the speech as well."""
    config = {"model_type": model_type, **SIZES, **LLM_FAMILIES[model_type]}
    texts, given = batch_for("plain"), speech()
    for scale, expected in ((False, 1.0), (True, 4.0)):  # √16
        decoder = CausalLM(config=config, scale_speech_embeds=scale).eval()
        around = decoder._around(texts)
        joined = decoder._join(around, given, [[]] * 3, "right")
        table = decoder.llm.get_input_embeddings().weight
        before, after = (torch.tensor(ids) for ids in around[1])
        torch.testing.assert_close(joined.embeds[1, : len(before)], table[before] * 4)
        start = len(before)
        torch.testing.assert_close(joined.embeds[1, start : start + 7], given.values[1] * expected)
        torch.testing.assert_close(joined.embeds[1, start + 7 : start + 7 + len(after)], table[after] * 4)
        hidden = []
        decoder.llm.base_model.layers[0].register_forward_pre_hook(
            lambda _, inputs, seen=hidden: seen.append(inputs[0])
        )
        decoder.hidden(decoder._join(around, given, [[5]] * 3, "right"), decoder.kernel(CPU))
        torch.testing.assert_close(hidden[0][1, start : start + 7], given.values[1] * expected)


def test_llama_31_stops_at_each_of_its_ends(tmp_path):
    """Spec §17.2: end of text, of message and of turn; the checkpoint lists them, the prompt teaches the last."""
    folder = save_tokenizer("llama_31", tmp_path)
    ends = [316, 320, 321]
    config = AutoConfig.for_model("llama", **SIZES, num_key_value_heads=1, vocab_size=322, eos_token_id=ends)
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    decoder = CausalLM(pretrained=folder).eval()
    names = decoder.tokenizer.convert_ids_to_tokens(decoder.end_ids)
    assert names == ["<|end_of_text|>", "<|eom_id|>", "<|eot_id|>"]
    assert decoder.prompt.end_id == 321
    assert decoder.llm.generation_config.pad_token_id == 317
    for end in ends:
        decoder.llm.lm_head = torch.nn.Linear(16, 322)
        decoder.llm.lm_head.weight.data.zero_()
        decoder.llm.lm_head.bias.data[end] = 9
        hypotheses = decoder.generate(speech(), batch_for("plain"), Decoding(max_new_tokens=4))
        assert [(h.text, h.tokens) for h in hypotheses] == [("", 1)] * 3


@pytest.mark.parametrize(
    ("family", "spec", "message"),
    [
        ("llama_2", {"prompt": {"style": "nue"}}, r"'nue' needs '\[SEP\]' in the vocabulary, .*llama_2' lacks"),
        ("llama_2", {"prompt": {"style": "parallel"}}, r"'parallel' needs '<\|endoftext\|>'"),
        ("mistral_v01", {"prompt": {"style": "chat"}}, "'chat' needs a tokenizer with a chat template"),
        ("gemma", {"prompt": {"system": "Be brief."}}, "System role not supported"),
        ("llama_2", {"prompt": {"sepparator": "|"}}, "does not take sepparator. Did you mean 'separator'"),
        ("llama_2", {"target_weights": {"transcript": -1}}, "at least 0"),
    ],
)
def test_prompts_are_checked_before_any_weight_is_loaded(family, spec, message, tmp_path, monkeypatch):
    folder = save_tokenizer(family, tmp_path / family)
    monkeypatch.setattr("speechllm.decoders.causal_lm.load_llm", lambda *_: pytest.fail("weights were loaded"))
    with pytest.raises(UserError, match=message):
        CausalLM.check_prompt({"name": "causal_lm", "pretrained": folder, **spec})
    with pytest.raises(UserError, match=message):
        CausalLM(pretrained=folder, **spec)


def test_a_prompt_that_fits_passes_the_check(tmp_path):
    folder = save_tokenizer("japanese_gpt_neox", tmp_path)
    CausalLM.check_prompt({"name": "causal_lm", "pretrained": folder, "prompt": {"style": "nue"}})
    CausalLM.check_prompt({"name": "causal_lm", "config": {"model_type": "llama"}, "prompt": {"style": "joint"}})
