"""What is wrong with answers, whatever their words are: emptiness, loops, cut-offs, copies and inventions."""

import re
from collections.abc import Sequence
from importlib.metadata import version
from itertools import chain
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray
from rapidfuzz.distance import Levenshtein

from speechllm.metrics.base import Figure, Metric, Sample, Text, ratio
from speechllm.metrics.text import counted_by_characters, remove_punctuation
from speechllm.registry import METRICS

LONGEST_LOOP, REPEATS = 10, 5
"""Units of the longest passage that is looked for in a loop, and how often in a row it must stand there."""

COPY_SIMILARITY = 0.8
"""Similarity to the source from which a translation is a copy of it: 1 less edits over the longer one's characters."""

_LOOP = re.compile(rf"(.{{1,{LONGEST_LOOP}}}?)\1{{{REPEATS - 1},}}", re.DOTALL)


@METRICS.register("health")
class Health(Metric):
    """Rates of answers that are wrong by their form, in percent of utterances; lower values are better.

    Units are words, or characters in the languages of :data:`~speechllm.metrics.text.COUNTED_BY_CHARACTERS`, in lower
    case and without punctuation. Where no text of an utterance tells that something was said, nothing was.

    - ``empty_rate``: nothing was written, of the utterances in which something was said;

    - ``repetition_loop_rate``: one to ten units stand at least five times in a row, and do not in the reference;

    - ``hit_limit_rate``: decoding was cut off at the limit of new tokens;

    - ``length_ratio``: units of all hypotheses over those of all references, where there is one; near 1 is good;

    - ``copy_rate``: the translation is nearly the source text (a similarity of 0.8), and the reference is not, of the
      utterances that have a source text;

    - ``hallucination_rate_on_silence``: something was written, of the utterances in which nothing was said.

    Args:
        language: BCP-47 code of the text.

    Raises:
        UserError: If the language is not known.
    """

    scores: ClassVar[tuple[Text, ...]] = ("transcript", "translation")
    compares: ClassVar[bool] = False
    divisible: ClassVar[bool] = True

    @property
    def figures(self) -> tuple[Figure, ...]:
        """The rates, and the ratio of lengths."""
        return (
            Figure("empty_rate", "%", False),
            Figure("repetition_loop_rate", "%", False),
            Figure("hit_limit_rate", "%", False),
            Figure("length_ratio", "ratio", None),
            Figure("copy_rate", "%", False),
            Figure("hallucination_rate_on_silence", "%", False),
        )

    @property
    def columns(self) -> tuple[str, ...]:
        """Utterances of each kind, what is wrong with them, and units."""
        return (
            *("utterances", "spoken", "silent", "with_source"),
            *("empty", "loops", "hit_limit", "copies", "hallucinations"),
            *("hypothesis_units", "reference_units"),
        )

    def statistics(self, samples: Sequence[Sample]) -> NDArray[np.float64]:
        """Return 0 or 1 where a column counts utterances, and the units of both texts where there is a reference."""
        return np.array([self._count(sample) for sample in samples], dtype=np.float64).reshape(-1, len(self.columns))

    def values(self, sums: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the figures; NaN where no utterance is of the kind that one is about."""
        column = dict(zip(self.columns, np.moveaxis(sums, -1, 0), strict=True))
        return np.stack(
            [
                100 * ratio(column["empty"], column["spoken"]),
                100 * ratio(column["loops"], column["utterances"]),
                100 * ratio(column["hit_limit"], column["utterances"]),
                ratio(column["hypothesis_units"], column["reference_units"]),
                100 * ratio(column["copies"], column["with_source"]),
                100 * ratio(column["hallucinations"], column["silent"]),
            ],
            axis=-1,
        )

    def signature(self) -> str:
        """Return for instance ``health|units:words|loop:10x5|copy:0.8|rapidfuzz:3.14.6``."""
        units = "characters" if counted_by_characters(self.language) else "words"
        rules = f"loop:{LONGEST_LOOP}x{REPEATS}|copy:{COPY_SIMILARITY}"
        return f"health|units:{units}|{rules}|rapidfuzz:{version('rapidfuzz')}"

    def _count(self, sample: Sample) -> tuple[float, ...]:
        by_characters = counted_by_characters(self.language)
        hypothesis, reference = (units_of(text, by_characters) for text in (sample.hypothesis, sample.reference))
        written, source = bool(sample.hypothesis.strip()), sample.source.strip()
        spoken = sample.spoken or bool(sample.reference.strip() or source)
        return (
            *(1, spoken, not spoken, bool(source)),
            *(spoken and not written, loops(hypothesis, reference), sample.hit_limit),
            *(bool(source) and is_copy(sample), not spoken and written),
            *((len(hypothesis), len(reference)) if reference else (0, 0)),
        )


def units_of(text: str, by_characters: bool) -> Sequence[str]:
    """Return the words or characters of a text, in lower case and without punctuation.

    A word of punctuation alone is kept as it is, for loops are made of it as well.
    """
    words = [remove_punctuation(word) or word for word in text.lower().split()]
    return "".join(words) if by_characters else words


def loops(hypothesis: Sequence[str], reference: Sequence[str]) -> bool:
    """Return whether a hypothesis repeats a passage that the reference does not repeat as often.

    Args:
        hypothesis: Units of the hypothesis.
        reference: Units of the reference.
    """
    if len(hypothesis) < REPEATS:
        return False
    if not isinstance(hypothesis, str) or not isinstance(reference, str):
        # a character for each word, so that one search serves both
        numbers: dict[str, int] = {}
        for word in chain(hypothesis, reference):
            numbers.setdefault(word, len(numbers))
        if len(hypothesis) - len(set(hypothesis)) < REPEATS - 1:
            return False
        hypothesis, reference = (
            "".join(chr(0x10000 + numbers[word]) for word in words) for words in (hypothesis, reference)
        )
    return any(found[1] * REPEATS not in reference for found in _LOOP.finditer(hypothesis))


def is_copy(sample: Sample) -> bool:
    """Return whether a translation is nearly its source text, and the reference is not; case and punctuation aside."""
    hypothesis, reference, source = (
        "".join(units_of(text, by_characters=True)) for text in (sample.hypothesis, sample.reference, sample.source)
    )
    return _is_like(hypothesis, source) and not _is_like(reference, source)


def _is_like(text: str, source: str) -> bool:
    return Levenshtein.normalized_similarity(text, source, score_cutoff=COPY_SIMILARITY) >= COPY_SIMILARITY
