"""The CTC loss of each utterance by itself (spec §13.2)."""

import torch
from torch import Tensor, nn

from speechllm.batch import to_device


def ctc_losses(log_probs: Tensor, lengths: Tensor, targets: list[Tensor], blank: int) -> tuple[Tensor, Tensor]:
    """Return each utterance's CTC loss, divided by its target's length (spec §13.2).

    On a GPU torch's kernel takes its targets there and its lengths here. It brings the lengths up itself, which waits
    for what the GPU is busy with: nothing is asked of the GPU, but the CPU does not run ahead of it meanwhile.

    Args:
        log_probs: (B, F, V + 1) float32.
        lengths: (B,) int64 on the CPU, frames.
        targets: Token ids (U,) of each transcript, on the CPU; an empty one has a loss of 0.
        blank: Id of the blank.

    Returns:
        Losses (B,) float32, 0 where no path fits the frames; the number of those utterances, on the CPU.
    """
    target_lengths = torch.tensor([len(target) for target in targets])
    repeats = torch.stack([(target[1:] == target[:-1]).sum() for target in targets])  # each needs a blank between
    too_long = target_lengths + repeats > lengths
    losses = nn.functional.ctc_loss(
        log_probs.transpose(0, 1),
        to_device(torch.cat(targets), log_probs.device),
        lengths,
        target_lengths,
        blank,
        reduction="none",
        zero_infinity=True,
    )
    own_lengths = to_device(target_lengths, log_probs.device)
    return losses.masked_fill(own_lengths == 0, 0) / own_lengths.clamp(min=1), too_long.sum()
