"""The tiny twin of a recipe: the same parts and options with random weights, small sizes and two steps on the CPU."""

from copy import deepcopy

from speechllm.registry import ADAPTERS, DECODERS, ENCODERS, FUSIONS
from tests.tiny import LLM_FAMILIES, SIZES

FAMILIES = {
    "gemma-2": "gemma2",
    "gemma": "gemma",
    "gpt-neox": "gpt_neox",
    "llama": "llama",
    "mistral": "mistral",
    "qwen2.5": "qwen2",
}
"""Model type of each family of LLMs, by a piece of its checkpoints' names; the first piece found counts."""

SPECIAL_TOKENS = {
    "gemma2": (),
    "gemma": (),
    "gpt_neox": ("[SEP]",),
    "llama": (),
    "mistral": (),
    "qwen2": ("<|endoftext|>",),
}
"""Pieces beyond pad, begin and end that a family's vocabulary has of what prompts write."""

CHAT_TEMPLATE = (
    "{% for m in messages %}{{ bos_token if loop.first else '' }}<{{ m['role'] }}> {{ m['content'] }}"
    "{{ eos_token if m['role'] == 'assistant' else '' }}{% endfor %}"
)
"""What the tokenizers of instructed models have and those of base models lack."""

DATA = {"num_workers": 0, "num_buckets": 2, "max_utterances": 3}
CORPORA = {"MlcSlmDataModule": {"held_out_hours": 0}, "ReazonSpeechDataModule": {"dev_rows": 2, "test_rows": 2}}
"""What the fakes of some corpora are too small for."""

TRAINER = {
    "accelerator": "cpu",
    "devices": 1,
    "strategy": "auto",
    "max_steps": 2,
    "limit_val_batches": 1,
    "log_every_n_steps": 1,
    "enable_progress_bar": False,
    "enable_model_summary": False,
}


def make_twin(recipe, tokenizers):
    """Return a recipe with tiny random weights for its checkpoints, and with sizes, steps and hardware made small.

    Args:
        recipe: A recipe, as its YAML file holds it.
        tokenizers: Folder that :func:`write_tokenizers` wrote.
    """
    twin = deepcopy(recipe)
    model, trainer = twin["model"]["init_args"], twin["trainer"]
    model["encoder"] = tiny_spec(ENCODERS, model["encoder"])
    model["adapter"] = tiny_spec(ADAPTERS, model["adapter"])
    model["decoder"] = tiny_decoder_spec(model["decoder"], tokenizers)
    model |= {"warmup_steps": 1, "max_new_tokens": 5}
    twin["data"]["init_args"] |= DATA | CORPORA.get(twin["data"]["class_path"], {})
    accumulated = min(2, trainer.get("accumulate_grad_batches", 1))
    trainer |= TRAINER | {"accumulate_grad_batches": accumulated, "val_check_interval": 2 * accumulated}
    trainer["check_val_every_n_epoch"] = None
    trainer.pop("max_epochs", None)
    return twin


def tiny_spec(registry, spec):
    """Return a part's spec at the part's own tiny size, with every option of the recipe that is no size."""
    spec = {key: value for key, value in spec.items() if key not in ("pretrained", "revision")}
    if "encoders" in spec:
        inner = [tiny_spec(registry, encoder) for encoder in spec["encoders"]]
        return {**spec, "encoders": inner, "fusion": tiny_spec(FUSIONS, spec["fusion"])}
    return {**spec, **registry.get(spec["name"]).tiny}


def tiny_decoder_spec(spec, tokenizers):
    """Return a decoder's spec with a tiny model of its checkpoint's family, and a tokenizer like that family's."""
    if spec.get("pretrained") is None:
        return tiny_spec(DECODERS, spec)
    name = spec["pretrained"].lower()
    family = next(model_type for piece, model_type in FAMILIES.items() if piece in name)
    tokenizer = tokenizers / f"{family}{'_instruct' if 'instruct' in name else ''}"
    config = {"model_type": family, **SIZES, **LLM_FAMILIES[family]}
    return {**tiny_spec(DECODERS, spec), "config": config, "tokenizer": str(tokenizer)}


def write_tokenizers(folder):
    """Write a tokenizer of bytes for each family, with its special tokens and, where instructed, a chat template."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    for family, tokens in SPECIAL_TOKENS.items():
        special = ["<pad>", "<s>", "</s>", *tokens]
        alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
        tokenizer = Tokenizer(models.BPE(vocab={token: i for i, token in enumerate([*special, *alphabet])}, merges=[]))
        tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in special])
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        tokenizer.decoder = decoders.ByteLevel()
        wrapped = PreTrainedTokenizerFast(
            tokenizer_object=tokenizer, pad_token="<pad>", bos_token="<s>", eos_token="</s>"
        )
        wrapped.save_pretrained(folder / family)
        wrapped.chat_template = CHAT_TEMPLATE
        wrapped.save_pretrained(folder / f"{family}_instruct")
    return folder
