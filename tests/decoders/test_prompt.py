"""Prompts: exact ids, chat templates in the families' formats, and robust parsing of answers."""

import pytest

from speechllm.decoders.prompt import Prompt
from speechllm.decoders.tokenizer import load_tokenizer
from speechllm.errors import UserError

LLAMA = (
    "{{ bos_token }}{% for m in messages %}<|start|>{{ m.role }}<|end_header|>\n\n{{ m.content | trim }}<|transcript|>"
    "{% endfor %}{% if add_generation_prompt %}<|start|>assistant<|end_header|>\n\n{% endif %}"
)
MISTRAL = (
    "{{ bos_token }}{% for m in messages %}{% if m.role == 'user' %}[INST] {{ m.content }}[/INST]"
    "{% else %} {{ m.content }}{{ eos_token }}{% endif %}{% endfor %}"
)
GEMMA = (
    "{% for m in messages %}{% if m.role == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"
    "<start>{{ m.role }}\n{{ m.content | trim }}<|audio|>\n{% endfor %}"
)
DATED = (
    "{{ strftime_now('%d %b %Y') if not date_string else date_string }}"
    "{% for m in messages %}{{ m.content }}{% endfor %}"
)


def tokenizer(template=None):
    tokenizer = load_tokenizer("bytes")
    tokenizer.chat_template = template
    return tokenizer


def texts(prompt, task="asr", source="en", target="de"):
    before, after = prompt.around(task, source, target)
    return prompt.tokenizer.decode(before), prompt.tokenizer.decode(after)


@pytest.mark.parametrize(
    ("task", "instruction"),
    [
        ("asr", "can you transcribe English?"),
        ("st", "can you translate from English to German?"),
        ("asr+st", "can you transcribe English and translate it to German?"),
    ],
)
def test_plain(task, instruction):
    assert texts(Prompt(tokenizer()), task) == ("<s>", f"\n{instruction}\n")


def test_plain_ids():
    """One token a byte, after six special ones."""
    before, after = Prompt(tokenizer(), template="a{speech}b<|transcript|>").around("asr", "en", "en")
    ids = tokenizer()("ab", add_special_tokens=False)["input_ids"]
    assert (before, after) == ([1, ids[0]], [ids[1], 4])


def test_template_and_instructions():
    prompt = Prompt(
        tokenizer(), template="{source}>{target}: {speech}{instruction}", instructions={"st": "to {target}!"}
    )
    assert texts(prompt, "st", "it", "fr") == ("<s>Italian>French: ", "to French!")
    assert texts(prompt, "asr", "zh-CN", "zh-CN")[1] == "can you transcribe Chinese?"


@pytest.mark.parametrize(
    ("template", "before", "after", "end"),
    [
        (
            LLAMA,
            "<s><|start|>user<|end_header|>\n\n",
            "\ncan you transcribe English?<|transcript|><|start|>assistant<|end_header|>\n\n",
            "<|transcript|>",
        ),
        (MISTRAL, "<s>[INST] ", "\ncan you transcribe English?[/INST]", "</s>"),
        (GEMMA, "<start>user\n", "\ncan you transcribe English?<|audio|>\n<start>assistant\n", "<|audio|>"),
    ],
)
def test_chat_templates(template, before, after, end):
    """The speech takes its place in the user's turn; what the template writes behind an answer ends it."""
    prompt = Prompt(tokenizer(template))
    assert texts(prompt) == (before, after)
    assert prompt.tokenizer.decode([prompt.end_id]) == end
    assert prompt.answer("asr", "hi", "")[-1] == prompt.end_id


def test_system_message():
    before, _ = texts(Prompt(tokenizer(LLAMA), system="Be brief."))
    assert before.startswith("<s><|start|>system<|end_header|>\n\nBe brief.<|transcript|>")
    with pytest.raises(UserError, match="System role not supported"):
        Prompt(tokenizer(GEMMA), system="Be brief.")


def test_a_prompt_does_not_change_by_the_day():
    assert texts(Prompt(tokenizer(DATED)))[0] == "26 Jul 2024"


def test_a_template_is_not_passed_over_where_there_is_a_chat_template():
    assert texts(Prompt(tokenizer(LLAMA), template="a{speech}b")) == ("<s>a", "b")


def test_answers():
    prompt = Prompt(tokenizer())

    def text(task):
        return prompt.tokenizer.decode(prompt.answer(task, "good morning", "guten Morgen"))

    assert text("asr") == "good morning</s>"
    assert text("st") == "guten Morgen</s>"
    assert text("asr+st") == "good morning <|translation|> guten Morgen</s>"


@pytest.mark.parametrize(
    ("task", "text", "expected"),
    [
        ("asr", " good morning ", ("good morning", "", False)),
        ("st", " guten Morgen", ("", "guten Morgen", False)),
        ("asr+st", "good morning <|translation|> guten Morgen", ("good morning", "guten Morgen", False)),
        ("asr+st", "good morning", ("good morning", "", True)),
        ("asr+st", "", ("", "", True)),
        ("asr+st", "<|translation|> guten Morgen", ("", "guten Morgen", False)),
        ("asr+st", "good morning<|translation|>", ("good morning", "", False)),
        ("asr+st", "a<|translation|>b <|translation|> c", ("a", "b c", False)),
    ],
)
def test_parsing(task, text, expected):
    assert Prompt(tokenizer()).parse(task, text) == expected


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"style": "chatty"}, "Unknown prompt style 'chatty'. Did you mean 'chat'"),
        ({"style": "chat"}, "needs a tokenizer with a chat template"),
        ({"template": "no place"}, r"must hold '\{speech\}' exactly once"),
        ({"instructions": {"mt": "x"}}, "Unknown tasks in `instructions`: mt. Allowed: asr, st, asr"),
        ({"separator": " "}, "`separator` is empty"),
        ({"system": "Be brief."}, "'plain' does not take 'system'. It takes: template, instructions"),
        ({"style": "joint", "separator": "|"}, "'joint' does not take 'separator'. It takes: no options"),
        ({"style": "parallel"}, r"'parallel' needs '<\|endoftext\|>' in the vocabulary"),
        ({"style": "nue"}, r"'nue' needs '\[SEP\]' in the vocabulary"),
    ],
)
def test_wrong_options(options, message):
    with pytest.raises(UserError, match=message):
        Prompt(tokenizer(), **options)


def test_unknown_language():
    with pytest.raises(UserError, match="Unknown language 'xx'"):
        Prompt(tokenizer()).around("asr", "xx", "xx")
