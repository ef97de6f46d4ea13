"""Put prompt, speech embeddings and answer into one sequence (spec §12.1).

Where everything goes is worked out on the CPU, which knows all texts and lengths, and brought to the device at once; so
nothing here waits for a GPU.
"""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import chain
from typing import Literal

import torch
from torch import Tensor

from speechllm.batch import AdapterOutput, lengths_to_mask, to_device

PaddingSide = Literal["left", "right"]


@dataclass
class Joined:
    """A batch of sequences for the LLM; L is the longest of them.

    Attributes:
        embeds: (B, L, H), zero at padding; packed: (1, P, H), the P valid positions of all sequences end to end.
        position_ids: (1, L), or (1, P), counted from 0 in each sequence; of use where padding is at the right.
        lengths: (B,) int64 on the CPU, valid positions of each sequence.
        packed: Whether the sequences lie in one row.
        padding_side: Side of the padding, where there is any.
        targets: (N,) int64, token ids of all answers in order.
        target_places: (N,) int64, the position before each of them, which predicts it, in ``embeds`` without its first
            dimension.
        target_lengths: (B,) int64, number of each answer's tokens, where the values are.
    """

    embeds: Tensor
    position_ids: Tensor
    lengths: Tensor
    packed: bool
    padding_side: PaddingSide
    targets: Tensor
    target_places: Tensor
    target_lengths: Tensor

    @property
    def mask(self) -> Tensor:
        """Mask (B, L) that is True at valid positions of padded sequences."""
        mask = lengths_to_mask(self.lengths, self.embeds.shape[1], self.embeds.device)
        return mask.flip(1) if self.padding_side == "left" else mask


def join(
    embed: Callable[[Tensor], Tensor],
    around: list[tuple[list[int], list[int]]],
    speech: AdapterOutput,
    answers: list[list[int]],
    padding_side: PaddingSide,
    packed: bool = False,
) -> Joined:
    """Join each utterance's prompt, valid speech positions and answer, and pad or pack the batch.

    Args:
        embed: The LLM's embedding of token ids.
        around: Token ids before and after the speech of each utterance; none of them has neither.
        speech: Speech embeddings (B, S, H) with lengths (B,).
        answers: Token ids of each answer; empty lists in generation.
        padding_side: ``right`` in training, ``left`` in generation.
        packed: Whether the sequences lie end to end in one row, without padding.
    """
    device, rows = speech.values.device, len(around)
    before = torch.tensor([len(ids) for ids, _ in around])
    after = torch.tensor([len(ids) for _, ids in around])
    answer = torch.tensor([len(ids) for ids in answers])
    lengths = before + speech.lengths + after + answer
    size = int(lengths.sum() if packed else lengths.max())
    starts = lengths.cumsum(0) - lengths if packed else torch.arange(rows) * size
    if padding_side == "left" and not packed:
        starts = starts + size - lengths
    after_start = starts + before + speech.lengths
    text = [ids for (head, tail), own in zip(around, answers, strict=True) for ids in (head, tail, own)]
    hosts = [
        torch.tensor(list(chain.from_iterable(text)), dtype=torch.int64),
        _ranges(torch.stack([starts, after_start], 1).flatten(), torch.stack([before, after + answer], 1).flatten()),
        _ranges(starts + before, speech.lengths),
        _ranges(torch.arange(rows) * speech.values.shape[1], speech.lengths),
        torch.tensor(list(chain.from_iterable(answers)), dtype=torch.int64),
        _ranges(after_start + after - 1, answer),
        _ranges(torch.zeros(rows, dtype=torch.int64), lengths) if packed else torch.arange(size),
        answer,
    ]
    moved = torch.split(to_device(torch.cat(hosts), device), [len(host) for host in hosts])
    ids, text_places, speech_places, speech_rows, targets, target_places, positions, target_lengths = moved
    text_embeds = embed(ids)
    valid_speech = speech.values.flatten(0, 1).index_select(0, speech_rows).to(text_embeds.dtype)
    flat = text_embeds.new_zeros(size if packed else rows * size, text_embeds.shape[1])
    flat = flat.index_copy(0, text_places, text_embeds).index_copy(0, speech_places, valid_speech)
    return Joined(
        embeds=flat.view(1 if packed else rows, size, -1),
        position_ids=positions[None],
        lengths=lengths,
        packed=packed,
        padding_side=padding_side,
        targets=targets,
        target_places=target_places,
        target_lengths=target_lengths,
    )


def _ranges(starts: Tensor, counts: Tensor) -> Tensor:
    """Return ``starts[i], starts[i] + 1, …``, ``counts[i]`` numbers for each i, one after another."""
    first = starts - (counts.cumsum(0) - counts)
    return first.repeat_interleave(counts) + torch.arange(int(counts.sum()))
