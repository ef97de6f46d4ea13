"""Generate token ids: read each prompt once, then choose tokens with a cache of keys and values."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from speechllm.batch import AdapterOutput, to_device
from speechllm.decoders.cached_llm import CachedLLM
from speechllm.decoders.join import Joined
from speechllm.decoders.limits import FirstTokenClock, UtteranceLimit
from speechllm.decoders.search import beam_search, greedy_search

Around = list[tuple[list[int], list[int]]]
"""Token ids before and after the speech of each utterance."""


@dataclass(frozen=True)
class Prompts:
    """What an LLM reads before it answers.

    Attributes:
        around: Token ids before and after the speech of each utterance; never both empty.
        speech: Speech embeddings (B, S, H) with lengths (B,).
        audio_of: Position of the first utterance with the very same audio, for each utterance.
        join: Puts token ids and speech embeddings into left-padded sequences.
    """

    around: Around
    speech: AdapterOutput
    audio_of: list[int]
    join: Callable[[Around, AdapterOutput], Joined]


@torch.no_grad()
def generate_ids(
    llm: Any, prompts: Prompts, limit: UtteranceLimit, num_beams: int, static: bool, clock: FirstTokenClock
) -> list[list[int]]:
    """Answer prompts, greedily or by beams.

    Each prompt is read once, whatever the number of beams; where utterances share their audio and what stands before
    it, that is read once for all of them.

    Args:
        llm: Hugging Face causal language model.
        prompts: The prompts.
        limit: Limits of the answers.
        num_beams: Beams; 1 is greedy.
        static: Whether greedy search keeps keys and values in a static cache, see :class:`CachedLLM`.
        clock: Is told of the first token.

    Returns:
        New token ids of each utterance; what stands after its first end token means nothing.
    """
    befores = [len(before) + n for (before, _), n in zip(prompts.around, prompts.speech.lengths.tolist(), strict=True)]
    longest = max(befores) + max(len(after) for _, after in prompts.around)
    cached = CachedLLM(llm, longest + max(limit.limits), static and num_beams == 1)
    logits = _read(cached, prompts, befores)
    if num_beams == 1:
        return greedy_search(cached, logits, limit, clock)
    return beam_search(cached, logits, limit, num_beams, clock)


def _read(cached: CachedLLM, prompts: Prompts, befores: list[int]) -> Tensor:
    """Read the prompts and return the logits (B, V) float32 of the first tokens."""
    around = prompts.around
    first_rows: dict[tuple[int, tuple[int, ...]], int] = {}
    firsts = [
        first_rows.setdefault((audio, tuple(before)), row)
        for row, (audio, (before, _)) in enumerate(zip(prompts.audio_of, around, strict=True))
    ]
    shared = len(first_rows) < len(around) and all(after for _, after in around)
    if not shared or cached.static or cached.slides:
        joined = prompts.join(around, prompts.speech)
        lengths = {before + len(after) for before, (_, after) in zip(befores, around, strict=True)}
        return cached.read(joined.embeds, joined.mask, padded=len(lengths) > 1)
    rows = list(first_rows.values())
    joined = prompts.join([(around[row][0], []) for row in rows], prompts.speech.select(rows))
    cached.read(joined.embeds, joined.mask, padded=len({befores[row] for row in rows}) > 1)
    cached.select_listed([rows.index(first) for first in firsts])
    embeds, mask, padded = _left_padded(cached.llm.get_input_embeddings(), [after for _, after in around])
    return cached.read(embeds, mask, padded)


def _left_padded(embedding: Any, texts: list[list[int]]) -> tuple[Tensor, Tensor, bool]:
    """Return embeddings (B, L, H) and mask (B, L) of token ids, and whether any of them is shorter than another."""
    size, device = max(map(len, texts)), embedding.weight.device
    ids = torch.tensor([[0] * (size - len(text)) + text for text in texts])
    mask = torch.tensor([[False] * (size - len(text)) + [True] * len(text) for text in texts])
    return embedding(to_device(ids, device)), to_device(mask, device), bool(len({len(text) for text in texts}) > 1)
