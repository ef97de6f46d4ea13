"""Limits of generation that hold for each utterance alone, whatever it is batched with, and its clock."""

import time

import torch
from torch import Tensor

from speechllm.batch import to_device

CPU = torch.device("cpu")


class UtteranceLimit:
    """Keeps each row's number of new tokens within its bounds, by the scores of the next one.

    With one limit for the whole batch, an utterance's text would depend on the longest of its mates. Once a row has
    reached its own limit, the end token is the only choice; below ``min_new_tokens`` no end token is one. Where the two
    disagree, the limit counts. Nothing here waits for a GPU.

    Args:
        limits: Most new tokens of each row, the end token included.
        end_id: The end token of the prompt.
        end_ids: Every token that ends an answer.
        min_new_tokens: Fewest new tokens, the end token not included.
        device: Where the scores are.

    Attributes:
        on_device: (rows,) int64, the limits where the scores are.
    """

    def __init__(
        self,
        limits: list[int],
        end_id: int,
        end_ids: list[int],
        min_new_tokens: int = 0,
        device: torch.device = CPU,
    ) -> None:
        self.limits, self.end_id, self.end_ids, self.min_new_tokens = limits, end_id, end_ids, min_new_tokens
        self._device = device
        self.on_device = to_device(torch.tensor(limits), device)
        self._ends = to_device(torch.tensor(end_ids), device)

    def select(self, rows: list[int]) -> "UtteranceLimit":
        """Return the limits of the given rows, in that order; one may stand there several times."""
        limits = [self.limits[row] for row in rows]
        return UtteranceLimit(limits, self.end_id, self.end_ids, self.min_new_tokens, self._device)

    def __call__(self, new_tokens: int, scores: Tensor) -> Tensor:
        """Return the scores (rows, V) of the token that comes after ``new_tokens``, within the bounds."""
        if new_tokens < self.min_new_tokens:
            scores = scores.index_fill(1, self._ends, float("-inf"))
        if new_tokens + 1 < min(self.limits):
            return scores
        over = new_tokens + 1 >= self.on_device
        end = scores[:, self.end_id].masked_fill(over, 0)
        scores = scores.masked_fill(over[:, None], float("-inf"))
        scores[:, self.end_id] = end
        return scores

    def is_end(self, tokens: Tensor) -> Tensor:
        """Return where ``tokens`` (…) are such as end an answer."""
        return torch.isin(tokens, self._ends)


class FirstTokenClock:
    """Notes when the first new token was chosen, counted from when the clock is made.

    Attributes:
        first_token_s: Seconds from the start to the first new token; 0 before there is one.
    """

    def __init__(self) -> None:
        self.first_token_s = 0.0
        self._start_s = time.perf_counter()

    def chosen(self, tokens: Tensor) -> None:
        """Take note of ``tokens`` (rows,), the ones chosen last; only the first call counts."""
        if not self.first_token_s:
            tokens[:1].tolist()  # waits until the device has chosen
            self.first_token_s = time.perf_counter() - self._start_s


def cut_at_end(ids: list[int], end_ids: list[int]) -> tuple[list[int], int]:
    """Return the ids before the first end token, and how many tokens were generated, the end token included."""
    for position, token in enumerate(ids):
        if token in end_ids:
            return ids[:position], position + 1
    return ids, len(ids)
