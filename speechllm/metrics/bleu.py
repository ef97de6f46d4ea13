"""BLEU of the translation, by sacreBLEU."""

from collections.abc import Sequence
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray
from sacrebleu.metrics import BLEU

from speechllm.errors import UserError, did_you_mean
from speechllm.metrics.base import Figure, Metric, Sample, Text
from speechllm.metrics.sacrebleu_sums import sacrebleu_statistics, sacrebleu_values
from speechllm.metrics.text import has_word_spaces
from speechllm.registry import METRICS

TOKENIZERS = ("13a", "intl", "char", "zh", "ja-mecab", "ko-mecab", "none")
"""sacreBLEU's tokenizers that need no download."""

LANGUAGE_TOKENIZERS = {"ja": "ja-mecab", "ko": "ko-mecab", "zh": "zh"}
"""The tokenizer of a target language, as sacreBLEU chooses it; every other language takes 13a."""


@METRICS.register("bleu")
class Bleu(Metric):
    """Corpus BLEU against one reference, 0 to 100; higher values are better.

    The figure and the signature are sacreBLEU's own: cased, 4-grams, exponential smoothing. An empty reference is
    scored as sacreBLEU does it, so its hypothesis counts as wrong words. A language without spaces between words that
    sacreBLEU has no tokenizer for, such as Thai or Cantonese, needs ``tokenize: char`` or ``zh``.

    Args:
        language: BCP-47 code of the translation; it chooses the tokenizer.
        tokenize: Tokenizer to take in place of the language's own; one of :data:`TOKENIZERS`.

    Raises:
        UserError: If the language or the tokenizer is not known, or if the tokenizer's packages are not installed.
    """

    scores: ClassVar[tuple[Text, ...]] = ("translation",)
    divisible: ClassVar[bool] = True

    def __init__(self, language: str, tokenize: str | None = None) -> None:
        super().__init__(language)
        self.tokenize = tokenize
        self._tokenizer = name = tokenize or LANGUAGE_TOKENIZERS.get(language.split("-")[0], "13a")
        if name not in TOKENIZERS:
            msg = f"Unknown BLEU tokenizer '{name}'.{did_you_mean(name, TOKENIZERS)} Known: {', '.join(TOKENIZERS)}."
            raise UserError(msg)
        try:
            self._bleu = BLEU(tokenize=name)
        except RuntimeError as error:  # sacreBLEU's answer where MeCab or its dictionary is absent
            msg = (
                f"BLEU of '{language}' needs the tokenizer {name}, which is not installed. "
                f"Run `pip install 'sacrebleu[{name[:2]}]'`, or give the metric `tokenize: char`."
            )
            raise UserError(msg) from error

    def objection(self, samples: Sequence[Sample]) -> str:
        """Return what is wrong with words of a language without spaces between words."""
        if has_word_spaces(self.language) or self._tokenizer not in ("13a", "intl", "none"):
            return ""
        return (
            f"{self.figures[0].name}: '{self.language}' is written without spaces between words, which the tokenizer "
            f"{self._tokenizer} looks for. Give the metric `tokenize: char`."
        )

    @property
    def figures(self) -> tuple[Figure, ...]:
        """BLEU; a tokenizer that is not the language's own stands in its name."""
        return (Figure("bleu" if self.tokenize is None else f"bleu_{self.tokenize}", "points", True),)

    @property
    def columns(self) -> tuple[str, ...]:
        """Lengths, and for each n the n-grams that agree and all of the hypothesis."""
        orders = range(1, self._bleu.max_ngram_order + 1)
        counts = (f"{kind}_{n}" for kind in ("matches", "ngrams") for n in orders)
        return "hypothesis_length", "reference_length", *counts

    def statistics(self, samples: Sequence[Sample]) -> NDArray[np.float64]:
        """Return sacreBLEU's own statistics of each sample."""
        return sacrebleu_statistics(self._bleu, samples, len(self.columns))

    def values(self, sums: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return BLEU."""
        return sacrebleu_values(self._bleu, sums)

    def signature(self) -> str:
        """Return sacreBLEU's signature, for instance ``nrefs:1|case:mixed|eff:no|tok:13a|smooth:exp|version:2.6.0``."""
        self._bleu.corpus_score([""], [[""]])  # sacreBLEU knows nrefs, which is always 1 here, only once it has scored
        return str(self._bleu.get_signature())
