"""Choose tokens: greedily, or by beams. What is finished leaves the batch (spec §17.1)."""

import torch
from torch import Tensor

from speechllm.batch import to_device
from speechllm.decoders.cached_llm import CachedLLM
from speechllm.decoders.limits import FirstTokenClock, UtteranceLimit

LOOK_EVERY = 8
"""Tokens between two looks at what is finished, where looking means waiting for a GPU."""

KEPT_SHARE = 0.875
"""Utterances are put together anew when no more than this share of them is left; that copies keys and values once."""

NEVER = -1e9
"""Score of what must not be chosen; finite, since it is added and divided."""

# Shape legend beyond batch.py: R rows of the LLM, K beams an utterance, N new tokens at most.


def greedy_search(llm: CachedLLM, logits: Tensor, limit: UtteranceLimit, clock: FirstTokenClock) -> list[list[int]]:
    """Choose the likeliest token again and again.

    Args:
        llm: Has read the prompts of R utterances.
        logits: (R, V) float32 of their first tokens.
        limit: Their limits.
        clock: Is told of the first token.

    Returns:
        New token ids of each utterance; what stands after its first end token means nothing.
    """
    size, longest = len(limit.limits), max(limit.limits)
    answers = torch.full((size, longest), limit.end_id, device=logits.device)
    places = torch.arange(size, device=logits.device)
    ended = torch.zeros(size, dtype=torch.bool, device=logits.device)
    for count in range(longest):
        tokens = limit(count, logits).argmax(dim=-1)
        clock.chosen(tokens)
        answers[places, count] = tokens
        ended |= limit.is_end(tokens)
        kept = _going_on(~ended, count, limit.limits)
        if not kept:
            break
        if len(kept) <= KEPT_SHARE * len(limit.limits) and not llm.static:
            index = to_device(torch.tensor(kept), logits.device)
            llm.select(index)
            limit, tokens, places, ended = limit.select(kept), tokens[index], places[index], ended[index]
        logits = llm.step(tokens)
    found: list[list[int]] = answers.tolist()
    return found


def beam_search(
    llm: CachedLLM, logits: Tensor, limit: UtteranceLimit, num_beams: int, clock: FirstTokenClock
) -> list[list[int]]:
    """Keep the K likeliest beginnings of each utterance, and return its best answer by mean log-probability.

    An utterance ends at its limit, or when K answers are finished and the likeliest beginning, at its present length,
    is worse than the worst of them.

    Args:
        llm: Has read the prompts of B utterances, each once.
        logits: (B, V) float32 of their first tokens.
        limit: Their limits.
        num_beams: Beams K.
        clock: Is told of the first token.

    Returns:
        As :func:`greedy_search`.
    """
    beams = _Beams(limit, num_beams, logits.device)
    best = torch.full((beams.size, max(limit.limits)), limit.end_id, device=logits.device)
    logits = logits.repeat_interleave(num_beams, dim=0)
    places = torch.arange(beams.size, device=logits.device)
    origin = places.repeat_interleave(num_beams)  # the prompt was read once an utterance
    for count in range(best.shape[1]):
        parents, tokens = beams.extend(count, logits)
        clock.chosen(tokens)
        kept = _going_on(beams.open, count, beams.limits)
        if len(kept) <= KEPT_SHARE * beams.size:
            best[places] = beams.finished_ids[:, 0]
            if not kept:
                break
            index = to_device(torch.tensor(kept), logits.device)
            places, parents, tokens = places[index], parents[index], tokens[index]
            beams.select(index, kept)
        llm.select(origin[parents.flatten()])
        logits = llm.step(tokens.flatten())
        origin = torch.arange(beams.size * num_beams, device=logits.device)
    found: list[list[int]] = best.tolist()
    return found


class _Beams:
    """Beginnings and finished answers of B utterances, K of each.

    Attributes:
        open: (B,) bool, whether a beginning can still lead to a better answer.
        finished_ids: (B, K, N) int64, finished answers, the best one first.
        limits: Limit of each utterance.
    """

    def __init__(self, limit: UtteranceLimit, num_beams: int, device: torch.device) -> None:
        self.limits, self.num_beams = limit.limits, num_beams
        self._limit = limit.select([row for row in range(self.size) for _ in range(num_beams)])
        self._candidates = max(2, 1 + len(limit.end_ids)) * num_beams  # enough that K of them do not end
        self.ids = torch.full((self.size, num_beams, max(limit.limits)), limit.end_id, device=device)
        self.scores = torch.full((self.size, num_beams), NEVER, device=device)
        self.scores[:, 0] = 0  # the beams are the same at first: one of them counts
        self.finished_ids = self.ids.clone()
        self.finished_scores = torch.full_like(self.scores, NEVER)
        self.finished = torch.zeros_like(self.scores, dtype=torch.bool)
        self.open = torch.ones(self.size, dtype=torch.bool, device=device)

    @property
    def size(self) -> int:
        return len(self.limits)

    def extend(self, count: int, logits: Tensor) -> tuple[Tensor, Tensor]:
        """Add the token after ``count`` others, by logits (B · K, V).

        Returns:
            Row of the LLM (B, K) that each beginning comes from, and its last token (B, K).
        """
        scores = self._limit(count, logits.log_softmax(dim=-1))
        vocabulary = scores.shape[1]
        totals = (scores.view(self.size, self.num_beams, vocabulary) + self.scores[..., None]).flatten(1)
        totals, index = totals.topk(min(self._candidates, totals.shape[1]))
        parents, tokens = index // vocabulary, index % vocabulary
        ids = _take(self.ids, parents)
        ids[:, :, count] = tokens
        ends = self._limit.is_end(tokens)
        self._finish(count + 1, ids, totals, ends)

        self.scores, chosen = totals.masked_fill(ends, NEVER).topk(self.num_beams)
        self.ids = _take(ids, chosen)
        reachable = self.scores[:, :1] / (count + 1)
        worst = torch.where(self.finished, self.finished_scores.amin(dim=1, keepdim=True), NEVER)
        self.open &= (reachable > worst).any(dim=1) & (count + 1 < self._limit.on_device[:: self.num_beams])
        first_row = torch.arange(self.size, device=logits.device)[:, None] * self.num_beams
        return first_row + parents.gather(1, chosen), tokens.gather(1, chosen)

    def select(self, rows: Tensor, listed: list[int]) -> None:
        """Go on with the given utterances, which the CPU knows as ``listed``."""
        for name in ("ids", "scores", "finished_ids", "finished_scores", "finished", "open"):
            setattr(self, name, getattr(self, name)[rows])
        self.limits = [self.limits[row] for row in listed]
        self._limit = self._limit.select(
            [row * self.num_beams + beam for row in listed for beam in range(self.num_beams)]
        )

    def _finish(self, length: int, ids: Tensor, totals: Tensor, ends: Tensor) -> None:
        """Take the candidates that end among the K best into the answers, where they are better."""
        among_best = torch.arange(totals.shape[1], device=totals.device) < self.num_beams
        counts = ends & among_best & self.open[:, None]
        merged = torch.cat([self.finished_scores, (totals / length).masked_fill(~counts, NEVER)], dim=1)
        self.finished_scores, chosen = merged.topk(self.num_beams)
        self.finished_ids = _take(torch.cat([self.finished_ids, ids], dim=1), chosen)
        self.finished = torch.cat([self.finished, counts], dim=1).gather(1, chosen)


def _take(ids: Tensor, beams: Tensor) -> Tensor:
    """Return the sequences (B, M, N) of the given beams (B, M)."""
    return ids.gather(1, beams[..., None].expand(-1, -1, ids.shape[2]))


def _going_on(alive: Tensor, count: int, limits: list[int]) -> list[int]:
    """Return the places that go on after ``count`` + 1 tokens.

    On a GPU, what is alive is looked at now and then only; limits are known without looking.
    """
    below = [place for place, limit in enumerate(limits) if count + 1 < limit]
    if alive.device.type != "cpu" and (count + 1) % LOOK_EVERY:
        return below
    flags = alive.tolist()
    return [place for place in below if flags[place]]
