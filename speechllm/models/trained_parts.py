"""Which parts of a model are trained, as its recipe says: checks before weights are loaded, and ``freeze``."""

from collections.abc import Mapping, Sequence
from typing import Any

from torch import nn

from speechllm.errors import UserError, did_you_mean
from speechllm.models.checkpoint import flat_specs
from speechllm.registry import Registry

PARTS = ("encoder", "adapter", "decoder")
"""Attributes of a model that hold its parts."""


def check_tuning(registry: Registry[Any], spec: Mapping[str, Any]) -> None:
    """Check ``tuning`` and ``lora`` of a part, and of the parts inside it, before weights are loaded.

    Args:
        registry: Where the part is registered.
        spec: Its spec.

    Raises:
        UserError: If one cannot be.
    """
    for part in flat_specs(spec):
        if part["name"] in registry.names():
            registry.get(part["name"]).check_tuning(part.get("tuning", "frozen"), part.get("lora"))


def check_freeze(freeze: Sequence[str]) -> list[str]:
    """Check the parts that a recipe's ``freeze`` names, and return the names.

    Args:
        freeze: Dotted names of modules; a single name counts as a list of one.

    Raises:
        UserError: If one does not begin with a part, or is a part that is frozen by its own ``tuning``.
    """
    names = [freeze] if isinstance(freeze, str) else list(freeze)
    for name in names:
        part, _, inside = name.partition(".")
        if part not in PARTS:
            msg = f"`freeze` names '{name}'.{did_you_mean(part, PARTS)} Names begin with: {', '.join(PARTS)}."
            raise UserError(msg)
        if part != "adapter" and not inside:
            msg = f"`freeze` names '{name}', which is frozen by its own option: `{name}: {{…, tuning: frozen}}`."
            raise UserError(msg)
    return names


def frozen_modules(model: nn.Module, names: Sequence[str]) -> list[nn.Module]:
    """Return the modules that a recipe's ``freeze`` names.

    Args:
        model: The model, with its parts built.
        names: Dotted names.

    Raises:
        UserError: If there is no such module; the message lists what stands beside it.
    """
    modules = dict(model.named_modules())
    for name in names:
        if name not in modules:
            above = name.rpartition(".")[0]
            while above not in modules:
                above = above.rpartition(".")[0]
            present = [key for key, _ in modules[above].named_children()]
            msg = f"`freeze` names '{name}', but '{above}' holds only: {', '.join(present) or 'no modules'}."
            raise UserError(msg)
    return [modules[name] for name in names]
