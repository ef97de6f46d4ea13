"""BLEU of the translation, by sacreBLEU."""

from typing import ClassVar, Literal

from sacrebleu.metrics import BLEU

from speechllm.errors import UserError, did_you_mean
from speechllm.metrics.base import Metric
from speechllm.registry import METRICS

TOKENIZERS = ("13a", "intl", "char", "zh", "ja-mecab", "ko-mecab", "none")
"""sacreBLEU's tokenizers that need no download."""

LANGUAGE_TOKENIZERS = {"ja": "ja-mecab", "ko": "ko-mecab", "zh": "zh"}
"""The tokenizer of a target language, as sacreBLEU chooses it; every other language takes 13a."""


@METRICS.register("bleu")
class Bleu(Metric):
    """Corpus BLEU against one reference, 0 to 100; higher values are better.

    The figure and the signature are sacreBLEU's own: cased, 4-grams, exponential smoothing. An empty reference is
    scored as sacreBLEU does it, so its hypothesis counts as wrong words.

    Args:
        language: BCP-47 code of the translation; it chooses the tokenizer.
        tokenize: Tokenizer to take in place of the language's own; one of :data:`TOKENIZERS`.

    Raises:
        UserError: If the language or the tokenizer is not known, or if the tokenizer's packages are not installed.
    """

    scores: ClassVar[Literal["transcript", "translation"]] = "translation"
    higher_is_better: ClassVar[bool] = True

    def __init__(self, language: str, tokenize: str | None = None) -> None:
        super().__init__(language)
        name = tokenize or LANGUAGE_TOKENIZERS.get(language.split("-")[0], "13a")
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

    def signature(self) -> str:
        """Return sacreBLEU's signature, for instance ``nrefs:1|case:mixed|eff:no|tok:13a|smooth:exp|version:2.6.0``."""
        self._bleu.corpus_score([""], [[""]])  # sacreBLEU knows nrefs, which is always 1 here, only once it has scored
        return str(self._bleu.get_signature())

    def _score(self, hypotheses: list[str], references: list[str]) -> float:
        return float(self._bleu.corpus_score(hypotheses, [references]).score)
