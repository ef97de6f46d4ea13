"""A trained model as a folder of safetensors and plain text, which moves and is shared (spec §14)."""

import json
import re
import shutil
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from speechllm.errors import UserError

DESCRIPTION_FILE = "speechllm.json"
WEIGHTS_FILE = "model.safetensors"
RECIPE_FILE = "config.yaml"
TOKENIZER_FOLDER = "tokenizer"
LLM_FOLDER = "llm"
FORMAT = 1
"""Version of the folder's form."""

HUB = "hf://"
"""What a model's name on the Hugging Face hub begins with, so that a mistyped path never reaches a network."""

_HUB_NAME = re.compile(r"hf://(?P<name>[\w.-]+/[\w.-]+)(@(?P<revision>[\w./-]+))?")


def is_export(path: str | Path) -> bool:
    """Return whether a folder holds an exported model."""
    return (Path(path) / DESCRIPTION_FILE).is_file()


def find_export(model: str | Path) -> Path:
    """Return the folder of a model, which is downloaded where its name begins with ``hf://``.

    Args:
        model: A path, or ``hf://OWNER/NAME`` or ``hf://OWNER/NAME@REVISION``.

    Raises:
        UserError: If the name on the hub cannot be, or cannot be downloaded.
    """
    if not str(model).startswith(HUB):
        return Path(model)
    match = _HUB_NAME.fullmatch(str(model))
    if match is None:
        msg = f"'{model}' is not a name on the hub: write hf://OWNER/NAME or hf://OWNER/NAME@REVISION."
        raise UserError(msg)
    import huggingface_hub

    try:
        folder = Path(huggingface_hub.snapshot_download(match["name"], revision=match["revision"]))
    except Exception as error:  # of the hub, of the network, of the disk
        msg = (
            f"'{model}' could not be downloaded: {str(error).splitlines()[0]} Private models need `hf auth login`; "
            f"without a network, name a folder."
        )
        raise UserError(msg) from error
    if not is_export(folder):
        msg = f"'{model}' is not a model of speechllm: it has no {DESCRIPTION_FILE}."
        raise UserError(msg)
    return folder


def write_export(checkpoint: Mapping[str, Any], decoder: Any, folder: Path, merged: bool) -> dict[str, Any]:
    """Write weights, description, tokenizer and recipe options of a trained model.

    Args:
        checkpoint: The checkpoint, as :func:`speechllm.models.checkpoint.read_checkpoint` reads it.
        decoder: The model's decoder, whose tokenizer is written.
        folder: Where to.
        merged: Whether the LLM stands in ``folder / llm`` already, with its LoRA merged.

    Returns:
        The description.
    """
    from safetensors.torch import save_file

    options = dict(checkpoint["hyper_parameters"]) | {"init_from": None}
    base_models = list(dict.fromkeys(entry["name"] for entry in frozen_checkpoints(options)))
    state: Mapping[str, Tensor] = checkpoint["state_dict"]
    if merged:
        options["decoder"] = merged_spec(options["decoder"], LLM_FOLDER)
        state = {key: value for key, value in state.items() if not key.startswith("decoder.")}
    tensors, same = _distinct(state)
    save_file(tensors, folder / WEIGHTS_FILE, metadata={"format": "pt"})
    decoder.tokenizer.save_pretrained(folder / TOKENIZER_FOLDER)
    own_tokenizer = "tokenizer" in checkpoint and not merged
    if own_tokenizer:  # the very text that the model was trained with
        path = folder / TOKENIZER_FOLDER / "tokenizer.json"
        path.write_text(checkpoint["tokenizer"], encoding="utf-8")
        options["decoder"] = {key: value for key, value in options["decoder"].items() if key != "tokenizer"}
    options["encoder"] = _without_cache(options["encoder"])
    options, inside = _take_files_along(options, folder)
    description = {
        "format": FORMAT,
        "speechllm": version("speechllm"),
        "options": {key: value for key, value in options.items() if not key.startswith("_")},
        "inside": inside + ([["decoder", "pretrained"]] if merged else []),
        "own_tokenizer": own_tokenizer,
        "trained_on": [list(triple) for triple in checkpoint.get("trained_on", [])],
        "step": checkpoint.get("global_step"),
        "same": same,
        "prompt": describe_prompt(decoder),
        "frozen": frozen_checkpoints(options),
        "base_models": base_models,
    }
    text = json.dumps(description, indent=1, ensure_ascii=False, default=_plain)
    (folder / DESCRIPTION_FILE).write_text(text + "\n", encoding="utf-8")
    return description


def read_export(folder: Path) -> dict[str, Any]:
    """Read an exported model as a checkpoint is read; nothing in it is executed.

    Args:
        folder: The folder.

    Raises:
        UserError: If something is missing or damaged.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        description = json.loads((folder / DESCRIPTION_FILE).read_text(encoding="utf-8"))
        if description["format"] > FORMAT:
            msg = f"'{folder}' was written by speechllm {description['speechllm']}, a later one. Upgrade speechllm."
            raise UserError(msg)
        state = load_file(folder / WEIGHTS_FILE)
        state |= {key: state[first] for key, first in description["same"].items()}
        options = description["options"]
        for *parts, last in description["inside"]:
            spec = options
            for part in parts:
                spec = spec[part]
            spec[last] = str(folder / spec[last])
        checkpoint = {
            "state_dict": state,
            "hyper_parameters": options,
            "trained_on": description["trained_on"],
            "global_step": description["step"],
        }
        if description["own_tokenizer"]:
            path = folder / TOKENIZER_FOLDER / "tokenizer.json"
            checkpoint["tokenizer"] = path.read_text(encoding="utf-8")
    except (OSError, KeyError, TypeError, IndexError, SafetensorError, json.JSONDecodeError) as error:
        msg = f"The exported model '{folder}' is damaged or not whole: {error}. Export or download it again."
        raise UserError(msg) from error
    return checkpoint


def merged_spec(spec: Mapping[str, Any], llm: str) -> dict[str, Any]:
    """Return a decoder's spec with the merged LLM in the place of the one that it was trained on."""
    gone = ("config", "tokenizer", "revision", "lora")
    kept = {key: value for key, value in spec.items() if key not in gone}
    return {**kept, "pretrained": llm, "tuning": "frozen"}


def merge_llm(decoder: Any, folder: Path) -> int:
    """Merge the LoRA of a decoder's LLM and write the LLM as a Hugging Face folder; return how many layers had one.

    Four-bit weights become ordinary ones of the decoder's ``dtype``.
    """
    from speechllm.decoders.hugging_face import save_llm
    from speechllm.lora import merge_lora

    if decoder.new_tokens is not None:
        decoder.new_tokens.move_back(decoder.llm)
    layers = merge_lora(decoder.llm)
    save_llm(decoder.llm, decoder.tokenizer, folder)
    return layers


def describe_prompt(decoder: Any) -> dict[str, Any]:
    """Return what stands around the speech and ends an answer, as text."""
    prompt = decoder.prompt
    return {
        "style": prompt.name,
        "template": prompt.template,
        "instructions": dict(prompt.instructions),
        "system": prompt.system,
        "separator": prompt.separator,
        "end_token": decoder.tokenizer.convert_ids_to_tokens(prompt.end_id),
    }


def frozen_checkpoints(options: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return part, name and revision of each checkpoint whose frozen weights are not written."""
    found = []

    def walk(part: str, spec: Any) -> None:
        if isinstance(spec, Mapping):
            if spec.get("pretrained"):
                entry = {"part": part, "name": spec["pretrained"], "revision": spec.get("revision")}
                found.append(entry | {"tuning": spec.get("tuning", "frozen")})
            for value in spec.values():
                walk(part, value)
        elif isinstance(spec, list | tuple):
            for value in spec:
                walk(part, value)

    for part in ("encoder", "adapter", "decoder"):
        walk(part, options.get(part))
    return found


def _distinct(state: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Return the tensors that safetensors can hold, and the keys of those that are another one, such as tied tables."""
    tensors: dict[str, Tensor] = {}
    same: dict[str, str] = {}
    places: dict[tuple[Any, ...], str] = {}
    for key, value in state.items():
        place = (value.untyped_storage().data_ptr(), value.storage_offset(), tuple(value.shape), value.stride())
        first = places.setdefault(place, key) if value.numel() else key
        if first != key and torch.equal(value, state[first]):
            same[key] = first
        else:
            tensors[key] = value.detach().clone().contiguous()
    return tensors, same


def _take_files_along(options: dict[str, Any], folder: Path) -> tuple[dict[str, Any], list[list[str]]]:
    """Copy the files that specs of adapter and decoder name, such as a tokenizer, and name the copies instead."""
    options, inside = dict(options), []
    for part, option in (("adapter", "vocabulary"), ("decoder", "tokenizer")):
        value = options[part].get(option)
        if isinstance(value, str) and value.endswith(".json") and Path(value).is_file():
            name = f"{part}_{option}.json"
            shutil.copyfile(value, folder / name)
            options[part] = {**options[part], option: name}
            inside.append([part, option])
    return options, inside


def _without_cache(spec: Any) -> Any:
    """Return an encoder's spec without the folder of its frames, which stays where it is."""
    if isinstance(spec, Mapping):
        return {key: _without_cache(value) for key, value in spec.items() if key != "cache"}
    return [_without_cache(value) for value in spec] if isinstance(spec, list | tuple) else spec


def _plain(value: Any) -> Any:
    if isinstance(value, set | frozenset | tuple):
        return list(value)
    return str(value)
