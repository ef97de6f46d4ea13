"""What a checkpoint holds of the weights, and what must be in it to be loaded."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from speechllm.errors import UserError
from speechllm.tuning import TunableModule


def saved_keys(model: nn.Module) -> set[str]:
    """Return the keys of the state dict that a checkpoint holds.

    Weights that are frozen and have a name are left out, since that name brings them back. Frozen random weights have
    none, and stay in.
    """
    left_out: set[str] = set()
    for name, part in model.named_children():
        if not (isinstance(part, TunableModule) and part.pretrained is not None):
            continue
        trained = {key for key, parameter in part.named_parameters(remove_duplicate=False) if parameter.requires_grad}
        buffers = set(dict(part.named_buffers())) if trained else set()
        left_out |= {f"{name}.{key}" for key in part.state_dict() if key not in trained and key not in buffers}
    return set(model.state_dict()) - left_out


def trained_state(model: nn.Module, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the part of ``state`` that a checkpoint holds."""
    keys = saved_keys(model)
    return {key: value for key, value in state.items() if key in keys}


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
    own = model.state_dict()
    missing = sorted(saved_keys(model) - set(given))
    unexpected = sorted(set(given) - set(own))
    shapes = [
        f"{key} is {tuple(value.shape)} in the checkpoint and {tuple(own[key].shape)} in the recipe"
        for key, value in given.items()
        if key in own and own[key].shape != value.shape
    ]
    if not (missing or unexpected or shapes):
        return "loaded " + (_count(list(given)) or "no tensors")
    stored = checkpoint.get("hyper_parameters", {})
    differences = [
        f"{part}: checkpoint {_plain(stored.get(part))}, recipe {_plain(spec)}"
        for part, spec in specs.items()
        if part in stored and _plain(stored.get(part)) != _plain(spec)
    ]
    problems = [f"missing {_count(missing)}"] if missing else []
    problems += [f"unknown {_count(unexpected)}"] if unexpected else []
    problems += [f"shape: {shapes[0]}" + (f" and {len(shapes) - 1} more" if len(shapes) > 1 else "")] if shapes else []
    msg = (
        f"The checkpoint is of another recipe: {'; '.join(problems)}. "
        f"{'They differ in ' + '; '.join(differences) + '. ' if differences else ''}"
        f"Use the recipe it was trained with (`config.yaml` in its run folder), or another checkpoint."
    )
    raise UserError(msg)


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
    candidates = [path / "checkpoints" / name for name in ("best.ckpt", "last.ckpt")]
    for candidate in candidates:
        if candidate.is_file():
            return candidate
    looked = "no such file or folder" if not path.exists() else "it has neither checkpoints/best.ckpt nor last.ckpt"
    msg = f"There is no trained model at '{run}': {looked}. Train one with `speechllm fit --config …`, or name another."
    raise UserError(msg)


def read_checkpoint(path: Path) -> dict[str, Any]:
    """Read a checkpoint onto the CPU without executing anything that it holds.

    Raises:
        UserError: If the file is not a checkpoint of this package.
    """
    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except Exception as error:  # torch raises many kinds for damaged and for foreign files
        msg = f"'{path}' is not a readable checkpoint: {str(error).splitlines()[0]}"
        raise UserError(msg) from error
    if not isinstance(checkpoint, dict) or not {"state_dict", "hyper_parameters"} <= set(checkpoint):
        msg = f"'{path}' is not a checkpoint of speechllm: it has no weights with their recipe."
        raise UserError(msg)
    return checkpoint


def _count(keys: list[str]) -> str:
    """Return ``"12 of adapter, 3 of decoder"``."""
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
