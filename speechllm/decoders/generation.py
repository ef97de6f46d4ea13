"""Limits of generation that hold for each utterance alone, whatever it is batched with, and its clock."""

import time

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


class FirstTokenClock:
    """Stopping criterion that stops nothing and notes when the first new token was chosen.

    ``generate`` asks its criteria after each choice, greedy or by beams, so the first call is the one that counts. The
    clock starts when it is made.

    Attributes:
        first_token_s: Seconds from the start to the first new token; 0 before there is one.
    """

    def __init__(self) -> None:
        self.first_token_s = 0.0
        self._start_s = time.perf_counter()

    def __call__(self, input_ids: Tensor, scores: Tensor | None, **_: object) -> Tensor:
        """Return False for each of ``input_ids`` (rows, n): nothing ends here."""
        if not self.first_token_s:
            input_ids[:1, -1:].tolist()  # waits until the device has chosen
            self.first_token_s = time.perf_counter() - self._start_s
        return torch.zeros(len(input_ids), dtype=torch.bool, device=input_ids.device)


def cut_at_end(ids: list[int], end_ids: list[int]) -> tuple[list[int], int]:
    """Return the ids before the first end token, and how many tokens were generated, the end token included."""
    for position, token in enumerate(ids):
        if token in end_ids:
            return ids[:position], position + 1
    return ids, len(ids)
