"""chrF of the translation, by sacreBLEU."""

from typing import ClassVar, Literal

from sacrebleu.metrics import CHRF

from speechllm.errors import UserError
from speechllm.metrics.base import Metric
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

    scores: ClassVar[Literal["transcript", "translation"]] = "translation"
    higher_is_better: ClassVar[bool] = True

    def __init__(self, language: str, word_order: int = 0) -> None:
        super().__init__(language)
        if word_order < 0:
            msg = f"`word_order` of chrF must be 0 (chrF) or more (2 is chrF++), but is {word_order}."
            raise UserError(msg)
        self._chrf = CHRF(word_order=word_order)

    def signature(self) -> str:
        """Return sacreBLEU's signature, such as ``nrefs:1|case:mixed|eff:yes|nc:6|nw:0|space:no|version:2.6.0``."""
        self._chrf.corpus_score([""], [[""]])  # sacreBLEU knows nrefs, which is always 1 here, only once it has scored
        return str(self._chrf.get_signature())

    def _score(self, hypotheses: list[str], references: list[str]) -> float:
        return float(self._chrf.corpus_score(hypotheses, [references]).score)
