"""Tiny encoders and LLMs that have names: folders in the format of the Hugging Face hub."""

from transformers import AutoConfig, AutoModelForCausalLM, WhisperConfig, WhisperModel

from speechllm.decoders.tokenizer import load_tokenizer
from speechllm.registry import ENCODERS
from tests.tiny import LLM_FAMILIES, SIZES

WHISPER_DECODER = {
    "decoder_layers": 1,
    "decoder_attention_heads": 2,
    "decoder_ffn_dim": 16,
    "vocab_size": 9,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "decoder_start_token_id": 1,
}


def save_whisper(folder):
    """Write a tiny Whisper and return the spec of an encoder that loads it."""
    config = WhisperConfig(**ENCODERS.get("whisper").tiny["config"], **WHISPER_DECODER)
    WhisperModel(config).save_pretrained(folder)
    return {"name": "whisper", "pretrained": str(folder)}


def save_llm(folder, family="llama", tokenizer="bytes"):
    """Write a tiny LLM with its tokenizer, one of bytes by default; return the spec of a decoder that loads it."""
    tokenizer = load_tokenizer(str(tokenizer))
    options = {**SIZES, **LLM_FAMILIES[family], "vocab_size": len(tokenizer), "eos_token_id": 2}
    AutoModelForCausalLM.from_config(AutoConfig.for_model(family, **options)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return {"name": "causal_lm", "pretrained": str(folder)}
