"""Cross-entropy of target positions through the output layer, chunk by chunk.

Logits of a large vocabulary are the largest tensor of a step: 5,760 positions of 128,000 tokens are 2.9 GB in float32,
and as much again for each copy that a softmax and its gradient make. Here no more than a chunk of them ever exists.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

# Shape legend beyond batch.py: N target positions of the batch, C positions of a chunk.

OutputLayer = Callable[[Tensor], Tensor]
"""Maps hidden states (C, H) to logits (C, V), each position by itself."""

CHUNK_BYTES = 2**28
"""Float32 logits of one chunk. Smaller ones would have a GPU read the output layer's weights more often than it
multiplies by them: at 128,000 × 4,096 that begins below 150 positions."""


def token_losses(
    hidden: Tensor, targets: Tensor, output_layer: OutputLayer, vocab_size: int, trained: bool, chunk_bytes: int
) -> Tensor:
    """Return the cross-entropy of each target token.

    Where nothing of the output layer is trained, the gradient of the hidden states is taken in the forward pass, while
    a chunk's logits are there; it takes no more space than the hidden states. Otherwise the backward pass makes the
    logits again, since the weights' gradient depends on how each token's loss is weighted.

    Args:
        hidden: (N, H) final hidden states of the positions that predict a token.
        targets: (N,) int64, the tokens.
        output_layer: Maps hidden states to logits.
        vocab_size: Number of logits V of a position.
        trained: Whether parameters inside ``output_layer`` are trained.
        chunk_bytes: Most bytes of the logits of one chunk, in float32.

    Returns:
        (N,) losses in nats, float32 (float64 for hidden states in float64).
    """
    size = max(1, chunk_bytes // (4 * vocab_size))
    if not trained:
        losses: Tensor = _FrozenOutput.apply(hidden, targets, output_layer, size)
        return losses

    def losses_of(part: Tensor, part_targets: Tensor) -> Tensor:
        chunk_losses: Tensor = _CrossEntropy.apply(output_layer(part), part_targets)
        return chunk_losses

    parts = zip(torch.split(hidden, size), torch.split(targets, size), strict=True)
    if len(targets) <= size or not torch.is_grad_enabled():  # nothing to make again
        return torch.cat([losses_of(*part) for part in parts])
    return torch.cat([checkpoint(losses_of, *part, use_reentrant=False) for part in parts])


class _FrozenOutput(torch.autograd.Function):
    """Losses through an output layer that is not trained, ``size`` positions at once."""

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, targets: Tensor, output_layer: OutputLayer, size: int) -> Tensor:
        wanted = ctx.needs_input_grad[0]
        losses = hidden.new_empty(len(hidden), dtype=_loss_dtype(hidden))
        gradient = torch.empty_like(hidden) if wanted else None
        for start in range(0, len(hidden), size):
            rows = slice(start, start + size)
            with torch.set_grad_enabled(wanted):
                inputs = hidden[rows].detach().requires_grad_(wanted)
                logits = output_layer(inputs)
            losses[rows], scores = _losses_and_softmax(logits, targets[rows])
            if gradient is not None:
                (gradient[rows],) = torch.autograd.grad(logits, inputs, _minus_target(scores, targets[rows], logits))
            del logits, scores  # before the next chunk's are made
        if gradient is not None:
            ctx.save_for_backward(gradient)
        return losses

    @staticmethod
    def backward(ctx: Any, weights: Tensor) -> tuple[Tensor | None, ...]:
        (gradient,) = ctx.saved_tensors
        return (weights[:, None] * gradient).to(gradient.dtype), None, None, None


class _CrossEntropy(torch.autograd.Function):
    """Losses (C,) of logits (C, V), which are overwritten where they are float32."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, targets: Tensor) -> Tensor:
        losses, scores = _losses_and_softmax(logits, targets)
        if ctx.needs_input_grad[0]:
            ctx.save_for_backward(_minus_target(scores, targets, logits))
        return losses

    @staticmethod
    def backward(ctx: Any, weights: Tensor) -> tuple[Tensor | None, ...]:
        (of_logits,) = ctx.saved_tensors
        return (of_logits * weights[:, None]).to(of_logits.dtype), None


def _losses_and_softmax(logits: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Return the losses (C,) and the softmax (C, V), which takes the place of logits that are float32.

    No layer that gives logits needs them for its gradient; autograd would object if one did.
    """
    scores = logits.detach().to(_loss_dtype(logits))
    scores -= scores.amax(dim=1, keepdim=True)
    of_target = scores.gather(1, targets[:, None])[:, 0]
    scores.exp_()
    sums = scores.sum(dim=1, keepdim=True)
    scores /= sums
    return sums[:, 0].log() - of_target, scores


def _minus_target(softmax: Tensor, targets: Tensor, logits: Tensor) -> Tensor:
    """Return the gradient of the losses by the logits, in their format and in the place of the softmax."""
    minus_one = softmax.new_full((1, 1), -1.0).expand(len(targets), 1)
    return softmax.scatter_add_(1, targets[:, None], minus_one).to(logits.dtype)


def _loss_dtype(values: Tensor) -> torch.dtype:
    return torch.promote_types(values.dtype, torch.float32)
