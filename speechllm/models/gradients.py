"""Gradients of a token-weighted loss that are the same however a batch is cut up (spec §13.1), and steps to skip.

Whether a step is skipped is decided on the device: the host never waits for a gradient.
"""

from collections.abc import Collection, Iterable, Sequence
from typing import Any

import torch
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from speechllm.errors import UserError

MAX_SKIPPED_STEPS = 20
"""Optimiser steps skipped in a row, for gradients that are not finite, after which training stops."""


def scale_gradients(
    parameters: Iterable[nn.Parameter], factor: Tensor, split: Collection[nn.Parameter] = (), group: Any = None
) -> Tensor:
    """Multiply all gradients by ``factor`` and return their norm, without waiting for either.

    A trained parameter that no loss has reached gets a gradient of zero, as it has where processes share their
    gradients: its moments decay in a single process as they do in several, and so does its weight by ``weight_decay``.

    Args:
        parameters: Parameters; those that are not trained are left alone.
        factor: Scalar tensor on the parameters' device.
        split: Parameters of which each process of ``group`` has a part.
        group: The processes that share out the tensors of a layer.

    Returns:
        Scalar tensor: the norm over all gradients after scaling, those of all shards included.
    """
    gradients: list[Tensor] = []
    parts: list[Tensor] = []
    for parameter in parameters:
        if parameter.requires_grad:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
            (parts if parameter in split else gradients).append(parameter.grad)
    if gradients or parts:
        torch._foreach_mul_([*gradients, *parts], factor)
    norm = _norm(gradients)
    if split:
        of_parts = _norm(parts).to(factor.device, torch.float32).square()
        torch.distributed.all_reduce(of_parts, group=group)
        norm = (norm.to(of_parts) ** 2 + of_parts).sqrt()
    return norm


def _norm(gradients: Sequence[Tensor]) -> Tensor:
    norm = torch.nn.utils.get_total_norm(gradients)
    return norm.full_tensor() if isinstance(norm, DTensor) else norm


def clip_gradients(parameters: Iterable[nn.Parameter], norm: Tensor, limit: float | None, algorithm: str) -> None:
    """Clip gradients whose norm is known already.

    Args:
        parameters: Parameters with gradients.
        norm: Scalar tensor, the norm over all of them.
        limit: Largest norm, or largest magnitude of a value; None or 0 for none.
        algorithm: ``norm`` or ``value``.
    """
    if not limit:
        return
    if algorithm == "value":
        torch.nn.utils.clip_grad_value_(parameters, limit)
    else:
        torch.nn.utils.clip_grads_with_norm_(parameters, limit, norm)


def skip_where(optimizer: torch.optim.Optimizer, skipped: Tensor) -> None:
    """Let the next step of an optimiser change nothing, its step counters included, where ``skipped`` is 1.

    Fused optimisers read that on the device, as they do for a gradient scaler. For others the host looks: here, that is
    float16 with a gradient scaler, which asks the host in every step anyway.

    Args:
        optimizer: The optimiser.
        skipped: Scalar float32 tensor, 0 or 1.
    """
    if getattr(optimizer, "_step_supports_amp_scaling", False):
        marked: Any = optimizer
        marked.grad_scale, marked.found_inf = None, skipped
    elif skipped:
        optimizer.zero_grad(set_to_none=True)


def reach(loss: Tensor, parameters: Sequence[nn.Parameter], with_zeros: bool = False) -> Tensor:
    """Return the loss as one that depends on all ``parameters``, which it adds no gradient to.

    Processes that share gradients wait for those of every parameter. Here, all are reached in every step: also those of
    a head that learns from transcripts, in a batch without any, and all of them where a batch is empty. That costs
    nothing, whereas to search for unused parameters costs a walk over the graph.

    Args:
        loss: Any shape.
        parameters: Trained parameters.
        with_zeros: Whether gradients are zeros in place of none, for those who look whether there is one (FSDP2).
    """
    reached: Tensor = _Reach.apply(loss, with_zeros, *parameters)
    return reached


class _Reach(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, loss: Tensor, with_zeros: bool, *parameters: Tensor) -> Tensor:
        ctx.zeros = [(p.shape, p.dtype, p.device) if with_zeros else None for p in parameters]
        return loss.clone()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        zeros = (kind and torch.zeros(kind[0], dtype=kind[1], device=kind[2]) for kind in ctx.zeros)
        return gradient, None, *zeros


class SkippedSteps:
    """Count optimiser steps that are skipped since their gradients are not finite, on the device.

    Attributes:
        total: Number of steps skipped up to the last :meth:`read`.
    """

    def __init__(self) -> None:
        self.total = self._in_a_row = 0
        self._counts: Tensor | None = None
        self._unread_since: int | None = None

    def count(self, step: int, skipped: Tensor) -> None:
        """Count a step without looking whether it was skipped.

        Args:
            step: Its number.
            skipped: Scalar tensor, 0 or 1.
        """
        skipped = skipped.long()
        if self._counts is None:
            start = torch.zeros_like(skipped)
            self._counts = torch.stack([start + self.total, start + self._in_a_row, start])
        total, in_a_row, longest = self._counts
        in_a_row = (in_a_row + 1) * skipped
        self._counts = torch.stack([total + skipped, in_a_row, torch.maximum(longest, in_a_row)])
        if self._unread_since is None:
            self._unread_since = step

    def read(self, step: int) -> int:
        """Wait for the device, warn if steps were skipped since the last call, and return the total.

        Args:
            step: The last step that was counted.

        Raises:
            UserError: If too many in a row were.
        """
        if self._counts is None or self._unread_since is None:
            return self.total
        total, self._in_a_row, longest = self._counts.tolist()
        first, new = self._unread_since, total - self.total
        self.total, self._unread_since = total, None
        if new:
            which = f"Step {first}" if step <= first else f"{new} of the steps {first}–{step}"
            rank_zero_warn(f"{which} skipped: gradients are not finite ({total} so far).")
        if longest >= MAX_SKIPPED_STEPS:
            msg = (
                f"{longest} steps in a row gave gradients that are not finite. Lower `lr`, raise "
                f"`warmup_steps`, or train in `precision: 32-true` to find the cause."
            )
            raise UserError(msg)
        return self.total

    def state(self) -> list[int]:
        """Wait for the device, and return for a checkpoint how many were skipped, and how many of them are the last."""
        return [self.total, self._in_a_row] if self._counts is None else self._counts.tolist()[:2]

    def load(self, state: Sequence[int]) -> None:
        """Go on from what :meth:`state` gave."""
        self.total, self._in_a_row = state
        self._counts = self._unread_since = None
