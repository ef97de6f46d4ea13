"""Word, character and mixed error rate of the transcript."""

import unicodedata
from abc import abstractmethod
from collections.abc import Hashable, Sequence
from importlib.metadata import version
from itertools import chain
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray
from rapidfuzz.distance import Levenshtein

from speechllm.metrics.base import Figure, Metric, Sample, Text, ratio
from speechllm.metrics.normalizers import get_normalizer
from speechllm.metrics.text import (
    counted_by_characters,
    divide_characters,
    has_word_spaces,
    remove_spaces,
    share_without_spaces,
)
from speechllm.registry import METRICS

EDITS = ("replace", "insert", "delete")
"""rapidfuzz's names of the edits, in the order of the statistics."""

LOOKED_AT = 1000
"""References that are looked at to see whether their script has spaces between words."""


class ErrorRate(Metric):
    """Errors over the units (words or characters) of the references, in percent; lower values are better.

    The main figure pools: errors of all utterances over units of all references. The one with the suffix ``_macro`` is
    the plain mean of the utterances' own rates, as the code of arXiv 2409.17044 has it. An utterance whose reference is
    empty after normalization has no rate and is left out of both. An empty hypothesis counts as deletions.

    Errors are counted along the alignment of rapidfuzz, which is jiwer's as well.

    Args:
        language: BCP-47 code of the transcript.
        normalizer: What both sides go through first, by name: ``none`` leaves texts as written, ``lower_nopunct``,
            ``nfkc_nopunct``, ``whisper`` (its paper's), ``mlc_slm`` or ``mlc_slm_strict_thai`` (the challenge's,
            without and with the marks of Thai); see :data:`~speechllm.metrics.normalizers.NORMALIZERS`.

    Raises:
        UserError: If the language or the normalizer is not known, or the normalizer cannot run.
    """

    scores: ClassVar[tuple[Text, ...]] = ("transcript",)
    pooled: ClassVar[bool] = True
    kept: ClassVar[bool] = True
    divisible: ClassVar[bool] = True
    name: ClassVar[str]

    def __init__(self, language: str, normalizer: str = "none") -> None:
        super().__init__(language)
        self.normalizer = normalizer
        self._normalizer = get_normalizer(normalizer, language)

    @property
    def figures(self) -> tuple[Figure, ...]:
        """The pooled rate and the mean of rates; the normalizer's name stands in theirs."""
        label = self.name if self.normalizer == "none" else f"{self.name}_{self.normalizer}"
        return Figure(label, "%", False), Figure(f"{label}_macro", "%", False)

    @property
    def columns(self) -> tuple[str, ...]:
        """Edits, units of the reference, the utterance's own rate, and whether it has one."""
        return "substitutions", "insertions", "deletions", "reference_units", "rate", "scored"

    def statistics(self, samples: Sequence[Sample]) -> NDArray[np.float64]:
        """Return edits, reference units, rate and 1 for each sample; zeros where the reference is empty."""
        statistics = np.zeros((len(samples), len(self.columns)))
        for row, sample in zip(statistics, samples, strict=True):
            reference = self._units(self._normalizer.reference(self._prepare(sample.reference)))
            if reference:
                hypothesis = self._units(self._normalizer.hypothesis(self._prepare(sample.hypothesis)))
                edits = count_edits(reference, hypothesis)
                row[:] = *edits, len(reference), sum(edits) / len(reference), 1
        return statistics

    def values(self, sums: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the pooled rate and the mean of rates."""
        rates = (ratio(sums[..., :3].sum(axis=-1), sums[..., 3]), ratio(sums[..., 4], sums[..., 5]))
        return 100 * np.stack(rates, axis=-1)

    def scored(self, statistics: NDArray[np.float64]) -> NDArray[np.bool_]:
        """Return which references are not empty."""
        return statistics[:, 5] > 0

    def signature(self) -> str:
        """Return for instance ``wer|norm:none|rapidfuzz:3.14.6``."""
        fields = (*self._signature(), f"norm:{self._normalizer.signature}", f"rapidfuzz:{version('rapidfuzz')}")
        return "|".join(fields)

    @abstractmethod
    def _signature(self) -> tuple[str, ...]:
        """Return the fields before that of the normalizer."""

    @abstractmethod
    def _units(self, text: str) -> Sequence[str]:
        """Return the units of a normalized text."""

    def _prepare(self, text: str) -> str:
        """Return a text as the normalizer is to get it."""
        return text


@METRICS.register("wer")
class WordErrorRate(ErrorRate):
    """Word error rate in percent; lower values are better.

    Words are what stands between white space. Languages that are written without spaces therefore have none, unless the
    normalizer puts spaces between their characters: their figure is ``mer`` or ``cer``. See :class:`ErrorRate` for the
    arguments and for empty texts.
    """

    name: ClassVar[str] = "wer"

    def objection(self, samples: Sequence[Sample]) -> str:
        """Return what is wrong with words of a language, or of references, without spaces between words."""
        if self._normalizer.divides:
            return ""
        remedy = "`mer` and `cer` count characters."
        if not has_word_spaces(self.language):
            return f"{self.figures[0].name}: '{self.language}' is written without spaces between words. {remedy}"
        texts = [sample.reference for sample in samples[:LOOKED_AT]]
        if share_without_spaces("".join(texts)) > 0.5:
            return (
                f"{self.figures[0].name}: the references are called '{self.language}', but most of their characters "
                f"are of a script without spaces between words. Check the language; {remedy}"
            )
        return ""

    def _signature(self) -> tuple[str, ...]:
        return ("wer",)

    def _units(self, text: str) -> Sequence[str]:
        return text.split()


@METRICS.register("cer")
class CharacterErrorRate(ErrorRate):
    """Character error rate in percent; lower values are better.

    Characters are Unicode code points. A space counts as one, except in the languages of
    :data:`~speechllm.metrics.text.COUNTED_BY_CHARACTERS` (Chinese, Japanese, Korean, Thai and others), where both sides
    lose their spaces first. See :class:`ErrorRate` for the arguments and for empty texts.
    """

    name: ClassVar[str] = "cer"

    def _signature(self) -> tuple[str, ...]:
        return "cer", "spaces:no" if counted_by_characters(self.language) else "spaces:yes"

    def _units(self, text: str) -> Sequence[str]:
        return remove_spaces(text) if counted_by_characters(self.language) else text


@METRICS.register("mer")
class MixedErrorRate(ErrorRate):
    """Mixed error rate in percent: characters in Chinese, Japanese, Korean, Thai and the like, words elsewhere.

    In the languages of :data:`~speechllm.metrics.text.COUNTED_BY_CHARACTERS` each character of their scripts is a unit,
    whatever spaces stand around it, and so is each word of other scripts (``Python 語`` has two units). In every other
    language units are words. Texts are brought into Unicode's form NFC first. So one figure serves a test set of many
    languages. With ``normalizer: mlc_slm`` it is the figure of the MLC-SLM challenge. See :class:`ErrorRate` for the
    arguments and for empty texts; lower values are better.
    """

    name: ClassVar[str] = "mer"

    def _signature(self) -> tuple[str, ...]:
        return "mer", "units:characters" if counted_by_characters(self.language) else "units:words"

    def _prepare(self, text: str) -> str:
        return unicodedata.normalize("NFC", text)

    def _units(self, text: str) -> Sequence[str]:
        return (divide_characters(text) if counted_by_characters(self.language) else text).split()


def count_edits(reference: Sequence[Hashable], hypothesis: Sequence[Hashable]) -> tuple[int, int, int]:
    """Return the substitutions, insertions and deletions that make a hypothesis of a reference."""
    if not isinstance(reference, str) or not isinstance(hypothesis, str):
        # rapidfuzz compares the hashes of words, which may collide; those of numbers are the numbers
        numbers = {unit: number for number, unit in enumerate(set(chain(reference, hypothesis)))}
        reference, hypothesis = [numbers[unit] for unit in reference], [numbers[unit] for unit in hypothesis]
    tags = [tag for tag, _, _ in Levenshtein.editops(reference, hypothesis).as_list()]
    substitutions, insertions, deletions = (tags.count(edit) for edit in EDITS)
    return substitutions, insertions, deletions
