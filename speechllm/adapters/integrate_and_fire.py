"""Continuous integrate-and-fire: frames are weighed, and a position is full when its weights sum to a threshold.

Spec §5.2–5.5; Dong and Xu 2020. The weights of an utterance lie end to end on a line that is cut every ``threshold``;
what a frame gives to a position is the overlap of the two intervals. So a frame is split between the positions that it
completes and begins, and may fill several.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from speechllm.batch import Spans, lengths_to_mask

# Shape legend beyond batch.py: D width of what is integrated.
TAIL = 0.5
"""Share of the threshold at which what is left at the end becomes a position of its own, in inference."""
SMALLEST_SUM = 1e-8
"""Divisors are at least this much."""
SILENT = 1e-6
"""Sum of weights below which they say nothing about the frames; also the rounding forgiven before a fire."""


@dataclass
class Fired:
    """Positions that frames were integrated into.

    Attributes:
        values: (B, S, D), zero past each length.
        lengths: (B,) int64, at least 1.
        quantities: (B,) float64, sum of each utterance's weights before any scaling.
        fallbacks: (B,) bool, utterances that never fired and became the weighted mean of their frames.
    """

    values: Tensor
    lengths: Tensor
    quantities: Tensor
    fallbacks: Tensor


def integrate_and_fire(
    values: Tensor,
    weights: Tensor,
    lengths: Tensor,
    target_lengths: Tensor | None = None,
    threshold: float = 1.0,
) -> Fired:
    """Integrate frames into positions, without a loop over time; differentiable in values and weights.

    With ``target_lengths`` the weights are scaled so that each utterance gives that many positions, exactly. Without,
    what is left at the end becomes a position, scaled to the threshold, if it is half of one or more, and is dropped
    otherwise; an utterance that gives none at all becomes the weighted mean of its frames, or their plain mean where
    the weights vanish.

    Sums run in float64. The (B, S, F) overlaps do not, unless ``values`` are float64: they are taken from whole
    positions and remainders, which lose nothing in float32 (see :func:`_overlaps`). Two float32 copies of them stay
    for the backward pass, 7 MB for 10 utterances of 1,500 frames and 60 tokens.

    Args:
        values: (B, F, D), finite in the padding.
        weights: (B, F), 0 or more; those in the padding do not count.
        lengths: (B,) int64, frames.
        target_lengths: (B,) int64, positions to give, read as 1 where they are 0; None in inference.
        threshold: Sum of weights that fills a position, above 0.
    """
    with torch.autocast(values.device.type, enabled=False):
        valid = lengths_to_mask(lengths, values.shape[1])
        weights = weights.double().masked_fill(~valid, 0)
        quantities = weights.sum(dim=1)
        if target_lengths is not None:
            counts = target_lengths.clamp(min=1)
            gain = None
            fallbacks = torch.zeros_like(counts, dtype=torch.bool)
            scaled = weights * (threshold * counts / quantities.clamp(min=SMALLEST_SUM))[:, None]
        else:
            counts, gain = _count_fires(quantities, threshold)
            fallbacks = counts == 0
            counts = counts.clamp(min=1)
            scaled = weights
        format_of_sum = torch.promote_types(values.dtype, torch.float32)
        overlaps = _overlaps(scaled, int(counts.max()), threshold, format_of_sum)
        if gain is not None:
            last = torch.arange(overlaps.shape[1], device=values.device) == counts[:, None] - 1
            overlaps = overlaps * torch.where(last, gain[:, None], 1).to(format_of_sum)[..., None]
            mean = weights / quantities.clamp(min=SMALLEST_SUM)[:, None]
            mean = torch.where((quantities < SILENT)[:, None], valid / lengths[:, None], mean)
            overlaps = torch.where(fallbacks[:, None, None], mean.to(format_of_sum)[:, None], overlaps)
        overlaps = overlaps.masked_fill(~lengths_to_mask(counts)[..., None], 0)
        fired = (overlaps @ values.to(format_of_sum)).to(values.dtype)
    return Fired(fired, counts, quantities, fallbacks)


def _count_fires(quantities: Tensor, threshold: float) -> tuple[Tensor, Tensor]:
    """Return the positions (B,) int64 of inference, and what the weights of each last one are multiplied by (B,)."""
    full = (quantities / threshold + SILENT).floor()
    rest = quantities - full * threshold
    has_tail = rest >= TAIL * threshold
    gain = torch.where(has_tail, threshold / rest.clamp(min=TAIL * threshold), 1.0)
    return (full + has_tail).long().detach(), gain


def _overlaps(weights: Tensor, positions: int, threshold: float, dtype: torch.dtype) -> Tensor:
    """Return how much of each frame's weight (B, F) float64 falls to each position, (B, S, F) in ``dtype``.

    Position k spans [kβ, (k+1)β], frame s [c_{s-1}, c_s] with c the cumulative sum. With u_k(c) = clip(c - kβ, 0, β)
    the overlap is u_k(c_s) - u_k(c_{s-1}). c - kβ is taken from c = iβ + f, i whole, so that it is exact to ``dtype``
    wherever it is not clipped.
    """
    edges = torch.nn.functional.pad(weights.cumsum(dim=1), (1, 0))
    whole = (edges.detach() / threshold).floor()
    remainder = (edges - whole * threshold).to(dtype)
    steps = whole.to(dtype)[:, None] - torch.arange(positions, dtype=dtype, device=weights.device)[:, None]
    below = (steps * threshold + remainder[:, None]).clamp(min=0, max=threshold)
    return below[..., 1:] - below[..., :-1]


def spans_of_fires(weights: Tensor, lengths: Tensor, threshold: float) -> list[Spans]:
    """Return where each position of inference begins and ends, in fractions of frames, an utterance each.

    Args:
        weights: (B, F), 0 or more.
        lengths: (B,) int64, frames.
        threshold: Sum of weights that fills a position.
    """
    found = []
    for row, length in zip(weights.cpu(), lengths.tolist(), strict=True):
        own = row[:length].double()
        edges = torch.nn.functional.pad(own.cumsum(dim=0), (1, 0))
        count = int(_count_fires(edges[-1:], threshold)[0])
        fires = (torch.arange(count + 1).double() * threshold).clamp(max=float(edges[-1]))
        frame = torch.searchsorted(edges[1:], fires).clamp(max=length - 1)
        inside = (fires - edges[frame]) / own[frame].clamp(min=SMALLEST_SUM)
        bounds = (frame + inside.clamp(0, 1)).float() if count else torch.tensor([0.0, length])
        found.append(Spans(bounds[:-1], bounds[1:], weights=row[:length]))
    return found
