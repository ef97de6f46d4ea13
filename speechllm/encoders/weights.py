"""Which weights an encoder has, in a form that can be compared without loading them."""

import hashlib
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

WEIGHT_FILES = ("config.json", "preprocessor_config.json", "*.safetensors", "*.bin")
"""Files of a checkpoint's folder that frames depend on."""

BLOCK_BYTES = 1 << 24


def named_weights(pretrained: str, revision: str | None, known: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Return which weights a checkpoint is.

    Args:
        pretrained: Name on the Hugging Face hub, or a folder.
        revision: Git revision.
        known: What a cache says of its weights. Where a folder's files have kept size and time of change, they are not
            read again.

    Returns:
        ``source`` and ``revision``, which is the commit, None where it is not on this machine; of a folder ``source``,
        ``files`` with sizes and times, and ``digest`` of their content.
    """
    folder = Path(pretrained)
    if not folder.is_dir():
        return {"source": pretrained, "revision": _commit(pretrained, revision)}
    paths = sorted({path for pattern in WEIGHT_FILES for path in folder.glob(pattern)})
    files = [[path.name, path.stat().st_size, path.stat().st_mtime_ns] for path in paths]
    described = {"source": str(folder.resolve()), "files": files}
    if known and all(known.get(key) == value for key, value in described.items()):
        return dict(known)
    digest = hashlib.blake2b(digest_size=16)
    for path in paths:
        digest.update(f"{path.name} {path.stat().st_size}\n".encode())
        with path.open("rb") as file:
            while block := file.read(BLOCK_BYTES):
                digest.update(block)
    return described | {"digest": digest.hexdigest()}


def random_weights(module: nn.Module) -> dict[str, Any]:
    """Return a digest of a module's weights, for those that have no name."""
    digest = hashlib.blake2b(digest_size=16)
    for name, value in sorted(module.state_dict().items()):
        digest.update(f"{name} {tuple(value.shape)} {value.dtype}\n".encode())
        digest.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return {"digest": digest.hexdigest()}


def comparable(weights: Mapping[str, Any], other: Mapping[str, Any]) -> dict[str, Any]:
    """Return what of ``weights`` is compared with ``other``.

    A folder is known by its content, wherever it lies. A commit that one of the two does not know is not compared.
    """
    if "digest" in weights:
        return {"weights.digest": weights["digest"]}
    compared = {"weights.source": weights.get("source")}
    if weights.get("revision") and other.get("revision"):
        compared["weights.revision"] = weights["revision"]
    return compared


def _commit(pretrained: str, revision: str | None) -> str | None:
    """Return the commit that a name means on this machine; None where the checkpoint is not on it."""
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    try:
        path = try_to_load_from_cache(pretrained, "config.json", revision=revision)
    except (HFValidationError, OSError, ValueError):
        path = None
    if isinstance(path, str):
        return Path(path).parent.name
    return revision if revision and re.fullmatch(r"[0-9a-f]{40}", revision) else None
