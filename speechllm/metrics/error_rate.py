"""Word and character error rate of the transcript, pooled over the test set."""

from abc import abstractmethod
from dataclasses import dataclass
from importlib.metadata import version
from typing import ClassVar, Literal

import jiwer

from speechllm.metrics.base import Metric
from speechllm.metrics.text import get_normalizer, remove_spaces
from speechllm.registry import METRICS

UNSPACED_LANGUAGES = ("ja", "ko", "th", "zh")
"""Languages whose spaces carry no word boundary that writers agree on; their CER ignores spaces."""


@dataclass(frozen=True)
class ErrorCounts:
    """Aligned units (words or characters) of a test set.

    Attributes:
        hits: Units that agree.
        substitutions: Reference units that another unit stands for.
        insertions: Hypothesis units that answer to no reference unit.
        deletions: Reference units that nothing answers to.
    """

    hits: int
    substitutions: int
    insertions: int
    deletions: int

    @property
    def errors(self) -> int:
        """Substitutions, insertions and deletions together."""
        return self.substitutions + self.insertions + self.deletions

    @property
    def reference_units(self) -> int:
        """Units of all references."""
        return self.hits + self.substitutions + self.deletions


class ErrorRate(Metric):
    """Errors of all utterances over the units of all references, ×100; lower values are better.

    An utterance whose reference is empty after normalization has no rate: it is left out and counted in
    ``skipped_empty_references``, which the signature states. An empty hypothesis counts as deletions.

    Args:
        language: BCP-47 code of the transcript.
        normalizer: What both sides go through first: ``none`` (as written) or ``lower_nopunct``.

    Attributes:
        skipped_empty_references: Utterances left out since the last reset.

    Raises:
        UserError: If the language or the normalizer is not known.
    """

    scores: ClassVar[Literal["transcript", "translation"]] = "transcript"
    higher_is_better: ClassVar[bool] = False

    def __init__(self, language: str, normalizer: str = "none") -> None:
        super().__init__(language)
        self.normalizer = normalizer
        self._normalize = get_normalizer(normalizer)
        self.skipped_empty_references = 0

    def update(self, hypothesis: str, reference: str) -> None:
        """Add one utterance, or count it as skipped where its reference is empty."""
        reference = self._prepare(reference)
        if not reference:
            self.skipped_empty_references += 1
            return
        super().update(self._prepare(hypothesis), reference)

    def reset(self) -> None:
        """Forget every utterance, the skipped ones too."""
        super().reset()
        self.skipped_empty_references = 0

    @abstractmethod
    def counts(self) -> ErrorCounts:
        """Return what the rate is made of.

        Raises:
            UserError: If there is no utterance to score.
        """

    def _prepare(self, text: str) -> str:
        return self._normalize(text)

    def _score(self, hypotheses: list[str], references: list[str]) -> float:
        counts = self.counts()
        return 100 * counts.errors / counts.reference_units

    def _signature(self, *fields: str) -> str:
        settings = (f"norm:{self.normalizer}", "level:corpus", f"jiwer:{version('jiwer')}")
        return "|".join((*fields, *settings, f"skipped:{self.skipped_empty_references}"))


@METRICS.register("wer")
class WordErrorRate(ErrorRate):
    """Word error rate in percent, over the whole test set; lower values are better.

    Words are what stands between white space. Languages that are written without spaces therefore want ``cer``.
    See :class:`ErrorRate` for the arguments and for empty texts.
    """

    def counts(self) -> ErrorCounts:
        """Return the words behind the rate."""
        hypotheses, references = self._texts()
        words = jiwer.process_words(references, hypotheses)
        return ErrorCounts(words.hits, words.substitutions, words.insertions, words.deletions)

    def signature(self) -> str:
        """Return for instance ``wer|norm:none|level:corpus|jiwer:4.0.0|skipped:0``."""
        return self._signature("wer")


@METRICS.register("cer")
class CharacterErrorRate(ErrorRate):
    """Character error rate in percent, over the whole test set; lower values are better.

    Characters are Unicode code points. A space counts as one, except in Japanese, Korean, Thai and Chinese, where both
    sides lose their spaces first. See :class:`ErrorRate` for the arguments and for empty texts.
    """

    def counts(self) -> ErrorCounts:
        """Return the characters behind the rate."""
        hypotheses, references = self._texts()
        characters = jiwer.process_characters(references, hypotheses)
        return ErrorCounts(characters.hits, characters.substitutions, characters.insertions, characters.deletions)

    def signature(self) -> str:
        """Return for instance ``cer|spaces:yes|norm:none|level:corpus|jiwer:4.0.0|skipped:0``."""
        return self._signature("cer", "spaces:no" if self._unspaced else "spaces:yes")

    @property
    def _unspaced(self) -> bool:
        return self.language.split("-")[0] in UNSPACED_LANGUAGES

    def _prepare(self, text: str) -> str:
        text = super()._prepare(text)
        return remove_spaces(text) if self._unspaced else text
