"""Phrases of the synthetic corpus: the lexicon's words put into the form that a place in a sentence asks for."""

import re

from speechllm.data.synthesis.lexicon import (
    BARE,
    BE,
    COLORS,
    HALF_PAST_GERMAN,
    LANGUAGES,
    NUMBERS,
    PERSONS,
    PLAIN,
    SIZES,
    SPANISH_EVENING,
    THINGS,
    UNCOUNTABLE,
    Forms,
    Phrase,
    Verb,
)

ROMANCE = ("fr", "es", "it")


def thing_phrase(name: str, adjective: Forms | None = None, definite: bool = True, nominative: bool = False) -> Phrase:
    """Return "the red key" or "a red key".

    Covers what the lexicon has: no Italian masculine that takes "lo", no Italian or Spanish feminine whose article
    changes, no adjective that begins with a vowel.

    Args:
        name: English name of one of :data:`~speechllm.data.synthesis.lexicon.THINGS`.
        adjective: One of the colours or sizes.
        definite: Whether the article is the definite one.
        nominative: Whether the German is in the nominative (definite only) rather than in the accusative.
    """
    phrase = {
        "en": f"{'the' if definite else 'a'} {adjective.en[0] if adjective else ''} {name}",
        "de": _german(THINGS[name].de, adjective, definite, nominative),
        **{language: _romance(language, name, adjective, definite) for language in ROMANCE},
    }
    phrase = {language: " ".join(text.split()) for language, text in phrase.items()}
    phrase["en"] = re.sub(r"^a (?=[aeiou])", "an ", phrase["en"])
    phrase["fr"] = re.sub(r"^l[ea] (?=œ)", "l'", phrase["fr"])
    phrase["it"] = re.sub(r"^il (?=[ou])", "l'", phrase["it"])
    return phrase


def _german(forms: list[str], adjective: Forms | None, definite: bool, nominative: bool) -> str:
    gender, noun = forms[:2]
    masculine_accusative = gender == "m" and not nominative
    if definite:
        article = {"m": "den" if masculine_accusative else "der", "f": "die", "n": "das"}[gender]
    else:
        article = {"m": "einen", "f": "eine", "n": "ein"}[gender]
    ending = "en" if masculine_accusative else "es" if gender == "n" and not definite else "e"
    return f"{article} {adjective.de[0]}{ending} {noun}" if adjective else f"{article} {noun}"


def _romance(language: str, name: str, adjective: Forms | None, definite: bool) -> str:
    gender, noun = getattr(THINGS[name], language)[:2]
    definite_articles = {"fr": ("le", "la"), "es": ("el", "la"), "it": ("il", "la")}
    indefinite_articles = {"fr": ("un", "une"), "es": ("un", "una"), "it": ("un", "una")}
    article = (definite_articles if definite else indefinite_articles)[language][gender == "f"]
    described = getattr(adjective, language)[gender == "f"] if adjective else ""
    before = language == "fr" and adjective in SIZES
    return f"{article} {described} {noun}" if before else f"{article} {noun} {described}"


def object_phrases(name: str) -> list[Phrase]:
    """Return a thing as a direct object: with each adjective that suits it and none, with either article."""
    if name in UNCOUNTABLE:
        return [thing_phrase(name)]
    return [thing_phrase(name, adjective, definite) for adjective in adjectives(name) for definite in (True, False)]


def adjectives(name: str) -> list[Forms | None]:
    """Return the adjectives that suit a countable thing, and None."""
    return [None] if name in BARE else [None, *SIZES, *(() if name in PLAIN else COLORS)]


def counted(number: Phrase, name: str) -> Phrase:
    """Return "seven keys"."""
    return {language: f"{number[language]} {getattr(THINGS[name], language)[-1]}" for language in LANGUAGES}


def quality_phrase(quality: Forms, name: str) -> Phrase:
    """Return a predicate that agrees with a thing, as in "is expensive"."""
    agreeing = {la: getattr(quality, la)[getattr(THINGS[name], la)[0] == "f"] for la in ROMANCE}
    return {"en": quality.en[0], "de": quality.de[0], **agreeing}


def person_objects(german_dative: bool) -> list[Phrase]:
    """Return everyone as a direct object, in German in the dative where the verb asks for it."""
    return [{**who.direct, "de": who.indirect["de"]} if german_dative else who.direct for who in PERSONS]


def finite(forms: Forms, person: int) -> Phrase:
    """Return the present-tense form of a modal or auxiliary for a person (see :class:`~lexicon.Subject`)."""
    english = "am" if forms is BE and person == 0 else forms.en[person == 1]
    romance = {language: getattr(forms, language)[person] for language in ROMANCE}
    return {"en": english, "de": forms.de[min(person, 2)], **romance}


def present(verb: Verb, person: int) -> Phrase:
    """Return a verb's present-tense form for a person; the German one without its particle."""
    romance = {language: getattr(verb.forms, language)[1 + person] for language in ROMANCE}
    return {"en": verb.forms.en[person == 1], "de": verb.forms.de[1 + min(person, 2)], **romance}


def past(verb: Verb, person: int) -> Phrase:
    """Return a verb's past: in German, French and Italian only the participle, in Spanish the preterite."""
    en, de, fr, es, it = verb.forms
    return {"en": en[2], "de": de[4], "fr": fr[5], "es": es[5 + person], "it": it[5]}


def infinitive(verb: Verb) -> Phrase:
    """Return a verb's infinitive."""
    return {language: getattr(verb.forms, language)[0] for language in LANGUAGES}


def particle(verb: Verb) -> Phrase:
    """Return the particle that a separable German verb leaves at the end of the sentence; empty elsewhere."""
    return {**dict.fromkeys(LANGUAGES, ""), "de": "".join(verb.forms.de[5:])}


def clock_phrases() -> list[Phrase]:
    """Return times of day: "at seven", "at seven in the morning", "at seven in the evening", "at half past seven"."""
    phrases = []
    for number in NUMBERS:
        hour = number["en"]
        if hour not in HALF_PAST_GERMAN:
            continue
        at = {
            "en": f"at {hour}",
            "de": f"um {number['de']} Uhr",
            "fr": f"à {number['fr']} heures",
            "es": f"a las {number['es']}",
            "it": f"alle {number['it']}",
        }
        half = {"en": f"at half past {hour}", "de": f"um halb {HALF_PAST_GERMAN[hour]}"}
        endings = {"fr": "et demie", "es": "y media", "it": "e mezza"}
        phrases += [at, {**half, **{language: f"{at[language]} {end}" for language, end in endings.items()}}]
        morning = {"en": "in the morning", "de": "morgens", "fr": "du matin", "es": "de la mañana", "it": "del mattino"}
        phrases.append({language: f"{at[language]} {morning[language]}" for language in LANGUAGES})
        if hour in SPANISH_EVENING:
            evening = {"en": "in the evening", "de": "abends", "fr": "du soir", "it": "di sera"}
            evening["es"] = SPANISH_EVENING[hour]
            phrases.append({language: f"{at[language]} {evening[language]}" for language in LANGUAGES})
    return phrases
