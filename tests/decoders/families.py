"""Tiny tokenizers in the real format of the papers' LLM families: same classes, special tokens and chat formats."""

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import GemmaTokenizer, GPTNeoXTokenizer, LlamaTokenizer, PreTrainedTokenizerFast, Qwen2Tokenizer

WORDS = ("good", "day", "guten", "Tag", "can", "you", "transcribe", "English", "Please", "the", "following", "audio")

LLAMA_31 = (
    "{{ bos_token }}{% if messages[0]['role'] == 'system' %}{% set system_message = messages[0]['content'] | trim %}"
    "{% set messages = messages[1:] %}{% else %}{% set system_message = '' %}{% endif %}"
    "<|start_header_id|>system<|end_header_id|>\n\nCutting Knowledge Date: December 2023\n"
    "Today Date: {{ date_string }}\n\n{{ system_message }}<|eot_id|>"
    "{% for m in messages %}<|start_header_id|>{{ m.role }}<|end_header_id|>\n\n{{ m.content | trim }}<|eot_id|>"
    "{% endfor %}{% if add_generation_prompt %}<|start_header_id|>assistant<|end_header_id|>\n\n{% endif %}"
)
MISTRAL_V03 = (
    "{{ bos_token }}{% for m in messages %}{% if m.role == 'user' %}[INST] {{ m.content }}[/INST]"
    "{% else %} {{ m.content | trim }}{{ eos_token }}{% endif %}{% endfor %}"
)
GEMMA = (
    "{{ bos_token }}{% if messages[0]['role'] == 'system' %}{{ raise_exception('System role not supported') }}"
    "{% endif %}{% for m in messages %}<start_of_turn>{{ 'model' if m.role == 'assistant' else m.role }}\n"
    "{{ m.content | trim }}<end_of_turn>\n{% endfor %}"
)
QWEN = (
    "{% if messages[0]['role'] != 'system' %}<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n{% endif %}"
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
)


def merges_for(words):
    """Return the merges that build each word from its characters, left to right."""
    merges = [(word[:end], word[end]) for word in words for end in range(1, len(word))]
    return list(dict.fromkeys(merges))


def numbered(*pieces):
    """Return a vocabulary with the pieces in order, without repetition."""
    return {piece: index for index, piece in enumerate(dict.fromkeys(pieces))}


def sentencepiece(special, words):
    """Return vocabulary and merges of a BPE with byte fallback, as sentencepiece gives them to Llama and Gemma."""
    merges = merges_for(words)
    characters = ["▁", *sorted(set("".join(words)) | set(".,:?<>|[]"))]
    pieces = (f"<0x{byte:02X}>" for byte in range(256))
    return numbered(*special, *pieces, *characters, *(a + b for a, b in merges)), merges


def byte_level(special, words):
    """Return vocabulary and merges of a byte-level BPE, as those of Llama 3, Qwen and GPT-NeoX."""
    merges = merges_for(words)
    return numbered(*special, *sorted(pre_tokenizers.ByteLevel.alphabet()), *(a + b for a, b in merges)), merges


def llama_2():
    """Llama 2: no padding token, no chat template of the base model."""
    vocab, merges = sentencepiece(("<unk>", "<s>", "</s>"), [f"▁{word}" for word in WORDS])
    return LlamaTokenizer(vocab=vocab, merges=merges)


def llama_31():
    """Llama 3.1 Instruct: answers end with ``<|eot_id|>``; the padding token is there, and not declared."""
    special = ("<|begin_of_text|>", "<|end_of_text|>", "<|finetune_right_pad_id|>", "<|start_header_id|>")
    special = (*special, "<|end_header_id|>", "<|eom_id|>", "<|eot_id|>")
    vocab, merges = byte_level((), [f"Ġ{word}" for word in WORDS])
    backend = Tokenizer(models.BPE(vocab=vocab, merges=merges))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in special])
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, bos_token=special[0], eos_token="<|eot_id|>", chat_template=LLAMA_31
    )


def mistral_v01():
    """Mistral v0.1: as Llama 2."""
    return llama_2()


def mistral_v03():
    """Mistral v0.3 Instruct: the marks of an instruction are tokens."""
    vocab, merges = sentencepiece(("<unk>", "<s>", "</s>", "[INST]", "[/INST]"), [f"▁{word}" for word in WORDS])
    tokenizer = LlamaTokenizer(vocab=vocab, merges=merges, chat_template=MISTRAL_V03)
    tokenizer.add_tokens([AddedToken(token, special=True, normalized=False) for token in ("[INST]", "[/INST]")], True)
    return tokenizer


def gemma():
    """Gemma and Gemma 2, instruction-tuned: no system role, answers end with ``<end_of_turn>``."""
    special = ("<pad>", "<eos>", "<bos>", "<unk>", "<mask>", "<start_of_turn>", "<end_of_turn>")
    vocab, merges = sentencepiece(special, [f"▁{word}" for word in WORDS])
    tokenizer = GemmaTokenizer(vocab=vocab, merges=merges, chat_template=GEMMA)
    tokenizer.add_tokens([AddedToken(token, special=True, normalized=False) for token in special[-2:]], True)
    return tokenizer


def qwen_25():
    """Qwen 2.5 base: no BOS, and a chat template that its answers do not follow."""
    vocab, merges = byte_level((), [f"Ġ{word}" for word in WORDS])
    tokenizer = Qwen2Tokenizer(vocab=vocab, merges=merges, unk_token=None, chat_template=QWEN)
    tokenizer.add_tokens(
        [AddedToken(t, special=True, normalized=False) for t in ("<|endoftext|>", "<|im_start|>", "<|im_end|>")], True
    )
    return tokenizer


def gpt_neox():
    """GPT-NeoX: one token for BOS, end and unknown."""
    vocab, merges = byte_level(("<|endoftext|>", "<|padding|>"), [f"Ġ{word}" for word in WORDS])
    return GPTNeoXTokenizer(vocab=vocab, merges=merges)


def japanese_gpt_neox():
    """The Japanese GPT-NeoX of paper C: sentencepiece unigrams, BOS 2, end 3, and ``[SEP]``."""
    special = ("<unk>", "[PAD]", "<s>", "</s>", "[SEP]")
    pieces = [(piece, 0.0) for piece in special]
    pieces += [(piece, -float(place)) for place, piece in enumerate(("今日は", "いい", "天気", "▁", "今", "日"), 1)]
    backend = Tokenizer(models.Unigram(pieces, unk_id=0, byte_fallback=False))
    backend.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="never")
    backend.decoder = decoders.Metaspace(prepend_scheme="never")
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, unk_token="<unk>", bos_token="<s>", eos_token="</s>", sep_token="[SEP]"
    )


TOKENIZERS = {
    "llama_2": llama_2,
    "llama_31": llama_31,
    "mistral_v01": mistral_v01,
    "mistral_v03": mistral_v03,
    "gemma": gemma,
    "qwen_25": qwen_25,
    "gpt_neox": gpt_neox,
    "japanese_gpt_neox": japanese_gpt_neox,
}
MODELS = {
    "llama_2": "llama",
    "llama_31": "llama",
    "mistral_v01": "mistral",
    "mistral_v03": "mistral",
    "gemma": "gemma2",
    "qwen_25": "qwen2",
    "gpt_neox": "gpt_neox",
    "japanese_gpt_neox": "gpt_neox",
}
"""Model type that goes with each tokenizer."""


def save_tokenizer(name, folder):
    """Save a family's tokenizer as its checkpoints hold it, and return the folder's path."""
    TOKENIZERS[name]().save_pretrained(folder)
    return str(folder)
