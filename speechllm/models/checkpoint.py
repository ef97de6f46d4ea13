"""What a checkpoint holds of the weights, and what must be in it to be loaded."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from speechllm.errors import UserError
from speechllm.lora import LoraOptions
from speechllm.models.resuming.checkpoint_files import damage
from speechllm.models.tensor_parallel import whole_shapes
from speechllm.tuning import TunableModule


def saved_keys(model: nn.Module) -> set[str]:
    """Return the keys of the state dict that a checkpoint holds.

    Weights that are frozen and have a name are left out, since that name brings them back: the matrices of LoRA stay,
    the weights below them go. Frozen random weights have no name, and stay in. A part inside a part, such as each of
    two parallel encoders, is judged by itself.
    """
    parts = {name: part for name, part in model.named_modules() if isinstance(part, TunableModule)}
    trained = {key for key, parameter in model.named_parameters(remove_duplicate=False) if parameter.requires_grad}
    buffers = dict(model.named_buffers(remove_duplicate=False))
    saved = set()
    for key in model.state_dict():
        part = _innermost(parts, key)
        fixed = part is not None and part.pretrained is not None and not (part.tuning == "full" and key in buffers)
        if key in trained or not fixed:
            saved.add(key)
    return saved


def _innermost(parts: Mapping[str, TunableModule], key: str) -> TunableModule | None:
    """Return the part that a tensor belongs to, by the longest of their names."""
    name = key
    while "." in name:
        name = name.rpartition(".")[0]
        if name in parts:
            return parts[name]
    return None


def check_state(model: nn.Module, checkpoint: Mapping[str, Any], specs: Mapping[str, Any]) -> str:
    """Check that a checkpoint's weights are those of this model.

    Args:
        model: The model to load into, with its parts built.
        checkpoint: A checkpoint as Lightning writes it.
        specs: The model's specs by part, for the message.

    Returns:
        A line that says how many tensors of each part the checkpoint holds.

    Raises:
        UserError: If trained tensors are missing, unknown or of another shape; the message counts them by part and says
            where recipe and checkpoint differ.
    """
    given: Mapping[str, Tensor] = checkpoint["state_dict"]
    own = {key: value.shape for key, value in model.state_dict().items()} | whole_shapes(model)
    missing = sorted(saved_keys(model) - set(given))
    unexpected = sorted(set(given) - set(own))
    shapes = [
        f"{key} is {tuple(value.shape)} in the checkpoint and {tuple(own[key])} in the recipe"
        for key, value in given.items()
        if key in own and own[key] != value.shape
    ]
    stored = checkpoint.get("hyper_parameters", {})
    scales = lora_differences(given, stored, specs)
    if not (missing or unexpected or shapes or scales):
        return "loaded " + (count_by_part(given) or "no tensors")
    differences = [
        f"{part}: checkpoint {_plain(stored.get(part))}, recipe {_plain(spec)}"
        for part, spec in specs.items()
        if part in stored and _plain(stored.get(part)) != _plain(spec)
    ]
    problems = [f"missing {count_by_part(missing)}"] if missing else []
    problems += [f"unknown {count_by_part(unexpected)}"] if unexpected else []
    problems += [f"shape: {shapes[0]}" + (f" and {len(shapes) - 1} more" if len(shapes) > 1 else "")] if shapes else []
    problems += scales
    msg = (
        f"The checkpoint is of another recipe: {'; '.join(problems)}. "
        f"{'They differ in ' + '; '.join(differences) + '. ' if differences else ''}"
        f"Use the recipe it was trained with (`config.yaml` in its run folder), or another checkpoint."
    )
    raise UserError(msg)


def lora_differences(given: Iterable[str], stored: Mapping[str, Any], specs: Mapping[str, Any]) -> list[str]:
    """Return where the scale of LoRA, which no tensor holds, is not the one that its matrices were trained with.

    Args:
        given: Keys of a checkpoint's state dict.
        stored: The checkpoint's specs by part.
        specs: The recipe's specs by part.
    """
    differences = []
    for part in {key.partition(".")[0] for key in given if ".lora_" in key} & set(stored) & set(specs):
        pairs = zip(flat_specs(stored[part]), flat_specs(specs[part]), strict=False)
        for before, now in pairs:
            was, is_now = (LoraOptions.parse(spec.get("lora")).scaling for spec in (before, now))
            if was != is_now:
                differences.append(f"alpha / r of the {part}'s LoRA is {was:g} in the checkpoint and {is_now:g} here")
    return differences


def flat_specs(spec: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Return a part's spec and those of the parts inside it, as a parallel encoder lists them."""
    lists = [value for value in spec.values() if isinstance(value, list | tuple)]
    return [spec, *(item for value in lists for item in value if isinstance(item, Mapping) and "name" in item)]


def find_checkpoint(run: str | Path) -> Path:
    """Return the checkpoint that a run folder or a path means.

    Args:
        run: A ``.ckpt`` file, or a run folder: the best checkpoint by validation, else the last one.

    Raises:
        UserError: If there is none.
    """
    path = Path(run)
    if path.is_file():
        return path
    candidates = [path / "checkpoints" / name for name in ("best.ckpt", "last.ckpt", "last-1.ckpt")]
    for candidate in candidates:
        if candidate.is_file():
            return candidate
    looked = "no such file or folder" if not path.exists() else "it has neither checkpoints/best.ckpt nor last.ckpt"
    msg = f"There is no trained model at '{run}': {looked}. Train one with `speechllm fit --config …`, or name another."
    raise UserError(msg)


def read_checkpoint(path: Path) -> dict[str, Any]:
    """Read a checkpoint onto the CPU without executing anything that it holds, after a look at its checksum.

    Raises:
        UserError: If the file is damaged, or not a checkpoint of this package.
    """
    if path.is_file() and (problem := damage(path)):
        msg = f"'{path}' is not a readable checkpoint: {problem}"
        raise UserError(msg)
    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except Exception as error:  # torch raises many kinds for damaged and for foreign files
        msg = f"'{path}' is not a readable checkpoint: {str(error).splitlines()[0]}"
        raise UserError(msg) from error
    if not isinstance(checkpoint, dict) or not {"state_dict", "hyper_parameters"} <= set(checkpoint):
        msg = f"'{path}' is not a checkpoint of speechllm: it has no weights with their recipe."
        raise UserError(msg)
    return checkpoint


def count_by_part(keys: Iterable[str]) -> str:
    """Return how many tensors of each part there are, ``"12 of adapter, 3 of decoder"``."""
    parts: dict[str, int] = {}
    for key in keys:
        part = key.split(".")[0]
        parts[part] = parts.get(part, 0) + 1
    return ", ".join(f"{count} of {part}" for part, count in parts.items())


def _plain(spec: Any) -> str:
    """Return a spec in one line, long values cut."""
    if not isinstance(spec, Mapping):
        return str(spec)
    shown = {key: value for key, value in spec.items() if key not in ("tokenizer", "prompt")}
    text = ", ".join(f"{key}: {value}" for key, value in shown.items())
    return "{" + (text if len(text) < 160 else text[:157] + "…") + "}"
