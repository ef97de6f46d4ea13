"""Build Hugging Face language models: from a checkpoint, or with random weights from a configuration."""

from pathlib import Path
from typing import Any

import torch
from torch import nn

from speechllm.decoders.attention import KERNELS, REPLACED
from speechllm.errors import UserError, did_you_mean
from speechllm.random_weights import random_config, random_network


def _attention(config: Any, asked: str | None) -> str | None:
    """Return the attention implementation of transformers for a kernel of training that a recipe names, or none."""
    if asked in (None, *KERNELS) and getattr(config, "attn_logit_softcapping", None) is not None:
        return "eager"
    return None if asked in KERNELS and asked not in REPLACED else asked


def load_llm(pretrained: str, revision: str | None, dtype: torch.dtype, attention: str | None) -> nn.Module:
    """Load a causal language model from the hub or a folder.

    Args:
        pretrained: Checkpoint name or folder.
        revision: Git revision.
        dtype: Number format of the weights.
        attention: Attention implementation of transformers; None chooses.

    Raises:
        UserError: If there is no such checkpoint, or it lacks weights of its own architecture.
    """
    from transformers import AutoConfig, AutoModelForCausalLM

    try:
        config = AutoConfig.from_pretrained(pretrained, revision=revision)
        llm, info = AutoModelForCausalLM.from_pretrained(
            pretrained,
            revision=revision,
            dtype=dtype,
            attn_implementation=_attention(config, attention),
            output_loading_info=True,
        )
    except (OSError, KeyError, ValueError) as error:
        msg = (
            f"The language model '{pretrained}' could not be loaded: {error} Give the name or folder of a "
            f"Hugging Face causal LM; gated ones need `hf auth login`."
        )
        raise UserError(msg) from error
    if info["missing_keys"]:
        msg = f"'{pretrained}' lacks the weights {sorted(info['missing_keys'])[:3]} and others of its own architecture."
        raise UserError(msg)
    module: nn.Module = llm
    return module


def random_llm(config: dict[str, Any], tokenizer: Any, attention: str | None) -> nn.Module:
    """Build a causal language model with random weights.

    Args:
        config: Fields of the configuration, ``model_type`` among them.
        tokenizer: Tokenizer that sets the vocabulary size and special tokens.
        attention: Attention implementation of transformers; None chooses.

    Raises:
        UserError: If transformers has no such model type, or a field or value of the configuration cannot be.
    """
    from transformers import CONFIG_MAPPING, AutoModelForCausalLM

    options = dict(config)
    model_type = str(options.pop("model_type", None))
    if model_type not in CONFIG_MAPPING:
        msg = f"Unknown `model_type` '{model_type}' of the decoder's config.{did_you_mean(model_type, CONFIG_MAPPING)}"
        raise UserError(msg)
    special = {f"{name}_token_id": getattr(tokenizer, f"{name}_token_id") for name in ("pad", "bos", "eos")}
    built = random_config(CONFIG_MAPPING[model_type], {**options, "vocab_size": len(tokenizer), **special})

    def build(config: Any) -> nn.Module:
        llm: nn.Module = AutoModelForCausalLM.from_config(config, attn_implementation=_attention(config, attention))
        return llm

    module: nn.Module = random_network(build, built)
    return module


def save_llm(llm: Any, tokenizer: Any, folder: Path) -> None:
    """Write a language model as the folder that :func:`load_llm` and other programs load.

    Args:
        llm: Hugging Face causal language model of ordinary layers.
        tokenizer: Its tokenizer.
        folder: Where ``config.json``, ``model.safetensors`` and the tokenizer go.
    """
    if llm.config.tie_word_embeddings:
        # Merging LoRA into one of two tables that were the same leaves two that differ.
        llm.config.tie_word_embeddings = llm.get_input_embeddings().weight is llm.get_output_embeddings().weight
    llm.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
