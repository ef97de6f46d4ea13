"""The grammar: exact translations, one each; distinct sentences; splits that share words but no sentence."""

import itertools
import random
import re

import pytest

from speechllm.data.synthesis import grammar, inflection, lexicon
from speechllm.data.synthesis.lexicon import LANGUAGES
from speechllm.data.synthesis.sentence_patterns import PATTERNS
from speechllm.data.synthesis.short_answers import SHORT_ANSWERS
from speechllm.errors import UserError

ACCENTS = ("en-us", "en", "en-gb-x-rp", "en-gb-scotland", "en-us-nyc", "en-029")

# Worked by hand: gender, case, verb position, particles, plurals, agreement, elision, contractions.
GOLDEN = [
    "The girl gives my brother a red key. | Das Mädchen gibt meinem Bruder einen roten Schlüssel. | "
    "La fille donne une clé rouge à mon frère. | La chica le da una llave roja a mi hermano. | "
    "La ragazza dà una chiave rossa a mio fratello.",
    "My mother does not call the neighbor today. | Meine Mutter ruft den Nachbarn heute nicht an. | "
    "Ma mère n'appelle pas le voisin aujourd'hui. | Mi madre no llama al vecino hoy. | "
    "Mia madre non chiama il vicino oggi.",
    "Tomorrow I must help the children. | Morgen muss ich den Kindern helfen. | Demain je dois aider les enfants. | "
    "Mañana debo ayudar a los niños. | Domani devo aiutare i bambini.",
    "On Monday the student bought an umbrella. | Am Montag hat der Student einen Regenschirm gekauft. | "
    "Lundi l'étudiant a acheté un parapluie. | El lunes el estudiante compró un paraguas. | "
    "Lunedì lo studente ha comprato un ombrello.",
    "Can she repair the small window tomorrow? | Kann sie morgen das kleine Fenster reparieren? | "
    "Est-ce qu'elle peut réparer la petite fenêtre demain ? | ¿Puede ella reparar la ventana pequeña mañana? | "
    "Lei può riparare la finestra piccola domani?",
    "My parents have eleven eggs. | Meine Eltern haben elf Eier. | Mes parents ont onze œufs. | "
    "Mis padres tienen once huevos. | I miei genitori hanno undici uova.",
    "Where is the black umbrella? | Wo ist der schwarze Regenschirm? | Où est le parapluie noir ? | "
    "¿Dónde está el paraguas negro? | Dov'è l'ombrello nero?",
    "The white house is very expensive. | Das weiße Haus ist sehr teuer. | La maison blanche est très chère. | "
    "La casa blanca es muy cara. | La casa bianca è molto cara.",
    "The train arrives in Rome at half past seven. | Der Zug kommt um halb acht in Rom an. | "
    "Le train arrive à Rome à sept heures et demie. | El tren llega a Roma a las siete y media. | "
    "Il treno arriva a Roma alle sette e mezza.",
    "I am not at home this evening. | Ich bin heute Abend nicht zu Hause. | Je ne suis pas à la maison ce soir. | "
    "No estoy en casa esta noche. | Non sono a casa stasera.",
]


def draws(count, seed=0):
    generator = random.Random(seed)
    return [generator.choice(PATTERNS).draw(generator) for _ in range(count)]


@pytest.fixture(scope="module")
def sample():
    return list(itertools.islice(grammar.sentences(seed=1), 20_000))


def test_there_are_at_least_15000_distinct_sentences_in_every_language_pair(sample):
    assert len({sentence["en"] for sentence in sample}) == 20_000
    assert all(set(sentence) == set(LANGUAGES) for sentence in sample)


def test_an_english_sentence_has_one_translation():
    translations = {}
    for sentence in draws(30_000):
        assert translations.setdefault(sentence["en"], sentence) == sentence


@pytest.mark.parametrize("line", GOLDEN)
def test_translations_are_exact(line):
    wanted = dict(zip(LANGUAGES, line.split(" | "), strict=True))
    made = {sentence["en"]: sentence for pattern in PATTERNS for sentence in matching(pattern, wanted["en"])}
    assert made[wanted["en"]] == wanted


def matching(pattern, english):
    """Return the sentences of a pattern from those choices alone whose English occurs in ``english``."""
    narrowed = {
        field: [[option for group in groups for option in group if is_within(option, english)]]
        for field, groups in pattern.choices.items()
    }
    return type(pattern)(pattern.templates, narrowed).every()


def is_within(option, english):
    if isinstance(option, lexicon.Subject):
        return option.nominative["en"] in english or option.nominative["en"].capitalize() in english
    if isinstance(option, lexicon.Forms):
        return any(form in english.lower() for form in option.en)
    if isinstance(option, tuple):
        return all(is_within(part, english) for part in option if not isinstance(part, lexicon.Verb))
    return option["en"].lower() in english.lower()


def test_every_pattern_is_drawn_from():
    english = [sentence["en"] for sentence in draws(3000)]
    openings = ("Why ", "When ", "Where ", "Is the ", "Can ", "Must ", "Does ", "Yesterday ", "Tomorrow ")
    assert all(any(text.startswith(opening) for text in english) for opening in openings)


def test_sentences_are_short_and_simply_punctuated(sample):
    lengths = [len(sentence["en"].split()) for sentence in sample]
    assert min(lengths) >= 4
    assert max(lengths) <= 11
    for sentence in sample:
        assert re.fullmatch(r"[A-Z][A-Za-z ]+[.?]", sentence["en"])
        assert re.fullmatch(r"[A-ZÄÖÜ][A-Za-zÄÖÜäöüß ]+[.?]", sentence["de"])
        assert all("  " not in text for text in sentence.values())
        ends = {text[-1] for text in sentence.values()}
        assert len(ends) == 1


def test_the_vocabulary_is_small_and_german_nouns_are_capitalised(sample):
    vocabulary = {word for sentence in sample for word in grammar.words(sentence["en"])}
    assert 120 <= len(vocabulary) <= 200
    nouns = {forms.de[1] for forms in lexicon.THINGS.values()}
    for sentence in sample:
        assert not {word.capitalize() for word in sentence["de"].split()[1:] if word.islower()} & nouns


def test_nobody_acts_on_themselves(sample):
    for sentence in sample:
        for person in ("the doctor", "my sister", "the children", "my parents"):
            assert sentence["en"].lower().count(person) <= 1


def test_german_articles_and_endings_follow_gender_and_case():
    red = lexicon.COLORS[0]
    made = [
        inflection.thing_phrase(name, red, definite, nominative)["de"]
        for name in ("hat", "bag", "book")
        for definite, nominative in ((True, True), (True, False), (False, False))
    ]
    assert made == [
        "der rote Hut", "den roten Hut", "einen roten Hut",
        "die rote Tasche", "die rote Tasche", "eine rote Tasche",
        "das rote Buch", "das rote Buch", "ein rotes Buch",
    ]  # fmt: skip


def test_no_two_english_words_sound_alike(sample):
    pytest.importorskip("espeakng_loader", reason="the espeak-ng wheel (extra quickstart) is not installed")
    from speechllm.data.synthesis.espeak import synthesize

    vocabulary = sorted({word for sentence in sample for word in grammar.words(sentence["en"])})
    for accent in ACCENTS:
        spoken = {}
        for word in vocabulary:
            spoken.setdefault(synthesize(word, accent).tobytes(), []).append(word)
        assert [alike for alike in spoken.values() if len(alike) > 1] == []


def test_the_stream_depends_on_the_seed_alone():
    first, again, other = (list(itertools.islice(grammar.sentences(seed), 50)) for seed in (3, 3, 4))
    assert first == again
    assert first != other


class TestSplit:
    @pytest.mark.parametrize("sizes", [(40, 5, 15), (2000, 200, 300)])
    def test_sizes_are_met_and_no_sentence_is_shared(self, sizes):
        splits = grammar.split_sentences(*sizes, seed=0)
        assert tuple(len(split) for split in splits) == sizes
        train, *held_out = ([sentence["en"] for sentence in split] for split in splits)
        assert len({*held_out[0], *held_out[1]}) == sizes[1] + sizes[2]
        assert {*held_out[0], *held_out[1]}.isdisjoint(train)

    def test_three_in_ten_training_sentences_are_short_answers_and_only_those_repeat(self):
        """No short answer has a verb, and none is held out."""
        train, dev, test = grammar.split_sentences(2000, 50, 50, seed=1)
        short = {pattern_sentence["en"] for pattern in SHORT_ANSWERS for pattern_sentence in pattern.every()}
        answers = [sentence["en"] for sentence in train if sentence["en"] in short]
        others = [sentence["en"] for sentence in train if sentence["en"] not in short]
        assert len(answers) == 600
        assert len(set(others)) == len(others) == 1400
        assert short.isdisjoint(sentence["en"] for sentence in (*dev, *test))

    def test_every_held_out_word_occurs_in_training(self):
        train, dev, test = grammar.split_sentences(300, 30, 30, seed=5)
        for language in LANGUAGES:
            known = {word for sentence in train for word in grammar.words(sentence[language])}
            assert all(set(grammar.words(sentence[language])) <= known for sentence in (*dev, *test))

    def test_depends_on_the_seed_alone(self):
        assert grammar.split_sentences(50, 5, 5, seed=1) == grammar.split_sentences(50, 5, 5, seed=1)
        assert grammar.split_sentences(50, 5, 5, seed=1) != grammar.split_sentences(50, 5, 5, seed=2)

    def test_too_few_words_to_hold_out_is_an_error(self):
        with pytest.raises(UserError, match=r"no split into 1 training, 0 development and 5 test"):
            grammar.split_sentences(1, 0, 5, seed=0)
