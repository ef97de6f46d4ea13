"""Weights that training starts from: those of a run before it (spec §10.6, §15.4)."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from speechllm.errors import UserError
from speechllm.lora import BASE_LAYER
from speechllm.models.checkpoint import (
    count_by_part,
    find_checkpoint,
    lora_differences,
    read_checkpoint,
    saved_keys,
)
from speechllm.models.sharding import load_state
from speechllm.models.tensor_parallel import whole_shapes
from speechllm.quantization import NF4Linear, plain_shapes


def find_initial(init_from: str | Sequence[str]) -> list[Path]:
    """Return the checkpoints that a recipe's ``init_from`` means.

    Args:
        init_from: Run folder or checkpoint file, or several checkpoints.

    Raises:
        UserError: If one is missing.
    """
    return [find_checkpoint(run) for run in ([init_from] if isinstance(init_from, str) else init_from)]


def load_initial(model: nn.Module, paths: Sequence[Path], specs: Mapping[str, Any]) -> tuple[str, set[str]]:
    """Load the tensors of checkpoints into a model of another recipe, where their names are the same.

    A part of another kind, such as an adapter `cif` where the run had `ctc`, begins anew: names alone may agree by
    chance. Weights of a layer that LoRA wraps in one of the two recipes and not in the other are the same weights, and
    plain weights are quantised where the recipe holds them in four bits.

    Args:
        model: The model, with its parts built.
        paths: Checkpoints; several are averaged, tensor by tensor.
        specs: The model's specs by part.

    Returns:
        A line that says by part how many tensors were loaded, are new and were left out; and the keys of the model's
        state dict that have changed.

    Raises:
        UserError: If shapes or LoRA's scale differ, or nothing fits; or if the checkpoints of an average do.
    """
    checkpoints = [read_checkpoint(path) for path in paths]
    given = average([checkpoint["state_dict"] for checkpoint in checkpoints])
    shapes = {**plain_shapes(model), **whole_shapes(model)}
    places = {_without_lora(key): key for key in shapes}
    other_kind = _parts_of_another_kind(checkpoints[0]["hyper_parameters"], specs)
    left_out = [key for key in given if _without_lora(key) not in places or key.split(".")[0] in other_kind]
    matched = {places[_without_lora(key)]: value for key, value in given.items() if key not in left_out}
    named = " + ".join(map(str, paths))
    problems = [
        f"{key} is {tuple(value.shape)} there and {tuple(shapes[key])} in the recipe"
        for key, value in matched.items()
        if value.shape != shapes[key]
    ]
    problems += lora_differences(matched, checkpoints[0]["hyper_parameters"], specs)
    if problems or not matched:
        reason = problems[0] if problems else "none of its tensors is in this recipe"
        more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
        msg = f"`init_from: {named}` does not fit: {reason}{more}. Take the part's options from that run's recipe."
        raise UserError(msg)
    load_state(model, matched)
    changed = _own_keys(model, matched)
    counts = {"loaded": changed, "new": saved_keys(model) - changed, "left out": left_out}
    line = "; ".join(f"{what} {count_by_part(sorted(keys))}" for what, keys in counts.items() if keys)
    if any(".lora_" in key for key in left_out):
        line += ". What its LoRA has learned is left out: merge that run first (`speechllm merge`), or keep LoRA"
    return f"Weights from {named}: {line}.", changed


def _parts_of_another_kind(stored: Mapping[str, Any], specs: Mapping[str, Any]) -> set[str]:
    """Return the parts that have another name in a checkpoint's hyperparameters than in the recipe."""
    return {part for part, spec in specs.items() if stored.get(part, {}).get("name") != spec["name"]}


def average(states: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """Return the mean of each tensor over state dicts of one recipe, computed in float32.

    Raises:
        UserError: If they are not of one recipe, or hold four-bit weights that differ.
    """
    first, *others = states
    for state in others:
        shapes = [key for key in first.keys() & state.keys() if first[key].shape != state[key].shape]
        if different := sorted(first.keys() ^ state.keys()) or sorted(shapes):
            msg = (
                f"The checkpoints to average are of different recipes: '{different[0]}' is not the same in all of them."
            )
            raise UserError(msg)
    mean = dict(first)
    for key, value in first.items():
        if others and value.is_floating_point():
            mean[key] = torch.stack([state[key].float() for state in states]).mean(dim=0).to(value.dtype)
        elif any(not torch.equal(value, state[key]) for state in others):
            msg = f"The checkpoints cannot be averaged: '{key}' holds whole numbers that differ."
            raise UserError(msg)
    return mean


def _without_lora(key: str) -> str:
    """Return a tensor's name as it is where LoRA does not wrap its layer."""
    return key.replace(f".{BASE_LAYER}.", ".")


def _own_keys(model: nn.Module, loaded: Mapping[str, Tensor]) -> set[str]:
    """Return the state dict's keys of loaded tensors: a plain weight may have become a four-bit one."""
    keys = set(loaded)
    for name, layer in model.named_modules():
        if isinstance(layer, NF4Linear) and f"{name}.weight" in keys:
            keys = keys - {f"{name}.weight"} | {f"{name}.quantized", f"{name}.absmax_bits"}
    return keys
