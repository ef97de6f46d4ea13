"""Limits of generation that hold for each utterance alone, whatever it is batched with."""

import torch
from torch import Tensor


class UtteranceLimit:
    """Logits processor that keeps each utterance's number of new tokens within its bounds.

    ``generate`` has one ``max_new_tokens`` for the whole batch; with that alone, an utterance's text would depend on
    the longest of its mates. Once an utterance has reached its own limit, the end token is the only choice; below
    ``min_new_tokens`` no end token is one. Where the two disagree, the limit counts.

    Args:
        limits: Most new tokens of each utterance, the end token included.
        num_beams: Beams an utterance.
        end_id: The end token of the prompt.
        end_ids: Every token that ends an answer.
        min_new_tokens: Fewest new tokens, the end token not included.
    """

    def __init__(
        self, limits: list[int], num_beams: int, end_id: int, end_ids: list[int], min_new_tokens: int = 0
    ) -> None:
        self.limits = torch.tensor(limits).repeat_interleave(num_beams)
        self.end_id, self.end_ids = end_id, end_ids
        self.min_new_tokens = min_new_tokens

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """Return ``scores`` (rows, V) within the bounds, where ``input_ids`` (rows, n) hold n new tokens."""
        new_tokens = input_ids.shape[1]
        if new_tokens < self.min_new_tokens:
            scores = scores.index_fill(1, torch.tensor(self.end_ids, device=scores.device), float("-inf"))
        over = (new_tokens + 1 >= self.limits).to(scores.device)
        forced = torch.full_like(scores, float("-inf"))
        forced[:, self.end_id] = 0
        return torch.where(over[:, None], forced, scores)


def cut_at_end(ids: list[int], end_ids: list[int]) -> tuple[list[int], int]:
    """Return the ids before the first end token, and how many tokens were generated, the end token included."""
    for position, token in enumerate(ids):
        if token in end_ids:
            return ids[:position], position + 1
    return ids, len(ids)
