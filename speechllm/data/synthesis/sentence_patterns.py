"""The sentence patterns of the synthetic corpus: templates in five languages and what their fields are chosen from."""

import random
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, product
from typing import Any

from speechllm.data.synthesis import inflection, lexicon
from speechllm.data.synthesis.lexicon import LANGUAGES, Forms, Phrase, Subject, Verb

Sentence = dict[str, str]
"""One sentence in each of :data:`~speechllm.data.synthesis.lexicon.LANGUAGES`, by language code."""

Action = tuple[Verb, Phrase]
"""A verb and its direct object."""


@dataclass(frozen=True)
class Pattern:
    """A sentence pattern.

    Attributes:
        templates: One template a language. A field is a phrase of ``choices``, or is derived from one: from a
            ``subject`` also ``be``, ``have`` and ``do``; from an ``action`` the ``verb`` in the present, ``past``,
            ``infinitive``, ``particle`` and ``object``; from a ``recipient`` also the Spanish pronoun ``le``; from
            ``described`` a ``thing`` and its ``quality``.
        choices: What each field is chosen from, in groups: a group is drawn, then one of its members, so that a verb
            with few objects is as frequent as one with many.
    """

    templates: Phrase
    choices: Mapping[str, Sequence[Sequence[Any]]]

    def every(self) -> Iterator[Sentence]:
        """Yield the sentence of every sensible combination."""
        for values in product(*(chain.from_iterable(groups) for groups in self.choices.values())):
            chosen = dict(zip(self.choices, values, strict=True))
            if _is_sensible(chosen):
                yield self._sentence(chosen)

    def draw(self, generator: random.Random) -> Sentence:
        """Return the sentence of one random combination."""
        while True:
            chosen = {field: generator.choice(generator.choice(groups)) for field, groups in self.choices.items()}
            if _is_sensible(chosen):
                return self._sentence(chosen)

    def _sentence(self, chosen: Mapping[str, Any]) -> Sentence:
        fields = _fields(chosen)
        return {
            language: _finish(template.format(**{name: phrase[language] for name, phrase in fields.items()}), language)
            for language, template in self.templates.items()
        }


def _is_sensible(chosen: Mapping[str, Any]) -> bool:
    """Return whether nobody acts on or gives to themselves."""
    if "subject" not in chosen:
        return True
    others = [chosen["action"][1]] if "action" in chosen else []
    others += [chosen["recipient"].nominative] if "recipient" in chosen else []
    return all(other["en"] != chosen["subject"].nominative["en"] for other in others)


def _fields(chosen: Mapping[str, Any]) -> dict[str, Phrase]:
    """Return the phrases that a template may name."""
    subject: Subject | None = chosen.get("subject")
    fields: dict[str, Phrase] = {}
    for name, value in chosen.items():
        if isinstance(value, Subject) and name == "recipient":
            le = dict.fromkeys(LANGUAGES, "les" if value.person == 3 else "le")
            fields |= {"recipient": value.indirect, "le": le}
        elif isinstance(value, Subject):
            do = dict.fromkeys(LANGUAGES, "does" if value.person == 1 else "do")
            be, have = (inflection.finite(forms, value.person) for forms in (lexicon.BE, lexicon.HAVE))
            fields |= {"subject": value.nominative, "do": do, "be": be, "have": have}
        elif isinstance(value, Forms) and subject:
            fields[name] = inflection.finite(value, subject.person)
        elif name == "action" and subject:
            fields |= _action_fields(value, subject.person)
        elif name == "described":
            fields |= {"thing": value[0], "quality": value[1]}
        else:
            fields[name] = value
    return fields


def _action_fields(action: Action, person: int) -> dict[str, Phrase]:
    verb, what = action
    return {
        "verb": inflection.present(verb, person),
        "past": inflection.past(verb, person),
        "infinitive": inflection.infinitive(verb),
        "particle": inflection.particle(verb),
        "object": what,
    }


def _finish(text: str, language: str) -> str:
    """Drop the spaces of empty fields, elide French vowels and begin with a capital."""
    text = re.sub(r" (?=[.?])", "", " ".join(text.split()))
    if language == "fr":
        text = re.sub(r"\b(j|n|qu)e (?=[aeioué])", r"\1'", text).replace("?", " ?")
    first = 1 if text[0] == "¿" else 0
    return text[:first] + text[first].upper() + text[first + 1 :]


_HUGE = ("car", "boat", "house", "horse")  # nobody repairs a boat in the kitchen
_UNPLANNED = ("lose", "forget")  # nobody will or wants to
_MOVED = ("invite",)  # a place would turn into a direction


def _actions(verb: Verb, names: Sequence[str]) -> list[Action]:
    if verb.objects == ("persons",):
        return [(verb, person) for person in inflection.person_objects(verb.german_dative)]
    return [(verb, phrase) for name in names for phrase in inflection.object_phrases(name)]


_SUBJECTS = lexicon.SUBJECTS
_MODALS = (lexicon.CAN, lexicon.MUST, lexicon.WANT)
_OTHERS = [subject for subject in _SUBJECTS if subject.person != 0]
_PAST_ACTIONS = [_actions(verb, verb.objects) for verb in lexicon.VERBS]
_ACTIONS = [_actions(verb, verb.objects) for verb in lexicon.VERBS if verb.forms.en[0] not in _UNPLANNED]
_DEFINITE_ACTIONS = [
    [action for action in group if not action[1]["en"].startswith(("a ", "an "))] for group in _ACTIONS
]
_PLACED_ACTIONS = [
    _actions(verb, [name for name in verb.objects if name not in _HUGE])
    for verb in lexicon.VERBS
    if verb.forms.en[0] not in (*_MOVED, *_UNPLANNED)
]
_COUNTED = [inflection.counted(number, name) for number in lexicon.NUMBERS for name in lexicon.PLURALS]
_COUNTED_ACTIONS = [
    [(verb, what) for what in _COUNTED] for verb in lexicon.VERBS if verb.forms.en[0] in ("buy", "sell", "find")
]
_GIFTS = [_actions(verb, verb.objects) for verb in lexicon.GIVING]
_COUNTABLE = [name for name in lexicon.THINGS if name not in lexicon.UNCOUNTABLE]
_SMALL = ("bag", "key", "book", "letter", "ticket", "hat", "coat", "umbrella", "cup", "bottle")
SMALL_THINGS = [
    inflection.thing_phrase(name, adjective, nominative=True)
    for name in _SMALL
    for adjective in inflection.adjectives(name)
    if adjective
]
_QUALITIES = [
    (inflection.thing_phrase(name, adjective, nominative=True), inflection.quality_phrase(quality, name))
    for name in _COUNTABLE
    for adjective in inflection.adjectives(name)
    for quality in lexicon.QUALITIES
]
_DAYS = lexicon.PRESENT_TIMES[:2] + lexicon.DAYS


def _pattern(english: str, german: str, *romance: str, **choices: Sequence[Any]) -> Pattern:
    """Return a pattern; one template serves French, Spanish and Italian where they agree."""
    french, spanish, italian = romance if len(romance) == 3 else romance * 3
    groups = {field: values if field == "action" else [values] for field, values in choices.items()}
    return Pattern({"en": english, "de": german, "fr": french, "es": spanish, "it": italian}, groups)


_PAST = (
    "{subject} {past} {object} {time}.",
    "{subject} {have} {time} {object} {past}.",
    "{subject} {have} {past} {object} {time}.",
    "{subject} {past} {object} {time}.",
    "{subject} {have} {past} {object} {time}.",
)
PATTERNS = [
    _pattern(
        "{subject} {verb} {object} {time}.",
        "{subject} {verb} {time} {object} {particle}.",
        "{subject} {verb} {object} {time}.",
        subject=_SUBJECTS,
        action=_ACTIONS,
        time=lexicon.PRESENT_TIMES,
    ),
    _pattern(
        "{subject} {verb} {object} {place}.",
        "{subject} {verb} {object} {place} {particle}.",
        "{subject} {verb} {object} {place}.",
        subject=_SUBJECTS,
        action=_PLACED_ACTIONS,
        place=lexicon.PLACES,
    ),
    _pattern(
        *_PAST,
        subject=_SUBJECTS,
        action=_PAST_ACTIONS,
        time=lexicon.PAST_TIMES,
    ),
    _pattern(
        "{time} {subject} {past} {object}.",
        "{time} {have} {subject} {object} {past}.",
        "{time} {subject} {have} {past} {object}.",
        "{time} {subject} {past} {object}.",
        "{time} {subject} {have} {past} {object}.",
        subject=_SUBJECTS,
        action=_PAST_ACTIONS,
        time=lexicon.PAST_TIMES,
    ),
    _pattern(
        "{subject} {modal} {infinitive} {object} {time}.",
        "{subject} {modal} {time} {object} {infinitive}.",
        "{subject} {modal} {infinitive} {object} {time}.",
        subject=_SUBJECTS,
        modal=_MODALS,
        action=_ACTIONS,
        time=lexicon.PRESENT_TIMES,
    ),
    _pattern(
        "{time} {subject} {modal} {infinitive} {object}.",
        "{time} {modal} {subject} {object} {infinitive}.",
        "{time} {subject} {modal} {infinitive} {object}.",
        subject=_SUBJECTS,
        modal=_MODALS,
        action=_ACTIONS,
        time=lexicon.PRESENT_TIMES,
    ),
    _pattern(
        "{subject} cannot {infinitive} {object} {time}.",
        "{subject} {modal} {object} {time} nicht {infinitive}.",
        "{subject} ne {modal} pas {infinitive} {object} {time}.",
        "{subject} no {modal} {infinitive} {object} {time}.",
        "{subject} non {modal} {infinitive} {object} {time}.",
        subject=_SUBJECTS,
        modal=[lexicon.CAN],
        action=_DEFINITE_ACTIONS,
        time=lexicon.PRESENT_TIMES,
    ),
    _pattern(
        "{subject} {do} not {infinitive} {object} {time}.",
        "{subject} {verb} {object} {time} nicht {particle}.",
        "{subject} ne {verb} pas {object} {time}.",
        "{subject} no {verb} {object} {time}.",
        "{subject} non {verb} {object} {time}.",
        subject=_SUBJECTS,
        action=_DEFINITE_ACTIONS,
        time=lexicon.PRESENT_TIMES,
    ),
    _pattern(
        "{do} {subject} {infinitive} {object} {time}?",
        "{verb} {subject} {time} {object} {particle}?",
        "est-ce que {subject} {verb} {object} {time}?",
        "¿{verb} {subject} {object} {time}?",
        "{subject} {verb} {object} {time}?",
        subject=_OTHERS,
        action=_ACTIONS,
        time=lexicon.PRESENT_TIMES,
    ),
    _pattern(
        "{modal} {subject} {infinitive} {object} {time}?",
        "{modal} {subject} {time} {object} {infinitive}?",
        "est-ce que {subject} {modal} {infinitive} {object} {time}?",
        "¿{modal} {subject} {infinitive} {object} {time}?",
        "{subject} {modal} {infinitive} {object} {time}?",
        subject=_SUBJECTS,
        modal=[lexicon.CAN, lexicon.MUST],
        action=_ACTIONS,
        time=lexicon.PRESENT_TIMES,
    ),
    _pattern(
        "why {do} {subject} {infinitive} {object}?",
        "warum {verb} {subject} {object} {particle}?",
        "pourquoi est-ce que {subject} {verb} {object}?",
        "¿por qué {verb} {subject} {object}?",
        "perché {subject} {verb} {object}?",
        subject=_OTHERS,
        action=_ACTIONS,
    ),
    _pattern(
        "{subject} {have} {things}.",
        "{subject} {have} {things}.",
        "{subject} {have} {things}.",
        subject=_SUBJECTS,
        things=_COUNTED,
    ),
    _pattern(
        *_PAST,
        subject=_SUBJECTS,
        action=_COUNTED_ACTIONS,
        time=lexicon.PAST_TIMES,
    ),
    _pattern(
        "{thing} is {spot}.",
        "{thing} ist {spot}.",
        "{thing} est {spot}.",
        "{thing} está {spot}.",
        "{thing} è {spot}.",
        thing=SMALL_THINGS,
        spot=lexicon.SPOTS,
    ),
    _pattern(
        "is {thing} {spot}?",
        "ist {thing} {spot}?",
        "est-ce que {thing} est {spot}?",
        "¿está {thing} {spot}?",
        "{thing} è {spot}?",
        thing=SMALL_THINGS,
        spot=lexicon.SPOTS,
    ),
    _pattern(
        "where is {thing}?",
        "wo ist {thing}?",
        "où est {thing}?",
        "¿dónde está {thing}?",
        "dov'è {thing}?",
        thing=SMALL_THINGS,
    ),
    _pattern(
        "{subject} {be} {place} {time}.",
        "{subject} {be} {time} {place}.",
        "{subject} {be} {place} {time}.",
        subject=_SUBJECTS,
        place=lexicon.PLACES,
        time=lexicon.PRESENT_TIMES,
    ),
    _pattern(
        "{subject} {be} not {place} {time}.",
        "{subject} {be} {time} nicht {place}.",
        "{subject} ne {be} pas {place} {time}.",
        "{subject} no {be} {place} {time}.",
        "{subject} non {be} {place} {time}.",
        subject=_SUBJECTS,
        place=lexicon.PLACES,
        time=lexicon.PRESENT_TIMES,
    ),
    _pattern(
        "{thing} is very {quality}.",
        "{thing} ist sehr {quality}.",
        "{thing} est très {quality}.",
        "{thing} es muy {quality}.",
        "{thing} è molto {quality}.",
        described=_QUALITIES,
    ),
    _pattern(
        "{thing} is not {quality}.",
        "{thing} ist nicht {quality}.",
        "{thing} n'est pas {quality}.",
        "{thing} no es {quality}.",
        "{thing} non è {quality}.",
        described=_QUALITIES,
    ),
    _pattern(
        "{subject} {verb} in {city} {clock}.",
        "{subject} {verb} {clock} in {city} {particle}.",
        "{subject} {verb} à {city} {clock}.",
        "{subject} {verb} a {city} {clock}.",
        "{subject} {verb} a {city} {clock}.",
        subject=[*_SUBJECTS, *lexicon.VEHICLES],
        action=[[(lexicon.ARRIVE, dict.fromkeys(LANGUAGES, ""))]],
        city=lexicon.CITIES,
        clock=inflection.clock_phrases(),
    ),
    _pattern(
        "{vehicle} to {city} leaves {clock}.",
        "{vehicle} nach {city} fährt {clock} ab.",
        "{vehicle} pour {city} part {clock}.",
        "{vehicle} para {city} sale {clock}.",
        "{vehicle} per {city} parte {clock}.",
        vehicle=[vehicle.nominative for vehicle in lexicon.VEHICLES],
        city=lexicon.CITIES,
        clock=inflection.clock_phrases(),
    ),
    _pattern(
        "when does {vehicle} to {city} leave {day}?",
        "wann fährt {vehicle} nach {city} {day} ab?",
        "quand est-ce que {vehicle} pour {city} part {day}?",
        "¿cuándo sale {vehicle} para {city} {day}?",
        "quando parte {vehicle} per {city} {day}?",
        vehicle=[vehicle.nominative for vehicle in lexicon.VEHICLES],
        city=lexicon.CITIES,
        day=_DAYS,
    ),
    _pattern(
        "{subject} {verb} {recipient} {object}.",
        "{subject} {verb} {recipient} {object} {particle}.",
        "{subject} {verb} {object} {recipient}.",
        "{subject} {le} {verb} {object} {recipient}.",
        "{subject} {verb} {object} {recipient}.",
        subject=_SUBJECTS,
        recipient=lexicon.PERSONS,
        action=_GIFTS,
    ),
    _pattern(
        "{subject} {past} {recipient} {object} {time}.",
        "{subject} {have} {recipient} {time} {object} {past}.",
        "{subject} {have} {past} {object} {recipient} {time}.",
        "{subject} {le} {past} {object} {recipient} {time}.",
        "{subject} {have} {past} {object} {recipient} {time}.",
        subject=_SUBJECTS,
        recipient=lexicon.PERSONS,
        action=_GIFTS,
        time=lexicon.PAST_TIMES[:2],
    ),
]
"""Every sentence pattern."""
