"""Put prompt, speech embeddings and answer into one sequence (spec §12.1)."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from speechllm.batch import AdapterOutput, lengths_to_mask

IGNORED = -100
"""Label of a position whose prediction is not scored."""


@dataclass
class Joined:
    """A batch of sequences for the LLM; L is the longest of them.

    Attributes:
        embeds: (B, L, H), zero at padding.
        mask: (B, L) bool, True where a position is valid.
        labels: (B, L) int64, the answer's token ids at their own positions, :data:`IGNORED` elsewhere.
    """

    embeds: Tensor
    mask: Tensor
    labels: Tensor

    @property
    def position_ids(self) -> Tensor:
        """Positions (B, L) counted over valid places only, so that the side of the padding does not matter."""
        return (self.mask.long().cumsum(dim=1) - 1).clamp(min=0)


def join(
    embed: Callable[[Tensor], Tensor],
    around: list[tuple[list[int], list[int]]],
    speech: AdapterOutput,
    answers: list[list[int]],
    padding_side: Literal["left", "right"],
) -> Joined:
    """Join each utterance's prompt, valid speech positions and answer, and pad the batch.

    Args:
        embed: The LLM's embedding of token ids.
        around: Token ids before and after the speech of each utterance.
        speech: Speech embeddings (B, S, H) with lengths (B,).
        answers: Token ids of each answer; empty lists in generation.
        padding_side: ``right`` in training, ``left`` in generation.
    """
    device = speech.values.device
    speech_lengths: list[int] = speech.lengths.tolist()
    rows = list(zip(around, speech_lengths, answers, strict=True))
    lengths = torch.tensor([len(before) + n + len(after) + len(answer) for (before, after), n, answer in rows])
    size = int(lengths.max())
    ids = torch.zeros(len(rows), size, dtype=torch.int64)
    labels = torch.full((len(rows), size), IGNORED, dtype=torch.int64)
    is_speech = torch.zeros(len(rows), size, dtype=torch.bool)
    for row, ((before, after), speech_length, answer) in enumerate(rows):
        start = size - int(lengths[row]) if padding_side == "left" else 0
        speech_start = start + len(before)
        text_start = speech_start + speech_length
        text = torch.tensor([*after, *answer], dtype=torch.int64)
        ids[row, start:speech_start] = torch.tensor(before, dtype=torch.int64)
        is_speech[row, speech_start:text_start] = True
        ids[row, text_start : text_start + len(text)] = text
        labels[row, text_start + len(after) : text_start + len(text)] = text[len(after) :]
    mask = lengths_to_mask(lengths, size)
    mask = mask.flip(1) if padding_side == "left" else mask
    mask, is_speech = mask.to(device), is_speech.to(device)
    embeds = embed(ids.to(device))
    valid_speech = speech.values[lengths_to_mask(speech.lengths, speech.values.shape[1])].to(embeds.dtype)
    embeds = embeds.masked_scatter(is_speech[..., None], valid_speech).masked_fill(~mask[..., None], 0)
    return Joined(embeds, mask, labels.to(device))
