"""Word and character error rate of the transcript."""

from abc import abstractmethod
from collections.abc import Sequence
from importlib.metadata import version
from typing import ClassVar

import jiwer
import numpy as np
from numpy.typing import NDArray

from speechllm.metrics.base import Figure, Metric, Sample, Text, ratio
from speechllm.metrics.text import get_normalizer, remove_spaces
from speechllm.registry import METRICS

UNSPACED_LANGUAGES = ("ja", "ko", "th", "zh")
"""Languages whose spaces carry no word boundary that writers agree on; their CER ignores spaces."""

EDITS = ("substitute", "insert", "delete")
"""jiwer's names of the edits, in the order of the statistics."""


class ErrorRate(Metric):
    """Errors over the units (words or characters) of the references, in percent; lower values are better.

    The main figure pools: errors of all utterances over units of all references. The one with the suffix ``_macro`` is
    the plain mean of the utterances' own rates, as the code of arXiv 2409.17044 has it. An utterance whose reference is
    empty after normalization has no rate and is left out of both. An empty hypothesis counts as deletions.

    Args:
        language: BCP-47 code of the transcript.
        normalizer: What both sides go through first, by name; ``none`` leaves texts as written.

    Raises:
        UserError: If the language or the normalizer is not known.
    """

    scores: ClassVar[tuple[Text, ...]] = ("transcript",)
    pooled: ClassVar[bool] = True
    kept: ClassVar[bool] = True
    name: ClassVar[str]

    def __init__(self, language: str, normalizer: str = "none") -> None:
        super().__init__(language)
        self.normalizer = normalizer
        self._normalize = get_normalizer(normalizer)

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
        texts = [(self._prepare(sample.hypothesis), self._prepare(sample.reference)) for sample in samples]
        rows = [row for row, (_, reference) in enumerate(texts) if reference]
        statistics = np.zeros((len(samples), len(self.columns)))
        if rows:
            edits, units = self._align([texts[row][1] for row in rows], [texts[row][0] for row in rows])
            statistics[rows, :3], statistics[rows, 3] = edits, units
            statistics[rows, 4], statistics[rows, 5] = edits.sum(axis=1) / units, 1
        return statistics

    def values(self, sums: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the pooled rate and the mean of rates."""
        rates = (ratio(sums[..., :3].sum(axis=-1), sums[..., 3]), ratio(sums[..., 4], sums[..., 5]))
        return 100 * np.stack(rates, axis=-1)

    def scored(self, statistics: NDArray[np.float64]) -> NDArray[np.bool_]:
        """Return which references are not empty."""
        return statistics[:, 5] > 0

    @abstractmethod
    def _align(self, references: list[str], hypotheses: list[str]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return edits (N, 3) and reference units (N,); no reference is empty."""

    def _prepare(self, text: str) -> str:
        return self._normalize(text)

    def _signature(self, *fields: str) -> str:
        return "|".join((*fields, f"norm:{self.normalizer}", f"jiwer:{version('jiwer')}"))


@METRICS.register("wer")
class WordErrorRate(ErrorRate):
    """Word error rate in percent; lower values are better.

    Words are what stands between white space. Languages that are written without spaces therefore want ``cer``.
    See :class:`ErrorRate` for the arguments and for empty texts.
    """

    name: ClassVar[str] = "wer"

    def signature(self) -> str:
        """Return for instance ``wer|norm:none|jiwer:4.0.0``."""
        return self._signature("wer")

    def _align(self, references: list[str], hypotheses: list[str]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        return count_edits(jiwer.process_words(references, hypotheses))


@METRICS.register("cer")
class CharacterErrorRate(ErrorRate):
    """Character error rate in percent; lower values are better.

    Characters are Unicode code points. A space counts as one, except in Japanese, Korean, Thai and Chinese, where both
    sides lose their spaces first. See :class:`ErrorRate` for the arguments and for empty texts.
    """

    name: ClassVar[str] = "cer"

    def signature(self) -> str:
        """Return for instance ``cer|spaces:yes|norm:none|jiwer:4.0.0``."""
        return self._signature("cer", "spaces:no" if self._unspaced else "spaces:yes")

    @property
    def _unspaced(self) -> bool:
        return self.language.split("-")[0] in UNSPACED_LANGUAGES

    def _prepare(self, text: str) -> str:
        text = super()._prepare(text)
        return remove_spaces(text) if self._unspaced else text

    def _align(self, references: list[str], hypotheses: list[str]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        return count_edits(jiwer.process_characters(references, hypotheses))


def count_edits(
    output: jiwer.WordOutput | jiwer.CharacterOutput,
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the edits of each text, (N, 3) in the order of :data:`EDITS`, and the units of its reference, (N,)."""
    edits = np.zeros((len(output.references), 3))
    for row, chunks in enumerate(output.alignments):
        for chunk in chunks:
            if chunk.type != "equal":
                length = max(chunk.ref_end_idx - chunk.ref_start_idx, chunk.hyp_end_idx - chunk.hyp_start_idx)
                edits[row, EDITS.index(chunk.type)] += length
    return edits, np.array([len(reference) for reference in output.references], dtype=np.float64)
