"""Vocabularies of CTC heads: their sizes, their ids, what is dropped, and the texts of labels."""

import pytest
from tokenizers import Tokenizer, models, pre_tokenizers, processors

from speechllm.adapters.ctc_vocabulary import CTCVocabulary
from speechllm.errors import UserError


def encode(vocabulary, *texts):
    return [ids.tolist() for ids in vocabulary.encode(list(texts))]


def test_the_llms_tokens_are_left_to_its_tokenizer():
    vocabulary = CTCVocabulary("llm", None, 32_768)
    assert vocabulary.size == 32_768
    assert vocabulary.encode(["a"]) is None
    assert vocabulary.text([1]) is None
    assert vocabulary.stats() == {}


def test_bytes():
    vocabulary = CTCVocabulary("bytes", None, 10)
    assert vocabulary.size == 256
    assert encode(vocabulary, "é a", "") == [[0xC3, 0xA9, 32, 97], []]
    assert vocabulary.text([0xC3, 32, 97, 256]) == ["<C3>", " ", "a", ""]


def test_characters():
    vocabulary = CTCVocabulary("characters", None, 10)
    assert vocabulary.size == 28
    assert encode(vocabulary, "Ab's  -  Ö z", "!?") == [[0, 1, 26, 18, 27, 25], []]
    assert vocabulary.dropped == 4
    assert int(vocabulary.stats()["ctc_dropped_characters"]) == 4
    assert encode(vocabulary, "a") == [[0]]
    assert vocabulary.dropped == 0, "the count is that of the last call"
    assert vocabulary.text([0, 27, 28]) == ["a", " ", ""]


def test_alphabet_of_another_language():
    """Composed and decomposed letters are the same; without a space in the alphabet words touch."""
    vocabulary = CTCVocabulary("characters", "aeé", 10)
    assert encode(vocabulary, "É e", "e\u0301a") == [[2, 1], [2, 0]]
    assert vocabulary.dropped == 0


def test_tokenizer_file(tmp_path):
    """Its own special tokens, padding and truncation are not those of a transcript."""
    pieces = {"<s>": 0, "h": 1, "e": 2, "y": 3, "he": 4, "<unk>": 7}
    tokenizer = Tokenizer(models.BPE(vocab=pieces, merges=[("h", "e")], unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing("<s> $A", special_tokens=[("<s>", 0)])
    tokenizer.enable_padding()
    tokenizer.enable_truncation(2)
    path = tmp_path / "tokenizer.json"
    tokenizer.save(str(path))
    vocabulary = CTCVocabulary(str(path), None, 10)
    assert vocabulary.size == 8, "one past the largest id, which has a gap below it"
    assert encode(vocabulary, "hey hey", "y") == [[4, 3, 4, 3], [3]]
    assert vocabulary.text([4, 3, 8]) == ["he", "y", ""]


def test_tokenizer_file_that_is_none(tmp_path):
    (tmp_path / "tokenizer.json").write_text("{}", encoding="utf-8")
    with pytest.raises(UserError, match=r"is not a tokenizer.json of the Hugging Face tokenizers library"):
        CTCVocabulary(str(tmp_path / "tokenizer.json"), None, 10)
    with pytest.raises(UserError, match="There is no tokenizer file"):
        CTCVocabulary(str(tmp_path / "absent.json"), None, 10)


@pytest.mark.parametrize(
    ("vocabulary", "alphabet", "message"),
    [
        ("character", None, "Unknown CTC vocabulary 'character'. Did you mean 'characters'?"),
        ("bytes", "ab", "`alphabet` only means something with `vocabulary: characters`, but that is 'bytes'"),
        ("characters", "aba", r"each once, but has \['a'\] more than once"),
        ("characters", "Ab", "in lower case, each once, but is 'Ab'"),
        ("characters", "", "each once, but is ''"),
    ],
)
def test_wrong_options(vocabulary, alphabet, message):
    with pytest.raises(UserError, match=message):
        CTCVocabulary(vocabulary, alphabet, 10)
