"""chrF of the translation, by sacreBLEU."""

from collections.abc import Sequence
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray
from sacrebleu.metrics import CHRF

from speechllm.errors import UserError
from speechllm.metrics.base import Figure, Metric, Sample, Text
from speechllm.metrics.sacrebleu_sums import sacrebleu_statistics, sacrebleu_values
from speechllm.registry import METRICS


@METRICS.register("chrf")
class Chrf(Metric):
    """Corpus chrF against one reference, 0 to 100; higher values are better.

    The figure and the signature are sacreBLEU's own: chrF2, cased, character 6-grams without spaces. It needs no
    tokenizer and so holds for every language.

    Args:
        language: BCP-47 code of the translation.
        word_order: Longest word n-gram that counts beside the characters: 0 is chrF, 2 is chrF++.

    Raises:
        UserError: If the language is not known or ``word_order`` is negative.
    """

    scores: ClassVar[tuple[Text, ...]] = ("translation",)
    divisible: ClassVar[bool] = True

    def __init__(self, language: str, word_order: int = 0) -> None:
        super().__init__(language)
        if word_order < 0:
            msg = f"`word_order` of chrF must be 0 (chrF) or more (2 is chrF++), but is {word_order}."
            raise UserError(msg)
        self._chrf = CHRF(word_order=word_order)

    @property
    def figures(self) -> tuple[Figure, ...]:
        """The score: ``chrf``, ``chrf++`` where pairs of words count too, ``chrf_w<n>`` for other numbers of words."""
        names = {0: "chrf", 2: "chrf++"}
        return (Figure(names.get(self._chrf.word_order, f"chrf_w{self._chrf.word_order}"), "points", True),)

    @property
    def columns(self) -> tuple[str, ...]:
        """For each n: n-grams of the hypothesis, of the reference, and those that agree; characters, then words."""
        kinds = ("hypothesis", "reference", "matches")
        orders = [f"c{n}" for n in range(1, self._chrf.char_order + 1)]
        orders += [f"w{n}" for n in range(1, self._chrf.word_order + 1)]
        return tuple(f"{kind}_{order}" for order in orders for kind in kinds)

    def statistics(self, samples: Sequence[Sample]) -> NDArray[np.float64]:
        """Return sacreBLEU's own statistics of each sample."""
        return sacrebleu_statistics(self._chrf, samples, len(self.columns))

    def values(self, sums: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return chrF."""
        return sacrebleu_values(self._chrf, sums)

    def signature(self) -> str:
        """Return sacreBLEU's signature, such as ``nrefs:1|case:mixed|eff:yes|nc:6|nw:0|space:no|version:2.6.0``."""
        self._chrf.corpus_score([""], [[""]])  # sacreBLEU knows nrefs, which is always 1 here, only once it has scored
        return str(self._chrf.get_signature())
