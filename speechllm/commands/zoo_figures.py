"""What parts cost at the sizes of the recipes that name them: parameters and rates, without loading a weight."""

import json
from collections.abc import Iterator, Mapping
from functools import cache
from typing import Any

COUNTED_S = 1600
"""Audio whose positions are counted, in seconds: long enough that one more or less shows in no decimal."""

DEFAULT_RECIPE = {
    "encoder": {"name": "whisper", "pretrained": "openai/whisper-large-v3"},
    "decoder": {"name": "causal_lm", "pretrained": "meta-llama/Llama-3.1-8B-Instruct"},
}
"""What stands around a part that no recipe names."""

RANDOM_LLM = {"hidden_size": 64, "vocab_size": 1000}
"""Sizes of an LLM of random weights that its recipe does not say; no rate depends on them."""

WEIGHTS = ("pretrained", "revision", "tuning", "lora", "dtype")
"""Options of a spec that say which weights a part has, and not how large it is."""

Table = tuple[list[str], list[list[str]]]


def figures(kind: str, name: str) -> Table:
    """Return the columns and rows of what a part costs, one row for each size at which recipes use it.

    Args:
        kind: ``encoders``, ``fusions``, ``adapters`` or ``decoders``.
        name: Registered name.
    """
    columns, rows = {
        "encoders": (["checkpoint", "parameters", "width", "frames/s"], _encoders),
        "fusions": (["between", "parameters", "width"], _fusions),
        "adapters": (["between", "parameters", "without projections", "positions/s"], _adapters),
        "decoders": (["checkpoint", "parameters", "width"], _decoders),
    }[kind]
    return columns, [list(row) for row in dict.fromkeys(tuple(row) for row in rows(name))]


def compression(model: Mapping[str, Any]) -> float | None:
    """Return how many frames of the encoder a recipe's adapter makes one position of.

    Args:
        model: Options of the model, with encoder, adapter and decoder.

    Returns:
        None where the content of the audio decides, or a checkpoint's sizes are not known.

    Raises:
        UserError: If a part or an option of it is not known.
    """
    import speechllm.adapters
    import speechllm.encoders
    import speechllm.fusions  # noqa: F401  # the three imports register the parts
    from speechllm.known_checkpoints import ENCODERS, LLMS

    encoder, llm = model["encoder"], model["decoder"]
    checkpoints = [spec.get("pretrained") for spec in encoder.get("encoders", [encoder])]
    if any(name and name not in ENCODERS for name in checkpoints) or llm.get("pretrained", "") not in {*LLMS, "", None}:
        return None
    built = _encoder(encoder)
    positions = _positions(_adapter(model, built), built)
    return None if positions is None else COUNTED_S * float(built.frame_rate) / positions


def _encoders(name: str) -> Iterator[list[str]]:
    for recipe in _models():
        for spec in (recipe["encoder"], *recipe["encoder"].get("encoders", [])):
            if spec["name"] == name and _known(spec):
                encoder = _encoder(spec)
                yield [_label(spec), _count(encoder), str(encoder.dim), f"{encoder.frame_rate:g}"]


def _fusions(name: str) -> Iterator[list[str]]:
    from speechllm.registry import FUSIONS

    for recipe in _models():
        streams = recipe["encoder"].get("encoders", [])
        if streams and _known(recipe["encoder"]):
            fusion = _on_meta(FUSIONS, {"name": name}, in_dims=tuple(_encoder(spec).dim for spec in streams))
            yield [_label(recipe["encoder"]), _count(fusion), str(fusion.dim)]


def _adapters(name: str) -> Iterator[list[str]]:
    recipes = [recipe for recipe in _models() if recipe["adapter"]["name"] == name and _known(recipe["encoder"])]
    for recipe in recipes or [{**DEFAULT_RECIPE, "adapter": {"name": name}}]:
        encoder = _encoder(recipe["encoder"])
        adapter = _adapter(recipe, encoder)
        core = f"{adapter.core_parameters():,}" if hasattr(adapter, "core_parameters") else ""
        positions = _positions(adapter, encoder)
        rate = "by content" if positions is None else f"{positions / COUNTED_S:.2f}"
        yield [f"{_label(recipe['encoder'])} → {_label(recipe['decoder'])}", _count(adapter), core, rate]


def _adapter(recipe: Mapping[str, Any], encoder: Any) -> Any:
    from speechllm.registry import ADAPTERS

    llm = _llm_config(recipe["decoder"])
    sizes = {"in_dim": encoder.dim, "out_dim": llm["hidden_size"], "vocab_size": llm["vocab_size"]}
    return _on_meta(ADAPTERS, recipe["adapter"], **sizes, frame_rate=encoder.frame_rate)


def _positions(adapter: Any, encoder: Any) -> int | None:
    """Return the positions that an adapter makes of :data:`COUNTED_S` seconds; None where their content decides."""
    import torch

    positions = adapter.output_lengths(torch.tensor([round(COUNTED_S * encoder.frame_rate)]))
    return None if positions is None else int(positions)


def _decoders(name: str) -> Iterator[list[str]]:
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    for recipe in _models():
        if recipe["decoder"]["name"] == name and recipe["decoder"].get("pretrained"):
            config = dict(_llm_config(recipe["decoder"]))
            with torch.device("meta"):
                llm = AutoModelForCausalLM.from_config(AutoConfig.for_model(config.pop("model_type"), **config))
            yield [_label(recipe["decoder"]), _count(llm), str(config["hidden_size"])]


def _models() -> Iterator[dict[str, Any]]:
    """Yield the model's options of each packaged recipe."""
    import yaml

    from speechllm.recipe_files import recipes

    for path in recipes().values():
        yield yaml.safe_load(path.read_text(encoding="utf-8"))["model"]["init_args"]


def _known(encoder: dict[str, Any]) -> bool:
    """Return whether a recipe's encoder is a checkpoint, or made of checkpoints, and not random weights."""
    specs = encoder.get("encoders", [encoder])
    return all(spec.get("pretrained") for spec in specs)


def _encoder(spec: dict[str, Any]) -> Any:
    """Return an encoder of a checkpoint's size, built once whatever number of recipes has it."""
    return _encoder_of(json.dumps(_sized(spec)))


@cache
def _encoder_of(spec: str) -> Any:
    from speechllm.registry import ENCODERS

    return _on_meta(ENCODERS, json.loads(spec))


def _sized(spec: dict[str, Any]) -> dict[str, Any]:
    """Return an encoder's spec with the sizes of its checkpoint in the place of its name."""
    from speechllm.known_checkpoints import ENCODERS

    sized = {key: value for key, value in spec.items() if key not in WEIGHTS}
    if "encoders" in sized:
        return {**sized, "encoders": [_sized(inner) for inner in sized["encoders"]]}
    return {**sized, "config": ENCODERS[spec["pretrained"]]} if spec.get("pretrained") else sized


def _llm_config(spec: dict[str, Any]) -> dict[str, Any]:
    from speechllm.known_checkpoints import LLMS

    return LLMS[spec["pretrained"]] if spec.get("pretrained") else {**RANDOM_LLM, **spec.get("config", {})}


def _on_meta(registry: Any, spec: dict[str, Any], **sizes: Any) -> Any:
    """Build a part without memory for its weights."""
    import torch

    with torch.device("meta"):
        return registry.build(spec, **sizes)


def _label(spec: dict[str, Any]) -> str:
    specs = spec.get("encoders", [spec])
    return " + ".join(inner["pretrained"].rpartition("/")[2] for inner in specs)


def _count(module: Any) -> str:
    return f"{sum(parameter.numel() for parameter in module.parameters()):,}"
