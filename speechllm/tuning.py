"""Which weights of a part are trained: the modes that encoders and decoders share."""

from typing import Any, Self

import torch
from torch import nn

from speechllm.errors import UserError, did_you_mean

TUNING_MODES = ("frozen", "full")
"""``frozen``: no weight changes and dropout is off; ``full``: every weight is trained."""

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
"""Names of the number formats that a recipe may ask for."""


def parse_dtype(name: str) -> torch.dtype:
    """Return the torch dtype called ``name`` in a recipe.

    Raises:
        UserError: If the name is not one of :data:`DTYPES`.
    """
    if name not in DTYPES:
        msg = f"Unknown dtype '{name}'.{did_you_mean(name, DTYPES)} Allowed: {', '.join(DTYPES)}."
        raise UserError(msg)
    return DTYPES[name]


class TunableModule(nn.Module):
    """A part with weights of its own that a recipe freezes or trains.

    Attributes:
        pretrained: Name or path that the weights were loaded from; None where they are random. Frozen weights with a
            name are not written to checkpoints.
        tuning: One of :data:`TUNING_MODES`.
    """

    pretrained: str | None
    tuning: str

    def apply_tuning(self, tuning: str, lora: dict[str, Any] | None = None) -> None:
        """Freeze every weight, or leave trainable what the library that built it does; constructors end with it.

        Args:
            tuning: One of :data:`TUNING_MODES`.
            lora: Options of LoRA, for the modes that have it.

        Raises:
            UserError: If the mode is unknown.
        """
        if tuning not in TUNING_MODES:
            msg = f"Unknown tuning '{tuning}'.{did_you_mean(tuning, TUNING_MODES)} Allowed: {', '.join(TUNING_MODES)}."
            raise UserError(msg)
        self.tuning = tuning
        if self.frozen:
            self.requires_grad_(False)
            self.eval()

    @property
    def frozen(self) -> bool:
        """Whether no weight of this part is trained."""
        return self.tuning == "frozen"

    def train(self, mode: bool = True) -> Self:
        """Set training mode; a frozen part stays in evaluation mode, so that its dropout and layerdrop stay off."""
        return super().train(mode and not self.frozen)
