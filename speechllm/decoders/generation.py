"""Limits of generation that hold for each utterance alone, whatever it is batched with."""

import torch
from torch import Tensor


class UtteranceLimit:
    """Logits processor that makes the end token the only choice once an utterance has reached its limit.

    ``generate`` has one ``max_new_tokens`` for the whole batch; with that alone, an utterance's text would depend on
    the longest of its mates.

    Args:
        limits: Most new tokens of each utterance, the end token included.
        num_beams: Beams an utterance.
        end_id: The end token.
    """

    def __init__(self, limits: list[int], num_beams: int, end_id: int) -> None:
        self.limits = torch.tensor(limits).repeat_interleave(num_beams)
        self.end_id = end_id

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """Return ``scores`` (rows, V) with only the end token left where ``input_ids`` (rows, n) is one short of it."""
        over = (input_ids.shape[1] + 1 >= self.limits).to(scores.device)
        forced = torch.full_like(scores, float("-inf"))
        forced[:, self.end_id] = 0
        return torch.where(over[:, None], forced, scores)


def cut_at_end(ids: list[int], end_ids: list[int]) -> tuple[list[int], int]:
    """Return the ids before the first end token, and how many tokens were generated, the end token included."""
    for position, token in enumerate(ids):
        if token in end_ids:
            return ids[:position], position + 1
    return ids, len(ids)
