"""Runs of equally labelled frames become one position each, by weighted means (spec §6)."""

import torch
from torch import Tensor

from speechllm.batch import lengths_to_mask

# Shape legend beyond batch.py: D width of what is pooled, R runs of equal labels, at most F.
STRATEGIES = ("avg", "weighted", "softmax")
"""Weights of the frames of a run: equal, their label's probability, or the softmax of these probabilities."""


def pool_runs(
    values: Tensor,
    lengths: Tensor,
    labels: Tensor,
    probabilities: Tensor,
    strategy: str = "avg",
    keep: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Pool each run of equal labels into one vector, without a loop over time.

    Args:
        values: (B, F, D).
        lengths: (B,) int64.
        labels: (B, F) int64.
        probabilities: (B, F) float32, of each frame's label.
        strategy: One of :data:`STRATEGIES`.
        keep: (B, F) bool, False at frames whose runs are dropped; None keeps all.

    Returns:
        Pooled (B, R, D), zero past each length; lengths (B,), at least 1; number of utterances of which nothing was
        kept, and that became the mean of their frames.
    """
    size = labels.shape[1]
    valid = lengths_to_mask(lengths, size)
    starts = torch.ones_like(valid)
    starts[:, 1:] = labels[:, 1:] != labels[:, :-1]
    used = valid if keep is None else valid & keep
    nothing = ~used.any(dim=1)
    used = torch.where(nothing[:, None], valid, used)
    starts = torch.where(nothing[:, None], torch.arange(size, device=labels.device) == 0, starts & used)
    runs = starts.long().cumsum(dim=1) - 1  # dropped runs share the number of the run before them, and weigh nothing
    out_lengths = starts.sum(dim=1)
    weights = {"avg": torch.ones_like(probabilities), "weighted": probabilities, "softmax": probabilities.exp()}[
        strategy
    ]
    weights = torch.where(nothing[:, None], torch.ones_like(weights), weights) * used
    runs = runs.clamp(min=0)
    totals = torch.zeros_like(weights).scatter_add(1, runs, weights)
    weights = (weights / totals.gather(1, runs).clamp(min=1e-20)).to(values.dtype)
    pooled = torch.zeros_like(values).scatter_add(1, runs[..., None].expand_as(values), weights[..., None] * values)
    return pooled[:, : int(out_lengths.max())], out_lengths, nothing.sum()
