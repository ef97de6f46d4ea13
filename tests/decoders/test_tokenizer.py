"""Tokenizers without a network: bytes, files, text."""

import pytest
from tokenizers import Tokenizer, models
from transformers import PreTrainedTokenizerFast

from speechllm.decoders.tokenizer import SPECIAL_TOKENS, add_special_tokens, load_tokenizer
from speechllm.errors import UserError
from tests.decoders.families import TOKENIZERS, save_tokenizer

TEXTS = ["Hello you", "Die Straße ist heute gesperrt.", "日本語 ♫", "  two  spaces ", "l'homme\ttab", ""]


def test_bytes_round_trip():
    tokenizer = load_tokenizer("bytes")
    assert len(tokenizer) == 256 + len(SPECIAL_TOKENS)
    for text in TEXTS:
        ids = tokenizer(text, add_special_tokens=False)["input_ids"]
        assert len(ids) == len(text.encode())
        assert tokenizer.decode(ids, clean_up_tokenization_spaces=False) == text


def test_special_tokens_come_first_and_split_the_text():
    tokenizer = load_tokenizer("bytes")
    assert tokenizer.convert_tokens_to_ids(list(SPECIAL_TOKENS)) == [0, 1, 2, 3, 4, 5]
    assert (tokenizer.pad_token_id, tokenizer.bos_token_id, tokenizer.eos_token_id) == (0, 1, 2)
    assert tokenizer("a<|translation|>b", add_special_tokens=False)["input_ids"][1] == 5


def test_text_of_a_tokenizer_gives_it_back(tmp_path):
    tokenizer = load_tokenizer("bytes")
    text = tokenizer.backend_tokenizer.to_str()
    assert load_tokenizer(text).backend_tokenizer.to_str() == text
    (tmp_path / "tokenizer.json").write_text(text, encoding="utf-8")
    assert load_tokenizer(str(tmp_path / "tokenizer.json")).backend_tokenizer.to_str() == text


def test_a_folder_in_the_hub_format(tmp_path):
    load_tokenizer("bytes").save_pretrained(tmp_path)
    loaded = load_tokenizer(str(tmp_path))
    assert loaded("hi", add_special_tokens=False) == load_tokenizer("bytes")("hi", add_special_tokens=False)


def test_missing_and_broken_files(tmp_path):
    with pytest.raises(UserError, match=r"There is no tokenizer file '.*none\.json'"):
        load_tokenizer(str(tmp_path / "none.json"))
    (tmp_path / "broken.json").write_text("{]")
    with pytest.raises(UserError, match=r"broken\.json' is not a tokenizer"):
        load_tokenizer(str(tmp_path / "broken.json"))
    Tokenizer(models.BPE(vocab={"a": 0}, merges=[])).save(str(tmp_path / "bare.json"))
    with pytest.raises(UserError, match="lacks the special tokens <pad>, <s>, </s>"):
        load_tokenizer(str(tmp_path / "bare.json"))
    with pytest.raises(UserError, match="No tokenizer could be loaded"):
        load_tokenizer(str(tmp_path / "folder"))


def test_a_tokenizer_without_end(tmp_path):
    PreTrainedTokenizerFast(tokenizer_object=load_tokenizer("bytes").backend_tokenizer).save_pretrained(tmp_path)
    with pytest.raises(UserError, match="no end-of-sequence token"):
        load_tokenizer(str(tmp_path))


@pytest.mark.parametrize(
    ("family", "pad"),
    [
        ("llama_2", "<unk>"),
        ("llama_31", "<|finetune_right_pad_id|>"),
        ("mistral_v01", "<unk>"),
        ("mistral_v03", "<unk>"),
        ("gemma", "<pad>"),
        ("qwen_25", "<|endoftext|>"),
        ("gpt_neox", "<|padding|>"),
        ("japanese_gpt_neox", "[PAD]"),
    ],
)
def test_padding_never_makes_the_vocabulary_larger(family, pad, tmp_path):
    """A pad token of a new id would lie outside the LLM's embedding table."""
    loaded = load_tokenizer(save_tokenizer(family, tmp_path))
    assert loaded.pad_token == pad
    assert len(loaded) == len(TOKENIZERS[family]()) == len(loaded.get_vocab())


def test_a_tokenizer_with_nothing_to_pad_with_pads_with_its_end(tmp_path):
    backend = Tokenizer(models.WordLevel({"a": 0, "end": 1}))
    PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="end").save_pretrained(tmp_path)
    assert load_tokenizer(str(tmp_path)).pad_token_id == 1


def test_adding_tokens_that_are_partly_there(tmp_path):
    """Ids follow the vocabulary; a token that is there keeps its id, and a second time adds none."""
    tokenizer = load_tokenizer(save_tokenizer("japanese_gpt_neox", tmp_path))
    assert add_special_tokens(tokenizer, ["<|a|>", "[SEP]", "<|b|>"]) == [11, 12]
    assert add_special_tokens(tokenizer, ["<|a|>", "[SEP]", "<|b|>"]) == []
    assert tokenizer("今日<|b|>日", add_special_tokens=False)["input_ids"] == [9, 10, 12, 10]
    assert load_tokenizer(tokenizer.backend_tokenizer.to_str().replace("[PAD]", "<pad>")).get_vocab()["<|b|>"] == 12
