"""Runs of equally labelled frames become one position each, by weighted means (spec §6)."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from speechllm.adapters.segments import Pieces, sum_pieces
from speechllm.batch import Spans, lengths_to_mask, to_device, to_host

# Shape legend beyond batch.py: D width of what is pooled, R runs of equal labels, at most F.
STRATEGIES = ("avg", "weighted", "softmax")
"""Weights of the frames of a run: equal, their label's probability, or the softmax of these probabilities."""


@dataclass
class Runs:
    """Which position each frame goes to.

    Attributes:
        index: (B, F) int64, the run of each frame, never falling; without meaning where ``used`` is False.
        used: (B, F) bool, False at padding and at frames whose run is dropped.
        lengths: (B,) int64 on the CPU, number of runs, at least 1.
        nothing_kept: (B,) bool, utterances whose every run would be dropped: all their frames become one position.
        merged: (B,) int64 on the CPU, runs that were given up to keep within a limit.
    """

    index: Tensor
    used: Tensor
    lengths: Tensor
    nothing_kept: Tensor
    merged: Tensor


def find_runs(labels: Tensor, lengths: Tensor, keep: Tensor | None = None, max_runs: int | None = None) -> Runs:
    """Find runs of equal labels, without a loop over time.

    A GPU is asked once, for the number of runs of each utterance.

    Args:
        labels: (B, F) int64.
        lengths: (B,) int64 on the CPU, frames.
        keep: (B, F) bool, False at frames whose runs are dropped; None keeps all.
        max_runs: Most runs of an utterance. One with n times as many has each ceil(n) runs in a row merged into one;
            None has no limit.
    """
    size = labels.shape[1]
    valid = lengths_to_mask(lengths, size, labels.device)
    starts = torch.ones_like(valid)
    starts[:, 1:] = labels[:, 1:] != labels[:, :-1]
    used = valid if keep is None else valid & keep
    nothing_kept = ~used.any(dim=1)
    used = torch.where(nothing_kept[:, None], valid, used)
    starts = torch.where(nothing_kept[:, None], torch.arange(size, device=labels.device) == 0, starts & used)
    index = (starts.long().cumsum(dim=1) - 1).clamp(min=0)
    counts = to_host(starts.sum(dim=1))
    if max_runs is None:
        return Runs(index, used, counts, nothing_kept, torch.zeros_like(counts))
    in_a_row = (counts - 1) // max_runs + 1
    merged_counts = (counts - 1) // in_a_row + 1
    index = index // to_device(in_a_row, labels.device)[:, None]
    return Runs(index, used, merged_counts, nothing_kept, counts - merged_counts)


def weigh_frames(runs: Runs, probabilities: Tensor, strategy: str = "avg") -> Tensor:
    """Return what each frame adds to its run's position.

    Args:
        runs: Of (B, F) frames.
        probabilities: (B, F) float32, of each frame's own label, also where runs were merged.
        strategy: One of :data:`STRATEGIES`; an utterance of which nothing is kept takes the plain mean.

    Returns:
        (B, F) float32 that sum to 1 over the frames of a run; 0 at frames that are not used.
    """
    equal = torch.ones_like(probabilities)
    weights = {"avg": equal, "weighted": probabilities, "softmax": probabilities.exp()}[strategy]
    weights = torch.where(runs.nothing_kept[:, None], equal, weights) * runs.used
    totals = torch.zeros_like(weights).scatter_add(1, runs.index, weights)
    return weights / totals.gather(1, runs.index).clamp(min=1e-20)


def pool(values: Tensor, runs: Runs, weights: Tensor) -> Tensor:
    """Return the weighted sum of each run's frames, summed in float32 or more.

    Args:
        values: (B, F, D).
        runs: Of these frames.
        weights: (B, F), from :func:`weigh_frames`.

    Returns:
        (B, R, D) in the format of ``values``, zero past each utterance's number of runs.
    """
    format_of_sum = torch.promote_types(values.dtype, torch.float32)
    rows, size, width = values.shape
    longest = int(runs.lengths.max())
    flat = values.to(format_of_sum).reshape(rows * size, width).contiguous()
    sums = sum_pieces(flat, weights.to(format_of_sum).flatten(), _pieces(runs, longest))
    return sums.view(rows, longest, width).to(values.dtype)


def _pieces(runs: Runs, longest: int) -> Pieces:
    """Return each frame as a piece of its run, with places for ``longest`` runs an utterance."""
    rows, size = runs.index.shape
    row = torch.arange(rows, device=runs.index.device)[:, None]
    every = torch.arange(rows * size, device=runs.index.device)
    wanted = torch.arange(longest, device=runs.index.device).expand(rows, -1)
    first = torch.searchsorted(runs.index, wanted.contiguous())
    return Pieces(every, (runs.index + row * longest).flatten(), every, (first + row * size).flatten())


def spans_of_runs(
    runs: Runs,
    lengths: Tensor,
    labels: Tensor,
    text: Callable[[list[int]], list[str] | None],
    weights: Tensor | None = None,
    tokens: Callable[[list[int]], list[list[int]] | None] = lambda _: None,
) -> list[Spans]:
    """Return the frames of each run and the text of its label, an utterance each.

    Args:
        runs: Of (B, F) frames; where some were merged, their texts are joined.
        lengths: (B,) int64, frames.
        labels: (B, F) int64.
        text: Gives the text of each label, or None where labels have none.
        weights: (B, F), from :func:`weigh_frames`, where they are worth showing.
        tokens: Gives the LLM's tokens of each label, or None where labels are no tokens of it.
    """
    used, indices, labels = to_host(runs.used), to_host(runs.index), to_host(labels)
    weights = None if weights is None else to_host(weights)
    found = []
    for row, length in enumerate(lengths.tolist()):
        frames = used[row, :length].nonzero()[:, 0]
        index = indices[row, frames]
        counts = index.bincount()
        last = counts.cumsum(dim=0) - 1
        starts, ends = frames[last - counts + 1], frames[last] + 1
        own = labels[row, frames]
        first = torch.ones_like(frames, dtype=torch.bool)  # of each stretch of one label, also within merged runs
        first[1:] = (own[1:] != own[:-1]) | (frames[1:] != frames[:-1] + 1)
        ids, positions = own[first].tolist(), index[first].tolist()
        texts = _gather(text(ids), positions, [""] * len(counts))
        of_llm = _gather(tokens(ids), positions, [[]] * len(counts))
        shown = None if weights is None else weights[row, :length]
        found.append(Spans(starts.float(), ends.float(), texts, shown, of_llm))
    return found


def _gather(pieces: list[Any] | None, positions: list[int], empty: list[Any]) -> list[Any] | None:
    """Return the pieces of each position joined, None where there are none at all."""
    if pieces is None:
        return None
    joined = list(empty)
    for position, piece in zip(positions, pieces, strict=True):
        joined[position] = joined[position] + piece
    return joined
