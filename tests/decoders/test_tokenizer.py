"""Tokenizers without a network: bytes, files, text."""

import pytest
from tokenizers import Tokenizer, models
from transformers import PreTrainedTokenizerFast

from speechllm.decoders.tokenizer import SPECIAL_TOKENS, load_tokenizer
from speechllm.errors import UserError

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


def test_a_tokenizer_without_end_or_padding(tmp_path):
    backend = load_tokenizer("bytes").backend_tokenizer
    PreTrainedTokenizerFast(tokenizer_object=backend).save_pretrained(tmp_path / "endless")
    with pytest.raises(UserError, match="no end-of-sequence token"):
        load_tokenizer(str(tmp_path / "endless"))
    PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="</s>").save_pretrained(tmp_path / "unpadded")
    assert load_tokenizer(str(tmp_path / "unpadded")).pad_token_id == 2
