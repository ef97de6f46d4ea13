"""Short English sentences with exact translations into German, French, Spanish and Italian.

An English sentence has one translation in each language, and no two of its words sound alike.
"""

import random
import re
from collections.abc import Iterator

from speechllm.data.synthesis.sentence_patterns import PATTERNS, Sentence
from speechllm.data.synthesis.short_answers import SHORT_ANSWERS
from speechllm.errors import UserError

SHORT_SHARE = 0.3
"""Share of the training utterances that are short answers."""


def sentences(seed: int) -> Iterator[Sentence]:
    """Yield distinct random sentences, each pattern equally often; the order depends on the seed alone.

    The stream ends when 10,000 draws in a row bring nothing new.
    """
    generator = random.Random(seed)
    seen: set[str] = set()
    misses = 0
    while misses < 10_000:
        sentence = generator.choice(PATTERNS).draw(generator)
        misses = misses + 1 if sentence["en"] in seen else 0
        if not misses:
            seen.add(sentence["en"])
            yield sentence


def split_sentences(
    n_train: int, n_dev: int, n_test: int, seed: int
) -> tuple[list[Sentence], list[Sentence], list[Sentence]]:
    """Return training, development and test sentences that share no sentence.

    Three in ten of the training sentences are short answers, which repeat: there are few of them, and a model that
    begins from nothing learns words from phrases before it learns where they stand in a sentence. All other sentences
    are distinct. Every word of the development and test sentences occurs in the training sentences, in each language.

    Args:
        n_train: Number of training sentences.
        n_dev: Number of development sentences.
        n_test: Number of test sentences.
        seed: Seed of the choice.

    Raises:
        UserError: If the grammar has no such split: the training sentences have too few words to build the others
            from, or too many sentences were asked for.
    """
    stream = sentences(seed)
    n_short = round(SHORT_SHARE * n_train)
    train = [sentence for _, sentence in zip(range(n_train - n_short), stream, strict=False)]
    generator = random.Random(seed)
    train += [generator.choice(SHORT_ANSWERS).draw(generator) for _ in range(n_short)]
    generator.shuffle(train)
    known = {word for sentence in train for word in _words(sentence)}
    held_out: list[Sentence] = []
    passed = 0
    for sentence in stream:
        if len(held_out) == n_dev + n_test or passed == 50_000:
            break
        is_known = _words(sentence) <= known
        passed = 0 if is_known else passed + 1
        if is_known:
            held_out.append(sentence)
    if len(train) < n_train or len(held_out) < n_dev + n_test:
        msg = (
            f"The grammar has no split into {n_train} training, {n_dev} development and {n_test} test sentences whose "
            f"words all occur in training: found {len(train)} and {len(held_out)}. "
            "Ask for more training sentences, or for fewer of the others."
        )
        raise UserError(msg)
    return train, held_out[:n_dev], held_out[n_dev:]


def words(text: str) -> list[str]:
    """Return the words of a sentence in lower case, without punctuation."""
    return re.findall(r"[\w'-]+", text.lower())


def _words(sentence: Sentence) -> set[tuple[str, str]]:
    return {(language, word) for language, text in sentence.items() for word in words(text)}
