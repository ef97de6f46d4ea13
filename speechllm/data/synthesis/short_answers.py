"""Short answers of the synthetic corpus: phrases without a verb, from which a small model learns to listen first."""

from collections.abc import Sequence

from speechllm.data.synthesis import inflection, lexicon
from speechllm.data.synthesis.lexicon import Phrase
from speechllm.data.synthesis.sentence_patterns import SMALL_THINGS, Pattern

_PERSONS = [person.nominative for person in lexicon.PERSONS]
_COUNTED = [inflection.counted(number, name) for number in lexicon.NUMBERS for name in lexicon.PLURALS]
_TIMES = [*lexicon.PRESENT_TIMES, *lexicon.PAST_TIMES, *lexicon.DAYS, *inflection.clock_phrases()]


def _answer(*templates: str, **choices: Sequence[Phrase]) -> Pattern:
    """Return a pattern from one template for all languages, or one a language."""
    languages = lexicon.LANGUAGES
    chosen = dict(zip(languages, templates if len(templates) > 1 else templates * len(languages), strict=True))
    return Pattern(chosen, {field: [values] for field, values in choices.items()})


SHORT_ANSWERS = [
    _answer("{thing}.", thing=SMALL_THINGS),
    _answer("{time}.", time=_TIMES),
    _answer("{place}.", place=lexicon.PLACES),
    _answer("{things}.", things=_COUNTED),
    _answer("{person}.", person=_PERSONS),
    _answer("{place} {time}.", "{time} {place}.", *["{place} {time}."] * 3, place=lexicon.PLACES, time=lexicon.DAYS),
]
"""Patterns without a verb."""
