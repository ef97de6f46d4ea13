"""The contract of every metric: samples in, statistics of each out, and figures from the sums of these.

A figure is a function of sums over samples. So a test set, a speaker, an average over languages and each of a thousand
bootstrap samples are all scored the same way, from statistics that are computed once.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from speechllm.errors import UserError
from speechllm.languages import check_language

Text = Literal["transcript", "translation", "answer"]
"""What of an utterance is scored: a text of the model, or its answer as it came, before it was split into these."""


@dataclass(frozen=True, slots=True)
class Sample:
    """One utterance as metrics see it.

    Attributes:
        hypothesis: What the model wrote.
        reference: What is right; empty where nothing is said, and for an ``answer``.
        source: Reference transcript that a translation was made from; empty where there is none.
        spoken: Whether something is said, as far as another text of the utterance tells.
        duration_s: Duration of the audio in seconds; 0 where it could not be read.
        decode_s: This utterance's share of the time that its batch took to decode, in seconds.
        first_token_s: Time from the audio to the first token of its batch, in seconds; 0 where it was not measured.
        tokens: Number of generated tokens.
        hit_limit: Whether decoding was cut off at the limit of new tokens.
    """

    hypothesis: str
    reference: str
    source: str = ""
    spoken: bool = False
    duration_s: float = 0.0
    decode_s: float = 0.0
    first_token_s: float = 0.0
    tokens: int = 0
    hit_limit: bool = False


@dataclass(frozen=True)
class Figure:
    """What a metric gives one value of.

    Attributes:
        name: Name in logs, tables and files, such as ``wer_macro``.
        unit: ``%``, ``points`` (a score from 0 to 100), ``s``, ``/s`` or ``ratio``.
        higher_is_better: Direction; None where neither is.
    """

    name: str
    unit: str
    higher_is_better: bool | None


class Metric(ABC):
    """A score of a test set, computed from sums over all of its samples.

    A new metric sets ``scores`` and writes the four abstract members. The first of its figures is the one that tables
    show.

    Shapes: ``N`` samples, ``K`` statistics, ``G`` figures.

    Args:
        language: BCP-47 code of the scored text; the program passes it, a recipe never does.

    Attributes:
        scores: Which texts of an utterance are scored.
        pooled: Whether several languages make one figure of their sums. If not, they have a mean only.
        kept: Whether files of predictions keep the statistics of each utterance.
        compares: Whether hypotheses are compared with references. If so, a test set without any is not scored.
        divisible: Whether several processes may compute the statistics of a large test set, each those of a part of it.

    Raises:
        UserError: If the language is not known.
    """

    scores: ClassVar[tuple[Text, ...]]
    pooled: ClassVar[bool] = False
    kept: ClassVar[bool] = False
    compares: ClassVar[bool] = True
    divisible: ClassVar[bool] = False

    def __init__(self, language: str) -> None:
        check_language(language)
        self.language = language

    @property
    @abstractmethod
    def figures(self) -> tuple[Figure, ...]:
        """What :meth:`values` returns, in order; names say what differs from the metric's defaults."""

    @property
    @abstractmethod
    def columns(self) -> tuple[str, ...]:
        """Names of the statistics, in order."""

    @abstractmethod
    def statistics(self, samples: Sequence[Sample]) -> NDArray[np.float64]:
        """Return the statistics of each sample, (N, K) float64; zeros for a sample that has no figure."""

    @abstractmethod
    def values(self, sums: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the figures that sums of statistics give.

        Args:
            sums: (..., K) float64, sums over samples.

        Returns:
            (..., G) float64; NaN where a figure has nothing to be computed from.
        """

    @abstractmethod
    def signature(self) -> str:
        """Return how the figures are computed, such that someone else can compute them again; one word."""

    def scored(self, statistics: NDArray[np.float64]) -> NDArray[np.bool_]:
        """Return which samples have a figure, (N,) bool, given :meth:`statistics`; all unless said otherwise."""
        return np.ones(len(statistics), dtype=bool)

    def objection(self, samples: Sequence[Sample]) -> str:
        """Return why the figures would mislead, in a sentence or two; empty where they do not.

        A test set with an objection is not scored.

        Args:
            samples: Samples of a test set; none where only the language is to be looked at, before decoding.
        """
        return ""

    def score(self, samples: Sequence[Sample]) -> dict[str, float]:
        """Return every figure of a test set by its name.

        Raises:
            UserError: If no sample has a figure.
        """
        statistics = self.statistics(samples)
        if not self.scored(statistics).any():
            raise UserError(self.nothing_to_score())
        values = self.values(statistics.sum(axis=0))
        return {figure.name: float(value) for figure, value in zip(self.figures, values, strict=True)}

    def nothing_to_score(self) -> str:
        """Return what to say of a test set in which no sample has a figure."""
        return (
            f"{self.figures[0].name} ('{self.language}') has no utterance with a reference to score. "
            f"Check that the split has utterances and that they carry a {' or '.join(self.scores)}."
        )


def ratio(numerator: NDArray[np.float64], denominator: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return ``numerator / denominator``, and NaN where the latter is 0."""
    return np.divide(numerator, denominator, out=np.full_like(numerator, np.nan), where=denominator != 0)
