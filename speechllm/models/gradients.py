"""Gradients of a token-weighted loss that are the same however a batch is cut up (spec §13.1)."""

from collections.abc import Iterable

import torch
from torch import Tensor, nn


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
