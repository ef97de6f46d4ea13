"""A recipe's model with random weights of the same sizes, which needs no checkpoint, no tokenizer and no network."""

import json
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from speechllm import known_checkpoints
from speechllm.decoders.tokenizer import load_tokenizer
from speechllm.errors import UserError, did_you_mean

PROMPT_POSITIONS = 20
"""Positions of the prompt around the speech, its begin token included: about what a chat template takes."""

QUICKSTART_VOCABULARY = 512
"""Vocabulary of a tokenizer file that is not there yet: that of the synthetic corpus."""

ENCODER_LAYERS = {"whisper": "encoder_layers", "seamless": "speech_encoder_layers", "hubert": "num_hidden_layers"}
"""Field of each encoder's configuration that says how many layers it has."""

CHECKPOINT_OPTIONS = ("pretrained", "revision", "cache")
NOT_SIZES = {"architectures", "dtype", "torch_dtype", "transformers_version", "_name_or_path", "model_type"}


def random_twin(
    options: Mapping[str, Any], layers: int | None = None, keep_four_bit: bool = True, prompt: int = PROMPT_POSITIONS
) -> dict[str, Any]:
    """Return options of :class:`speechllm.models.speech_llm.SpeechLLM` with random weights for a recipe's checkpoints.

    Args:
        options: The recipe's options of the model.
        layers: Most layers that encoder and LLM are to have; all of theirs where not given.
        keep_four_bit: Whether ``tuning: qlora`` stays; without memory for weights it cannot, and becomes ``lora``.
        prompt: Positions of the prompt.

    Raises:
        UserError: If the sizes of a checkpoint are not known.
    """
    twin = {key: value for key, value in options.items() if key not in ("init_from", "metrics")}
    twin |= {"encoder": _encoder(options["encoder"], layers), "decoder": _decoder(options["decoder"], layers, prompt)}
    if not keep_four_bit:
        for spec in (twin["decoder"], twin["encoder"], *twin["encoder"].get("encoders", [])):
            if spec.get("tuning") == "qlora":
                spec["tuning"] = "lora"
    return twin


def _encoder(spec: Mapping[str, Any], layers: int | None) -> dict[str, Any]:
    if "encoders" in spec:
        return {**spec, "encoders": [_encoder(inner, layers) for inner in spec["encoders"]]}
    twin = {key: value for key, value in spec.items() if key not in CHECKPOINT_OPTIONS}
    config = dict(spec.get("config") or {})
    if spec.get("pretrained"):
        config = _sizes(spec["pretrained"], known_checkpoints.ENCODERS)
    if layers is not None and spec["name"] in ENCODER_LAYERS:
        field = ENCODER_LAYERS[spec["name"]]
        config[field] = min(layers, config.get(field, layers))
    return {**twin, "config": config}


def _decoder(spec: Mapping[str, Any], layers: int | None, prompt: int) -> dict[str, Any]:
    twin = {key: value for key, value in spec.items() if key not in (*CHECKPOINT_OPTIONS, "prompt", "tokenizer")}
    if spec.get("pretrained"):
        config = _sizes(spec["pretrained"], known_checkpoints.LLMS)
        vocabulary = config.pop("vocab_size")
    else:
        config = dict(spec.get("config") or {})
        vocabulary = config.get("vocab_size") or _vocabulary(spec.get("tokenizer"))
    if layers is not None:
        config["num_hidden_layers"] = min(layers, config.get("num_hidden_layers", layers))
    template = "." * (prompt - 1) + "{speech}"
    return {**twin, "config": config, "tokenizer": sized_tokenizer(vocabulary), "prompt": {"template": template}}


def _sizes(pretrained: str, known: Mapping[str, dict[str, Any]]) -> dict[str, Any]:
    """Return the fields that make a checkpoint's size: ours, or those of the ``config.json`` in a folder."""
    if pretrained in known:
        return dict(known[pretrained])
    path = Path(pretrained) / "config.json"
    if not path.is_file():
        msg = (
            f"The sizes of '{pretrained}' are not known without its checkpoint.{did_you_mean(pretrained, known)} Give "
            f"a folder that holds its config.json, or one of: {', '.join(known)}."
        )
        raise UserError(msg)
    from transformers import CONFIG_MAPPING

    found = json.loads(path.read_text(encoding="utf-8"))
    model_type = found.get("model_type")
    if model_type not in CONFIG_MAPPING:
        msg = f"'{path}' is of the model type '{model_type}', which transformers does not know."
        raise UserError(msg)
    fields = {key: found[key] for key in CONFIG_MAPPING[model_type]().to_dict() if key in found}
    fields = {key: value for key, value in fields.items() if key not in NOT_SIZES and not key.endswith("token_id")}
    return fields if known is known_checkpoints.ENCODERS else {"model_type": model_type, **fields}


def _vocabulary(tokenizer: str | None) -> int:
    if tokenizer is None or tokenizer == "bytes":
        return len(load_tokenizer("bytes"))
    if tokenizer.endswith(".json") and not Path(tokenizer).is_file():
        return QUICKSTART_VOCABULARY
    return len(load_tokenizer(tokenizer))


@cache
def sized_tokenizer(vocabulary: int) -> str:
    """Return a tokenizer of bytes, as JSON text, whose vocabulary is filled up with pieces that no text has.

    Args:
        vocabulary: Number of tokens; no fewer than bytes and special tokens are.
    """
    base = json.loads(load_tokenizer("bytes").backend_tokenizer.to_str())
    pieces = base["model"]["vocab"]
    pieces |= {f"<|filler {number}|>": number for number in range(len(pieces), vocabulary)}
    return json.dumps(base, ensure_ascii=False)
