"""Weighted sums over stretches of frames, forward and backward at the cost of reading the frames once."""

from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn

# Shape legend beyond batch.py: D width of what is summed, P positions, N pieces: a piece takes what is between the
# ends of one frame and of one position. All utterances of a batch stand behind one another.


SUM = 0
"""What torch calls the mode ``sum`` of ``embedding_bag`` inside."""


@dataclass
class Pieces:
    """Which frame goes to which position: pieces in an order that is that of the frames and of the positions.

    Attributes:
        frames: (N,) int64, frame of each piece, never falling.
        positions: (N,) int64, position of each piece, never falling.
        of_frame: (B · F,) int64, the first piece of each frame; those up to the next frame's first are its own.
        of_position: (P,) int64, the first piece of each position, likewise.
    """

    frames: Tensor
    positions: Tensor
    of_frame: Tensor
    of_position: Tensor


def sum_pieces(values: Tensor, weights: Tensor, pieces: Pieces) -> Tensor:
    """Return the weighted sum of the frames of each position, differentiable in values and weights.

    No (P, F) matrix is built, so that the cost does not grow with the number of positions.

    Args:
        values: (B · F, D) float32 or float64.
        weights: (N,) of the same format, what each piece adds.
        pieces: Of these frames.

    Returns:
        (P, D), zero at positions without a piece.
    """
    return cast(Tensor, _SumPieces.apply(values, weights, pieces))


class _SumPieces(torch.autograd.Function):
    """Both directions are the same operation: the backward pass sums over the pieces of frames, not of positions."""

    @staticmethod
    def forward(ctx: Any, values: Tensor, weights: Tensor, pieces: Pieces) -> Tensor:
        """Sum; see :func:`sum_pieces`."""
        ctx.save_for_backward(values if weights.requires_grad else None, weights)
        ctx.pieces = pieces
        return _sum(values, weights, pieces.frames, pieces.of_position)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        """Return the gradients of values and weights."""
        values, weights = ctx.saved_tensors
        pieces: Pieces = ctx.pieces
        gradient = gradients[0].contiguous()
        of_values = of_weights = None
        if ctx.needs_input_grad[0]:
            of_values = _sum(gradient, weights, pieces.positions, pieces.of_frame)
        if ctx.needs_input_grad[1]:
            # The product of each piece's frame with its position's gradient, as `embedding_bag` itself takes it.
            of_weights = torch.ops.aten._embedding_bag_per_sample_weights_backward(
                gradient, values, pieces.frames, pieces.of_position, pieces.positions, SUM
            )
        return of_values, of_weights, None


def _sum(values: Tensor, weights: Tensor, rows: Tensor, starts: Tensor) -> Tensor:
    """Return the sums of ``weights`` (N,) times ``values[rows]``, of pieces from one of ``starts`` to the next."""
    return nn.functional.embedding_bag(rows, values, starts, mode="sum", per_sample_weights=weights)
