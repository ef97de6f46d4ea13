"""Low-rank adaptation: W x + (alpha / r) · B A x with W frozen, by peft (spec §14.2-14.3; Hu et al. 2021)."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, Self

import torch
from torch import Tensor, nn

from speechllm.errors import UserError, did_you_mean
from speechllm.quantization import NF4Linear, hidden_linears, replace_module

DEFAULT_TARGETS = (
    ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"),  # Llama, Mistral, Gemma, Qwen
    ("query_key_value", "dense"),  # GPT-NeoX: its self-attention (paper C)
    ("q_proj", "v_proj"),  # Whisper, HuBERT
    ("linear_q", "linear_v"),  # SeamlessM4T
)
"""Targets where a recipe names none: the first row of which the network has every name."""

BASE_LAYER = "base_layer"
"""Name of the original layer inside the layer that peft puts in its place."""


@dataclass(frozen=True)
class LoraOptions:
    """Options of LoRA, as they stand under ``lora`` in a recipe.

    Attributes:
        r: Rank of the update.
        alpha: Its scale: the update is multiplied by alpha / r.
        dropout: Dropout on the input of A in training.
        targets: Names of the linear and embedding layers to adapt: the last part of a module's name (``q_proj``), or
            several (``attention.dense``); None takes those of :data:`DEFAULT_TARGETS`, see :func:`find_targets`.
    """

    r: int = 8
    alpha: float = 16
    dropout: float = 0.05
    targets: Sequence[str] | None = None

    @classmethod
    def parse(cls, options: Any) -> Self:
        """Check a recipe's ``lora`` and return it.

        Args:
            options: A mapping with the names of the attributes, or None for the defaults.

        Raises:
            UserError: If a key is unknown or a value cannot be.
        """
        if options is not None and not isinstance(options, Mapping):
            msg = f"`lora` must be a mapping such as {{r: 8, alpha: 16}}, but is {options!r}."
            raise UserError(msg)
        given = dict(options or {})
        known = [field.name for field in fields(cls)]
        if unknown := [key for key in given if key not in known]:
            hint = "".join(did_you_mean(str(key), known) for key in unknown)
            msg = f"`lora` does not take {', '.join(map(repr, unknown))}.{hint} It takes: {', '.join(known)}."
            raise UserError(msg)
        parsed = cls(**given)
        parsed._check()
        return parsed

    @property
    def scaling(self) -> float:
        """Factor of the update, alpha / r."""
        return self.alpha / self.r

    def _check(self) -> None:
        """Check the values.

        Raises:
            UserError: If one cannot be.
        """
        problems = []
        if type(self.r) is not int or self.r < 1:
            problems.append(f"`r` must be a whole number of at least 1, but is {self.r!r}")
        if not _is_number(self.alpha) or self.alpha <= 0:
            problems.append(f"`alpha` must be a number above 0, but is {self.alpha!r}")
        if not _is_number(self.dropout) or not 0 <= self.dropout < 1:
            problems.append(f"`dropout` must be in [0, 1), but is {self.dropout!r}")
        names = self.targets
        if names is not None and (isinstance(names, str) or not names or not all(isinstance(n, str) for n in names)):
            problems.append(f"`targets` must be a list of names such as [q_proj, v_proj], but is {names!r}")
        if problems:
            msg = f"The options under `lora` cannot be used: {'; '.join(problems)}."
            raise UserError(msg)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def inject_lora(module: nn.Module, options: LoraOptions) -> None:
    """Put LoRA around layers of ``module``, in place, and leave nothing but A and B trainable.

    B starts at zero, so that the output is at first that of the module as it was. A and B are float32 whatever format
    the weights have: steps of a usual size would be lost in the rounding of bfloat16.

    Raises:
        UserError: If a target matches nothing.
    """
    from peft import LoraConfig, inject_adapter_in_model

    config = LoraConfig(
        r=options.r,
        lora_alpha=options.alpha,
        lora_dropout=options.dropout,
        target_modules=find_targets(module, options.targets),
        bias="none",
    )
    inject_adapter_in_model(config, module)
    for parameter in module.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.float()


def find_targets(module: nn.Module, names: Sequence[str] | None) -> list[str]:
    """Return the full names of the layers that ``names`` mean.

    Args:
        module: The network.
        names: Ends of the layers' names; None for the defaults of its family, and in any other network for all linear
            layers but the output layer (Dettmers et al. 2023).

    Raises:
        UserError: If a name matches no linear or embedding layer, or there is none.
    """
    layers = [name for name, layer in module.named_modules() if isinstance(layer, nn.Linear | nn.Embedding)]
    present = sorted({_short_name(name) for name in layers})
    if names is None:
        names = next((row for row in DEFAULT_TARGETS if set(row) <= set(present)), [*hidden_linears(module)])
    found = {target: [name for name in layers if f".{name}".endswith(f".{target}")] for target in names}
    if not found:
        msg = f"{type(module).__name__} has no linear layers for LoRA to adapt. Use `tuning: full` or `frozen`."
        raise UserError(msg)
    if missing := [target for target, matches in found.items() if not matches]:
        hint = "".join(did_you_mean(target, present) for target in missing)
        msg = (
            f"No layer is called {', '.join(map(repr, missing))}, as the `targets` of LoRA say.{hint} "
            f"There are: {', '.join(present) or 'no linear or embedding layers'}."
        )
        raise UserError(msg)
    return sorted({name for matches in found.values() for name in matches})


def _short_name(name: str) -> str:
    """Return the last part of a module's name, and the parts before it that are needed where it is a number."""
    parts = name.split(".")
    start = len(parts) - 1
    while start > 0 and parts[start].isdigit():
        start -= 1
    return ".".join(parts[start:])


def merge_lora(module: nn.Module) -> int:
    """Add every update B A to its weight and put ordinary layers back, in place; return how many layers that were.

    Four-bit weights become ordinary ones first. Each merged layer has a weight of its own: where it shared one with
    another layer, as input and output embeddings may, it does so no more.
    """
    from peft.tuners.lora import LoraLayer

    wrapped = {name: layer for name, layer in module.named_modules() if isinstance(layer, LoraLayer)}
    for name, layer in wrapped.items():
        base = layer.get_base_layer()
        base = base.dequantized() if isinstance(base, NF4Linear) else base
        base.weight = nn.Parameter(_merged_weight(base.weight.data, layer), requires_grad=False)
        replace_module(module, name, base)
    for name, layer in list(module.named_modules()):
        if isinstance(layer, NF4Linear):
            replace_module(module, name, layer.dequantized())
    return len(wrapped)


def _merged_weight(weight: Tensor, layer: Any) -> Tensor:
    (adapter,) = layer.active_adapters
    update: Tensor = layer.get_delta_weight(adapter).detach()
    return (weight.to(torch.float32) + update.to(torch.float32)).to(weight.dtype)
