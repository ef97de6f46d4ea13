"""Which parameters are trained, by learning rate."""

from collections.abc import Mapping
from typing import Any

from torch import nn

from speechllm.errors import UserError, did_you_mean


def parameter_groups(model: nn.Module, part_lr: Mapping[str, float]) -> list[dict[str, Any]]:
    """Return the trained parameters in groups for an optimiser: those of its own rate, then those of each part's.

    Args:
        model: The model.
        part_lr: Learning rate of single parts, the model's children, by name.

    Raises:
        UserError: If nothing is trained, or ``part_lr`` names what is not.
    """
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    if not trained:
        msg = "Nothing is trained: every part is frozen. Set `tuning: full` on one, or use an adapter with weights."
        raise UserError(msg)
    parts = list(dict.fromkeys(name.split(".")[0] for name in trained))
    for part in part_lr:
        if part not in parts:
            msg = f"`part_lr` names '{part}', which is not trained.{did_you_mean(part, parts)} Trained: "
            raise UserError(msg + f"{', '.join(parts)}.")
    groups: list[dict[str, Any]] = [{"params": [p for name, p in trained.items() if name.split(".")[0] not in part_lr]}]
    groups += [
        {"params": [p for name, p in trained.items() if name.split(".")[0] == part], "lr": lr}
        for part, lr in part_lr.items()
    ]
    return [group for group in groups if group["params"]]
