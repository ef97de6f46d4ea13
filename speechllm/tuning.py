"""Which weights of a part are trained: the modes that encoders and decoders share."""

from typing import Any, ClassVar, Self

import torch
from torch import nn

from speechllm.errors import UserError, did_you_mean
from speechllm.lora import LoraOptions, inject_lora
from speechllm.quantization import quantize_linears

TUNING_MODES = ("frozen", "lora", "qlora", "full")
"""``frozen``: no weight changes and dropout is off; ``lora``: low-rank updates of frozen weights are trained;
``qlora``: the same, with the frozen linear layers held in four bits; ``full``: every weight is trained."""

LORA_MODES = ("lora", "qlora")
"""Modes that take options of LoRA."""

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
        has_linear_layers: Whether there is anything that ``tuning: qlora`` could hold in four bits.
        pretrained: Name or path that the weights were loaded from; None where they are random. Frozen weights with a
            name are not written to checkpoints.
        tuning: One of :data:`TUNING_MODES`.
    """

    has_linear_layers: ClassVar[bool] = True
    pretrained: str | None
    tuning: str

    @classmethod
    def check_tuning(cls, tuning: str, lora: dict[str, Any] | None = None) -> None:
        """Check a recipe's ``tuning`` and ``lora`` for a part of this class, before its weights are loaded.

        Raises:
            UserError: If the mode is unknown or not one for this class, or an option of LoRA is wrong.
        """
        if tuning not in TUNING_MODES:
            hint = did_you_mean(str(tuning), TUNING_MODES)
            msg = f"Unknown tuning '{tuning}'.{hint} Allowed: {', '.join(TUNING_MODES)}."
            raise UserError(msg)
        if lora is not None and tuning not in LORA_MODES:
            msg = f"`lora` only means something with `tuning: lora` or `tuning: qlora`, not with `tuning: {tuning}`."
            raise UserError(msg)
        if tuning == "qlora" and not cls.has_linear_layers:
            others = ", ".join(mode for mode in TUNING_MODES if mode != "qlora")
            msg = (
                f"{cls.__name__} has no linear layers, and `tuning: qlora` holds nothing else in four bits. "
                f"Use one of: {others}."
            )
            raise UserError(msg)
        LoraOptions.parse(lora)

    def apply_tuning(self, tuning: str, lora: dict[str, Any] | None = None) -> None:
        """Freeze the weights and add what is trained in their place; constructors end with it.

        ``full`` leaves trainable what the library that built the part does.

        Args:
            tuning: One of :data:`TUNING_MODES`.
            lora: Options of LoRA, see :class:`speechllm.lora.LoraOptions`, for the modes that have it.

        Raises:
            UserError: As :meth:`check_tuning`; or if a target of LoRA matches no layer.
        """
        self.check_tuning(tuning, lora)
        self.tuning = tuning
        if tuning != "full":
            self.requires_grad_(False)
        if tuning == "qlora":
            quantize_linears(self)
        if tuning in LORA_MODES:
            inject_lora(self, LoraOptions.parse(lora))
        self.train()  # libraries hand out what they load in evaluation mode

    @property
    def frozen(self) -> bool:
        """Whether no weight of this part is trained."""
        return self.tuning == "frozen"

    def train(self, mode: bool = True) -> Self:
        """Set training mode; a frozen part stays in evaluation mode, so that its dropout and layerdrop stay off."""
        return super().train(mode and not self.frozen)
