"""Test sets: which predictions are scored together, and as which samples."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from speechllm.metrics.base import Sample, Text
from speechllm.predictions import Prediction


@dataclass(frozen=True, order=True)
class TestSet:
    """Utterances of one corpus, split, task and language pair, and which of their texts is scored.

    Attributes:
        corpus: Name of the corpus.
        split: Name of the split.
        task: ``asr``, ``st`` or ``asr+st``: the same text may come from several.
        source_language: Language that is spoken.
        target_language: Language of the translation; the source language for ``asr``.
        text: ``transcript``, ``translation`` or ``answer``.
    """

    __test__ = False  # pytest takes classes of this name for tests

    corpus: str
    split: str
    task: str
    source_language: str
    target_language: str
    text: Text

    @property
    def languages(self) -> str:
        """Language of a transcript (``en``), or pair of a translation (``en-de``)."""
        if self.text == "transcript" or self.task == "asr":
            return self.source_language
        return f"{self.source_language}-{self.target_language}"

    @property
    def language(self) -> str:
        """Language of the scored text."""
        return self.source_language if self.text == "transcript" else self.target_language


def group_by_test_set(predictions: Sequence[Prediction], texts: Iterable[Text]) -> dict[TestSet, list[int]]:
    """Return the positions of the predictions of each test set, both in the order of their first utterance.

    Args:
        predictions: Predictions in any order.
        texts: Which texts are scored; utterances whose task does not have one are left out of its sets.
    """
    tasks = {"transcript": "asr", "translation": "st"}
    groups: dict[TestSet, list[int]] = {}
    for text in texts:
        for place, p in enumerate(predictions):
            if text == "answer" or tasks[text] in p.task.split("+"):
                # A transcript is scored once for each target language that a joint task has it with.
                key = TestSet(p.corpus, p.split, p.task, p.source_language, p.target_language, text)
                groups.setdefault(key, []).append(place)
    return groups


def to_sample(prediction: Prediction, text: Text) -> Sample:
    """Return a text of a prediction as a sample."""
    hypothesis, reference, source = prediction.text, "", ""
    if text == "transcript":
        hypothesis, reference = prediction.hypothesis_transcript, prediction.reference_transcript
    elif text == "translation":
        hypothesis, reference = prediction.hypothesis_translation, prediction.reference_translation
        source = prediction.reference_transcript
    return Sample(
        hypothesis=hypothesis,
        reference=reference,
        source=source,
        spoken=bool(f"{prediction.reference_transcript}{prediction.reference_translation}".strip()),
        duration_s=prediction.duration_s,
        decode_s=prediction.decode_s,
        first_token_s=prediction.first_token_s,
        tokens=prediction.tokens,
        hit_limit=prediction.hit_limit,
    )


def short_names(test_sets: Iterable[TestSet]) -> dict[TestSet, str]:
    """Return a name for each test set, ``<corpus> <languages>``, with the split and task only where it needs them."""
    sets = list(test_sets)
    plain: dict[tuple[str, str, Text], set[tuple[str, str, str]]] = {}
    for item in sets:
        plain.setdefault((item.corpus, item.languages, item.text), set()).add(
            (item.split, item.task, item.target_language)
        )
    names = {}
    for item in sets:
        twins = plain[item.corpus, item.languages, item.text]
        words = [item.corpus, item.languages]
        words += [item.split] if len({split for split, _, _ in twins}) > 1 else []
        words += [item.task] if len({task for _, task, _ in twins}) > 1 else []
        words += [item.target_language] if len({target for _, _, target in twins}) > 1 else []
        names[item] = " ".join(words)
    return names
