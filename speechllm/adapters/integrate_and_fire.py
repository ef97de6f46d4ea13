"""Continuous integrate-and-fire: frames are weighed, and a position is full when its weights sum to a threshold.

Spec §5.2–5.5; Dong and Xu 2020. The weights of an utterance lie end to end on a line that is cut every ``threshold``;
what a frame gives to a position is the overlap of the two intervals. So a frame is split between the positions that it
completes and begins, and may fill several.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from speechllm.adapters.segments import Pieces, sum_pieces
from speechllm.batch import Spans, lengths_to_mask, to_device, to_host, without_autocast

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
        lengths: (B,) int64 on the CPU, at least 1.
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

    Sums of weights run in float64; the overlaps are differences of these, in the format of ``values`` but at least
    float32. A GPU is asked for nothing with ``target_lengths``, and once, for the number of positions, without.

    Args:
        values: (B, F, D), finite in the padding.
        weights: (B, F), 0 or more; those in the padding do not count.
        lengths: (B,) int64 on the CPU, frames.
        target_lengths: (B,) int64 on the CPU, positions to give, read as 1 where they are 0; None in inference.
        threshold: Sum of weights that fills a position, above 0.
    """
    device, size = values.device, values.shape[1]
    with without_autocast(device):
        valid = lengths_to_mask(lengths, size, device)
        weights = weights.double().masked_fill(~valid, 0)
        quantities = weights.sum(dim=1)
        gain = nothing_fired = None
        if target_lengths is not None:
            out_lengths = target_lengths.clamp(min=1)
            counts = to_device(out_lengths, device)
            fallbacks = torch.zeros_like(counts, dtype=torch.bool)
            scaled = weights * (threshold * counts.double() / quantities.clamp(min=SMALLEST_SUM))[:, None]
        else:
            counts, gain = _count_fires(quantities, threshold)
            nothing_fired = fallbacks = counts == 0
            counts, scaled = counts.clamp(min=1), weights
            out_lengths = to_host(counts)
        longest = int(out_lengths.max())
        positions = longest if gain is None else longest + 1  # the last of these takes what is dropped
        pieces, overlaps = _cut(scaled, positions, threshold)
        place = pieces.positions.view_as(overlaps) - torch.arange(len(counts), device=device)[:, None] * positions
        if gain is not None:
            overlaps = overlaps * torch.where(place == counts[:, None] - 1, gain[:, None], 1)
        if nothing_fired is not None:
            mean = weights / quantities.clamp(min=SMALLEST_SUM)[:, None]
            plain = valid.double() / to_device(lengths, device)[:, None]
            mean = torch.where((quantities < SILENT)[:, None], plain, mean)
            # Of such an utterance the pieces are its frames, in order, and nothing.
            mean = nn.functional.pad(mean, (0, overlaps.shape[1] - size))
            overlaps = torch.where(nothing_fired[:, None], mean, overlaps)
        overlaps = overlaps.masked_fill(place >= counts[:, None], 0)
        format_of_sum = torch.promote_types(values.dtype, torch.float32)
        flat = values.to(format_of_sum).flatten(0, 1).contiguous()
        fired = sum_pieces(flat, overlaps.to(format_of_sum).flatten(), pieces)
        fired = fired.view(len(counts), positions, -1)[:, :longest].to(values.dtype)
    return Fired(fired, out_lengths, quantities, fallbacks)


def _count_fires(quantities: Tensor, threshold: float) -> tuple[Tensor, Tensor]:
    """Return the positions (B,) int64 of inference, and what the weights of each last one are multiplied by (B,)."""
    full = (quantities / threshold + SILENT).floor()
    rest = quantities - full * threshold
    has_tail = rest >= TAIL * threshold
    gain = torch.where(has_tail, threshold / rest.clamp(min=TAIL * threshold), 1.0)
    return (full + has_tail).long().detach(), gain


def _cut(weights: Tensor, positions: int, threshold: float) -> tuple[Pieces, Tensor]:
    """Cut the line of each utterance's weights at the ends of frames and of positions.

    Args:
        weights: (B, F) float64; frame s spans [c_{s-1}, c_s] with c the cumulative sum.
        positions: Positions S of each utterance; position k spans [kβ, (k+1)β], the last one all that is left.
        threshold: β.

    Returns:
        The pieces, F + S - 1 an utterance, and their lengths (B, F + S - 1), differentiable in the weights. A cut past
        the end of an utterance's weights gives a piece of length 0 behind all others.
    """
    rows, size = weights.shape
    device = weights.device
    ends = weights.cumsum(dim=1)
    cuts = torch.arange(1, positions, device=device).expand(rows, -1)
    before = (ends.detach() / threshold).floor().clamp(max=positions - 1).long()  # cuts up to the end of each frame
    rank_of_end = torch.arange(size, device=device) + before
    rank_of_cut = cuts - 1 + torch.searchsorted(before, cuts.contiguous())
    pieces = size + positions - 1
    places = torch.cat([rank_of_end, rank_of_cut], dim=1)
    marks = torch.cat([ends, torch.minimum(cuts.double() * threshold, ends[:, -1:])], dim=1)
    marks = torch.zeros_like(marks).scatter(1, places, marks)
    lengths = torch.diff(nn.functional.pad(marks, (1, 0)), dim=1).clamp(min=0)
    is_cut = torch.zeros(rows, pieces, dtype=torch.int64, device=device).scatter(1, rank_of_cut, 1)
    position = is_cut.cumsum(dim=1) - is_cut
    frame = (torch.arange(pieces, device=device) - position).clamp(max=size - 1)
    row = torch.arange(rows, device=device)[:, None]
    first_of_frame = nn.functional.pad(rank_of_end[:, :-1] + 1, (1, 0))
    first_of_position = nn.functional.pad(rank_of_cut + 1, (1, 0))
    return Pieces(
        frames=(frame + row * size).flatten(),
        positions=(position + row * positions).flatten(),
        of_frame=(first_of_frame + row * pieces).flatten(),
        of_position=(first_of_position + row * pieces).flatten(),
    ), lengths


def spans_of_fires(weights: Tensor, lengths: Tensor, threshold: float) -> list[Spans]:
    """Return where each position of inference begins and ends, in fractions of frames, an utterance each.

    Args:
        weights: (B, F), 0 or more.
        lengths: (B,) int64, frames.
        threshold: Sum of weights that fills a position.
    """
    found = []
    for row, length in zip(to_host(weights), lengths.tolist(), strict=True):
        own = row[:length].double()
        edges = nn.functional.pad(own.cumsum(dim=0), (1, 0))
        count = int(_count_fires(edges[-1:], threshold)[0])
        fires = (torch.arange(count + 1).double() * threshold).clamp(max=float(edges[-1]))
        frame = torch.searchsorted(edges[1:], fires).clamp(max=length - 1)
        inside = (fires - edges[frame]) / own[frame].clamp(min=SMALLEST_SUM)
        bounds = (frame + inside.clamp(0, 1)).float() if count else torch.tensor([0.0, length])
        found.append(Spans(bounds[:-1], bounds[1:], weights=row[:length]))
    return found
