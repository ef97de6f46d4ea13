"""Batches as training has them, made up: durations of real speech, noise for audio, letters for text."""

import math
import random
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from speechllm.batch import SAMPLE_RATE, Batch
from speechllm.models.sizing.planning import TOKENS_PER_SECOND

MEDIAN_S, SPREAD = 5.0, 0.48
"""Median in seconds and spread of the logarithm of durations: a mean of 5.6 s, one in twenty above 11 s, like MuST-C
and CoVoST 2 together."""

SHORTEST_S = 1.0
LETTERS = "abcdefghijklmnopqrstuvwxyz "


def log_normal_durations(count: int, longest_s: float, seed: int = 0) -> list[float]:
    """Return durations in seconds of utterances, log-normal between 1 s and ``longest_s``."""
    generator = random.Random(seed)
    drawn = (math.exp(generator.gauss(math.log(MEDIAN_S), SPREAD)) for _ in range(count))
    return [min(max(duration_s, SHORTEST_S), longest_s) for duration_s in drawn]


class Noise:
    """Makes batches out of one stretch of noise.

    Args:
        longest_s: Longest utterance in seconds.
        task: Task of all utterances.
        seed: Seed of noise and texts.
    """

    def __init__(self, longest_s: float, task: str, seed: int = 0) -> None:
        generator = torch.Generator().manual_seed(seed)
        self._noise: Tensor = 0.1 * torch.randn(math.ceil(longest_s * SAMPLE_RATE) + SAMPLE_RATE, generator=generator)
        self._letters = random.Random(seed)
        self.task = task

    def batch(self, durations_s: Sequence[float]) -> Batch:
        """Return a batch of utterances of these durations; a text has about as many tokens as it would have letters."""
        lengths = torch.tensor([round(duration_s * SAMPLE_RATE) for duration_s in durations_s])
        audio = torch.zeros(len(durations_s), int(lengths.max()))
        for row, length in enumerate(lengths.tolist()):
            start = self._letters.randrange(SAMPLE_RATE)
            audio[row, :length] = self._noise[start : start + length]
        texts = [self._text(round(TOKENS_PER_SECOND * duration_s)) for duration_s in durations_s]
        count = len(texts)
        return Batch(
            audio=audio,
            audio_lengths=lengths,
            ids=[f"noise{row}" for row in range(count)],
            tasks=[self.task] * count,
            source_languages=["en"] * count,
            target_languages=["de" if self.task == "st" else "en"] * count,
            transcripts=texts,
            translations=texts,
            corpora=["noise"] * count,
            rows=list(range(count)),
        )

    def _text(self, letters: int) -> str:
        return "".join(self._letters.choice(LETTERS) for _ in range(max(1, letters))).replace("  ", " a").strip() or "a"


def draw_batches(
    durations_s: Sequence[float], count: int, seconds: float, utterances: int, buckets: int, seed: int = 0
) -> list[list[float]]:
    """Return the durations of batches, bucketed as training buckets them.

    Args:
        durations_s: Durations to draw from.
        count: Number of batches.
        seconds: Largest batch in seconds, padding included.
        utterances: Largest batch in utterances.
        buckets: Number of buckets.
        seed: Seed of the order.
    """
    sorted_s = np.sort(np.asarray(durations_s, dtype=np.float64))
    generator = np.random.default_rng(seed)
    batches = []
    edges = np.array_split(sorted_s, min(buckets, len(sorted_s)))
    weights = np.array([bucket.sum() for bucket in edges])
    for _ in range(count):
        bucket = edges[generator.choice(len(edges), p=weights / weights.sum())]
        size = int(max(1, min(utterances, seconds // bucket[-1])))
        batches.append([float(value) for value in generator.choice(bucket, size=size, replace=True)])
    return batches
