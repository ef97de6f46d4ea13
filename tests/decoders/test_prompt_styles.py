"""The papers' prompts token by token, on tiny tokenizers of the families that the papers use."""

import pytest

from speechllm.decoders.prompt import Prompt
from speechllm.decoders.tokenizer import load_tokenizer
from speechllm.errors import UserError
from tests.decoders.families import save_tokenizer


@pytest.fixture
def prompt(tmp_path):
    """Return a function that builds a family's prompt."""

    def build(family, **options):
        return Prompt(load_tokenizer(save_tokenizer(family, tmp_path / family)), **options)

    return build


def tokens(prompt, task, transcript="good day", translation="guten Tag"):
    """Return the tokens before and after the speech, of the transcript and of the translation, joined by spaces."""
    before, after = prompt.around(task, "en", "de")
    ids, transcript_tokens = prompt.answer_parts(task, transcript, translation)
    parts = (before, after, ids[:transcript_tokens], ids[transcript_tokens:])
    return tuple(" ".join(prompt.tokenizer.convert_ids_to_tokens(part)) for part in parts)


SEP = "▁ < | t r a n s l a t i o n | >"
BYTE_SEP = SEP.replace("▁", "Ġ")
LLAMA_SYSTEM = (
    "<|start_header_id|> s y s t e m <|end_header_id|> Ċ Ċ C u t t i n g Ġ K n o w l e d g e Ġ D a t e : "
    "Ġ D e c e m b e r Ġ 2 0 2 3 Ċ T o d a y Ġ D a t e : Ġ 2 6 Ġ J u l Ġ 2 0 2 4 Ċ Ċ <|eot_id|>"
)


@pytest.mark.parametrize(
    ("family", "task", "expected"),
    [
        (
            "llama_31",
            "asr",
            (
                f"<|begin_of_text|> {LLAMA_SYSTEM} <|start_header_id|> u s e r <|end_header_id|> Ċ Ċ",
                "Ċ c a n Ġyou Ġtranscribe ĠEnglish ? <|eot_id|> "
                "<|start_header_id|> a s s i s t a n t <|end_header_id|> Ċ Ċ",
                "g o o d Ġday <|eot_id|>",
                "",
            ),
        ),
        (
            "mistral_v03",
            "st",
            (
                "<s> [INST] ▁",
                "▁ <0x0A> c a n ▁you ▁trans l a t e ▁f r o <0x6D> ▁English ▁t o ▁ <0x47> e r <0x6D> a n ? [/INST]",
                "",
                "▁guten ▁Tag </s>",
            ),
        ),
        (
            "gemma",
            "asr+st",
            (
                "<bos> <start_of_turn> u s e r <0x0A>",
                "<0x0A> c a n ▁you ▁transcribe ▁English ▁a n d ▁trans l a t e ▁ i t ▁t o ▁ <0x47> e r <0x6D> a n ? "
                "<end_of_turn> <0x0A> <start_of_turn> <0x6D> o d e l <0x0A>",
                f"g o o d ▁day {SEP}",
                "▁guten ▁Tag <end_of_turn>",
            ),
        ),
        (
            "qwen_25",
            "asr",
            (
                "<|im_start|> s y s t e m Ċ Y o u Ġa r e Ġa Ġ h e l p f u l Ġa s s i s t a n t . <|im_end|> Ċ "
                "<|im_start|> u s e r Ċ",
                "Ċ c a n Ġyou Ġtranscribe ĠEnglish ? <|im_end|> Ċ <|im_start|> a s s i s t a n t Ċ",
                "g o o d Ġday <|im_end|>",
                "",
            ),
        ),
    ],
)
def test_chat(family, task, expected, prompt):
    """Paper A (spec §12.3): speech, newline and instruction in the user's turn, exactly one BOS."""
    assert tokens(prompt(family), task) == expected
    assert tokens(prompt(family, style="chat"), task) == expected


@pytest.mark.parametrize(
    ("family", "bos", "text", "separator", "end"),
    [
        ("llama_2", "<s>", "▁good ▁day", SEP, "</s>"),
        ("mistral_v01", "<s>", "▁good ▁day", SEP, "</s>"),
        ("gpt_neox", "<|endoftext|>", "g o o d Ġday", BYTE_SEP, "<|endoftext|>"),
        ("qwen_25", "", "g o o d Ġday", BYTE_SEP, "<|endoftext|>"),
    ],
)
def test_plain_of_base_models(family, bos, text, separator, end, prompt):
    """The separator is spelt in pieces that the LLM knows, and the transcript's last token ends it."""
    space = "Ġ" if "Ġ" in text else "▁"
    built = prompt(family, style="plain", template="{speech}:")
    assert built.new_ids == []
    answer = (f"{text} {separator}", f"{space}guten {space}Tag {end}")
    after = "▁ :" if space == "▁" else ":"
    assert tokens(built, "asr+st") == (bos, after, *answer)
    assert tokens(built, "asr") == (bos, after, f"{text} {end}", "")
    assert tokens(built, "st")[2] == ""


@pytest.mark.parametrize(
    ("family", "bos", "first", "expected", "end"),
    [
        ("llama_2", "<s> ", 349, ("▁good ▁day ▁", "▁guten ▁Tag ▁"), "</s>"),
        ("mistral_v01", "<s> ", 349, ("▁good ▁day ▁", "▁guten ▁Tag ▁"), "</s>"),
        ("gemma", "<bos> ", 353, ("g o o d ▁day ▁", "▁guten ▁Tag ▁"), "<eos>"),
        ("qwen_25", "", 318, ("g o o d Ġday Ġ", "Ġguten ĠTag Ġ"), "<|endoftext|>"),
    ],
)
def test_joint(family, bos, first, expected, end, prompt):
    """Paper B (spec §12.4): three new tokens, and spaces around the separator and before the end as it writes them."""
    built = prompt(family, style="joint")
    assert built.new_ids == [first, first + 1, first + 2]
    transcript, translation = expected
    assert tokens(built, "asr+st") == (
        f"{bos}<|audio|>",
        "<|transcript|>",
        f"{transcript} <|translation|>",
        f"{translation} {end}",
    )
    assert prompt(family, style="joint").around("asr+st", "it", "fr") == built.around("asr+st", "en", "de")


def test_joint_ids(prompt):
    """The first Llama rows are <unk> <s> </s>; the tokens in between are the words' own."""
    built = prompt("llama_2", style="joint")
    good, day, guten, tag, space = built.tokenizer.convert_tokens_to_ids(["▁good", "▁day", "▁guten", "▁Tag", "▁"])
    assert built.around("asr+st", "en", "de") == ([1, 349], [350])
    assert built.answer("asr+st", "good day", "guten Tag") == [good, day, space, 351, guten, tag, space, 2]


def test_nue_ids(prompt):
    """Paper C (spec §10.4): BOS 2, speech, the vocabulary's own [SEP], text, end 3."""
    built = prompt("japanese_gpt_neox", style="nue")
    assert built.new_ids == []
    assert built.around("asr", "ja", "ja") == ([2], [4])
    assert built.answer("asr", "今日はいい天気", "") == [5, 6, 7, 3]
    assert built.tokenizer.decode([5, 6, 7, 3]) == "今日はいい天気</s>"


def test_parallel(prompt):
    """Paper D (spec §12.6): the instruction stands before the speech, between <|endoftext|>; no chat template."""
    built = prompt("qwen_25", style="parallel")
    instruction = "P l e a s e Ġtranscribe Ġthe Ġfollowing Ġaudio Ġ i n ĠEnglish"
    assert tokens(built, "asr") == (f"<|endoftext|> {instruction} : Ċ", "", "g o o d Ġday <|endoftext|>", "")
    before, after, transcript, translation = tokens(built, "asr+st")
    assert (before.startswith(f"<|endoftext|> {instruction} Ġa n d"), after) == (True, "")
    assert (transcript, translation) == (f"g o o d Ġday {BYTE_SEP}", "Ġguten ĠTag <|endoftext|>")
    text = built.tokenizer.decode(built.around("asr", "zh-CN", "zh-CN")[0])
    assert text == "<|endoftext|>Please transcribe the following audio in Chinese:\n"
    text = built.tokenizer.decode(built.around("st", "en", "de")[0])
    assert text == "<|endoftext|>Please translate the following audio from English to German:\n"


def test_a_separator_as_a_token_of_its_own(prompt):
    built = prompt("llama_31", add_separator=True, separator="<|then|>")
    assert built.new_ids == [322]
    assert tokens(built, "asr+st")[2:] == ("g o o d Ġday Ġ <|then|>", "Ġguten ĠTag <|eot_id|>")
    assert built.parse("asr+st", "good day <|then|> guten Tag") == ("good day", "guten Tag", False)


@pytest.mark.parametrize(
    ("family", "style", "task", "others"),
    [
        ("llama_2", "joint", "asr", "chat, plain, nue, parallel"),
        ("llama_2", "joint", "st", "chat, plain, parallel"),
        ("japanese_gpt_neox", "nue", "st", "chat, plain, parallel"),
        ("japanese_gpt_neox", "nue", "asr+st", "chat, plain, joint, parallel"),
    ],
)
def test_a_style_whose_prompt_names_no_task_knows_one_alone(family, style, task, others, prompt):
    with pytest.raises(UserError, match=rf"'{style}' knows .* asks for '{task.replace('+', '.')}'.*\({others}\)"):
        prompt(family, style=style).around(task, "en", "de")


@pytest.mark.parametrize("transcript", ["good day", "", "naïve 日本", "a <b> c |", "good day  you "])
@pytest.mark.parametrize("family", ["llama_2", "gemma", "qwen_25", "gpt_neox", "llama_31"])
@pytest.mark.parametrize("style", ["plain", "joint"])
def test_the_parts_of_an_answer_meet_behind_the_separator(style, family, transcript, prompt):
    """A part's tokens spell that part and what ends it: a token counted to the wrong side would be weighed wrongly."""
    built = prompt(family, style=style)
    ids, transcript_tokens = built.answer_parts("asr+st", transcript, "guten Tag")
    decode = built.tokenizer.decode
    assert decode(ids[:transcript_tokens]).lstrip() == f"{transcript} <|translation|>".lstrip()
    end = decode([built.end_id])
    assert decode(ids[transcript_tokens:]).lstrip() == ("guten Tag " if style == "joint" else "guten Tag") + end
