"""sacreBLEU's statistics of each sentence, and its scores of their sums.

Both stand behind an underscore there. They are what sacreBLEU's own significance tests resample, and its public scores
go through them.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from speechllm.metrics.base import Sample


def sacrebleu_statistics(scorer: Any, samples: Sequence[Sample], width: int) -> NDArray[np.float64]:
    """Return the statistics of each sample, (N, width) float64.

    Args:
        scorer: A metric of sacreBLEU.
        samples: The samples.
        width: Number of statistics.
    """
    if not samples:
        return np.zeros((0, width))
    hypotheses, references = ([sample.hypothesis for sample in samples], [sample.reference for sample in samples])
    return np.array(scorer._extract_corpus_statistics(hypotheses, [references]), dtype=np.float64)


def sacrebleu_values(scorer: Any, sums: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the scores of sums of statistics, (..., 1) float64, for sums (..., K)."""
    rows = sums.reshape(-1, sums.shape[-1]).tolist()
    scores = [float(scorer._compute_score_from_stats(row).score) for row in rows]
    return np.array(scores).reshape(*sums.shape[:-1], 1)
