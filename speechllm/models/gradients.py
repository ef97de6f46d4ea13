"""Gradients of a token-weighted loss that are the same however a batch is cut up (spec §13.1)."""

from collections.abc import Iterable

import torch
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor, nn

from speechllm.errors import UserError

MAX_SKIPPED_STEPS = 20
"""Optimiser steps skipped in a row, for gradients that are not finite, after which training stops."""


def scale_gradients(parameters: Iterable[nn.Parameter], factor: Tensor) -> Tensor | None:
    """Multiply all gradients by ``factor`` and return their norm; drop them all where it is not finite.

    Args:
        parameters: Trained parameters.
        factor: Scalar tensor.

    Returns:
        Norm over all gradients after scaling, or None where it was infinite or not a number: the gradients are None
        then, so that the optimiser changes nothing.
    """
    with_gradient = [parameter for parameter in parameters if parameter.grad is not None]
    gradients = [parameter.grad for parameter in with_gradient if parameter.grad is not None]
    for gradient in gradients:
        gradient.mul_(factor)
    norm = torch.nn.utils.get_total_norm(gradients)
    if torch.isfinite(norm):
        return norm
    for parameter in with_gradient:
        parameter.grad = None
    return None


class SkippedSteps:
    """Count optimiser steps that are skipped since their gradients are not finite.

    Attributes:
        total: Number of steps skipped so far.
    """

    def __init__(self) -> None:
        self.total = self._in_a_row = 0

    def count(self, step: int, skipped: bool) -> None:
        """Count a step, and warn if it is skipped.

        Raises:
            UserError: If too many in a row were.
        """
        if not skipped:
            self._in_a_row = 0
            return
        self.total += 1
        self._in_a_row += 1
        rank_zero_warn(f"Step {step} skipped: its gradients are not finite ({self.total} so far).")
        if self._in_a_row >= MAX_SKIPPED_STEPS:
            msg = (
                f"{MAX_SKIPPED_STEPS} steps in a row gave gradients that are not finite. Lower `lr`, raise "
                f"`warmup_steps`, or train in `precision: 32-true` to find the cause."
            )
            raise UserError(msg)
