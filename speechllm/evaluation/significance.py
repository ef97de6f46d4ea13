"""Is a difference more than chance? Confidence intervals by the bootstrap, and paired tests of two systems."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from speechllm.evaluation.scoring import ScoredSet


@dataclass(frozen=True)
class Comparison:
    """A figure of two systems on the same utterances.

    Attributes:
        figure: Name of the figure.
        baseline: Value of the baseline.
        system: Value of the system.
        low: Lower end of the 95 % interval of the difference ``system - baseline``.
        high: Its upper end.
        p_bootstrap: p-value of the paired bootstrap, two-sided.
        p_randomization: p-value of approximate randomization, two-sided.
    """

    figure: str
    baseline: float
    system: float
    low: float
    high: float
    p_bootstrap: float
    p_randomization: float


def compare(
    baseline: ScoredSet,
    system: ScoredSet,
    groups: Sequence[str] | None = None,
    samples: int = 1000,
    seed: int = 12345,
) -> list[Comparison]:
    """Compare two systems on one test set, figure by figure."""
    raise NotImplementedError
