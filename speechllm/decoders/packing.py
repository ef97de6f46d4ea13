"""Which attention kernel computes a batch, and whether its sequences are packed."""

from dataclasses import dataclass
from typing import Any

import torch

from speechllm.decoders.attention import KERNELS, has_flash_attention
from speechllm.errors import UserError, did_you_mean

PACKED_ONLY = ("varlen", "flash_attention_2")
"""Kernels that need packed sequences."""

GPU_ONLY = (*PACKED_ONLY, "flex_attention")

PACKING = ("auto", True, False)

MAX_HEAD_WIDTH = 256
"""Widest attention head that flash attention computes."""


@dataclass(frozen=True)
class Kernel:
    """What computes attention.

    Attributes:
        name: One of :data:`speechllm.decoders.attention.KERNELS`, or one of transformers' own.
        packed: Whether sequences are packed.
        why: Why they are not, or with this kernel; empty where there is nothing to say.
    """

    name: str
    packed: bool
    why: str = ""

    def __str__(self) -> str:
        return f"{self.name}; sequences {'packed' if self.packed else 'padded'}{self.why and f' ({self.why})'}"


def check_packing(packing: Any, attention: str | None) -> None:
    """Check the options ``packing`` and ``attn_implementation`` of a recipe.

    Raises:
        UserError: If a value is unknown or the two do not go together.
    """
    if packing not in PACKING:
        msg = f"`packing` must be auto, true or false, but is {packing!r}.{did_you_mean(str(packing), ['auto'])}"
        raise UserError(msg)
    if attention in PACKED_ONLY and packing is False:
        msg = f"`attn_implementation: {attention}` is for packed sequences. Leave out `packing: false`, or use sdpa."
        raise UserError(msg)
    if attention == "flash_attention_2" and not has_flash_attention():
        msg = (
            "`attn_implementation: flash_attention_2` needs the package flash-attn, which is not installed. Install "
            "it, or leave the option out: torch's own flash attention is used where it fits."
        )
        raise UserError(msg)


def choose_kernel(
    asked: str | None,
    packing: Any,
    soft_capped: bool,
    dropout: float,
    head_width: int,
    device: torch.device,
    dtype: torch.dtype,
) -> Kernel:
    """Choose the attention kernel of a batch.

    Args:
        asked: Kernel that the recipe names; None chooses.
        packing: ``auto``, True or False.
        soft_capped: Whether the model soft-caps attention scores.
        dropout: Probability that an attention weight is dropped in training.
        head_width: Width of an attention head.
        device: Where the values are.
        dtype: Number format that attention computes in.

    Raises:
        UserError: If the kernel that the recipe names cannot run there.
    """
    padded = "eager" if soft_capped else "sdpa"
    if asked in GPU_ONLY and device.type == "cpu" and (torch.is_grad_enabled() or asked != "flex_attention"):
        msg = f"`attn_implementation: {asked}` trains on a GPU only. Leave it out, or use sdpa."
        raise UserError(msg)
    if asked in KERNELS:
        on_gpu = asked == "flex_attention" and device.type == "cuda"
        return Kernel(asked, packing is True or asked in PACKED_ONLY or (packing == "auto" and on_gpu))
    if packing is False:
        return Kernel(padded, False, "packing: false")
    fast, why_not = _packed_kernel(soft_capped, dropout, head_width, device, dtype)
    if fast is not None:
        return Kernel(fast, True)
    if packing is True:
        return Kernel(padded, True, f"one sequence at a time: {why_not}")
    return Kernel(padded, False, why_not)


def _packed_kernel(
    soft_capped: bool, dropout: float, head_width: int, device: torch.device, dtype: torch.dtype
) -> tuple[str | None, str]:
    """Return a kernel that computes packed sequences at once, or None and why there is none."""
    if device.type != "cuda":
        return None, "packing needs a GPU"
    if dtype not in (torch.bfloat16, torch.float16):
        return None, "packing needs bfloat16 or float16"
    if torch.cuda.get_device_capability(device)[0] < 8:
        return None, "packing needs a GPU of compute capability 8.0 or more"
    if head_width % 8 or head_width > MAX_HEAD_WIDTH:
        return (
            None,
            f"packing needs heads whose width is a multiple of 8 up to {MAX_HEAD_WIDTH}, and it is {head_width}",
        )
    if has_flash_attention() and (soft_capped or dropout):
        return "flash_attention_2", ""
    if dropout:
        return None, "packing with attention dropout needs the package flash-attn"
    return ("flex_attention" if soft_capped else "varlen"), ""


def compute_dtype(device: torch.device, dtype: torch.dtype) -> torch.dtype:
    """Return the format that matrix products of weights in ``dtype`` are computed in, under autocast or without."""
    if torch.amp.is_autocast_available(device.type) and torch.is_autocast_enabled(device.type):
        return torch.get_autocast_dtype(device.type)
    return dtype
