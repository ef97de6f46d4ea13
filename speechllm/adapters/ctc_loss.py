"""The CTC loss of each utterance by itself (spec §13.2)."""

import torch
from torch import Tensor, nn


def ctc_losses(log_probs: Tensor, lengths: Tensor, targets: list[Tensor], blank: int) -> tuple[Tensor, Tensor]:
    """Return each utterance's CTC loss, divided by its target's length (spec §13.2).

    Args:
        log_probs: (B, F, V + 1) float32.
        lengths: (B,) int64, frames.
        targets: Token ids (U,) of each transcript; an empty one has a loss of 0.
        blank: Id of the blank.

    Returns:
        Losses (B,) float32, 0 where no path fits the frames; the number of those utterances.
    """
    target_lengths = torch.tensor([len(target) for target in targets], device=log_probs.device)
    repeats = torch.stack([(target[1:] == target[:-1]).sum() for target in targets])  # each needs a blank between
    too_long = target_lengths + repeats.to(lengths.device) > lengths
    losses = nn.functional.ctc_loss(
        log_probs.transpose(0, 1),
        torch.cat(targets),
        lengths,
        target_lengths,
        blank,
        reduction="none",
        zero_infinity=True,
    )
    return losses.masked_fill(target_lengths == 0, 0) / target_lengths.clamp(min=1), too_long.sum()
