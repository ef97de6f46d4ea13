"""What is wrong with answers, by hand-worked utterances."""

import math
import random

import pytest

from speechllm.metrics.base import Sample
from speechllm.metrics.health import Health, is_copy, loops, units_of


def figures(language, *samples):
    return Health(language).score(list(samples))


def test_worked_by_hand():
    """Five utterances, four of them spoken: one empty, one loop, one cut off; 7 units of 10; one invention of one."""
    found = figures(
        "en",
        Sample("a b c d", "a b c d", hit_limit=True),
        Sample("", "one two three"),
        Sample("no, no, no. No no", "no"),
        Sample("x", "ab cd"),
        Sample("Thank you!", ""),
    )
    assert found == pytest.approx(
        {
            "empty_rate": 25,
            "repetition_loop_rate": 20,
            "hit_limit_rate": 20,
            "length_ratio": 1.0,
            "copy_rate": math.nan,
            "hallucination_rate_on_silence": 100,
        },
        nan_ok=True,
    )


def test_lengths_are_summed_where_there_is_a_reference():
    assert figures("en", Sample("a b c", "a"), Sample("a", "a b c"), Sample("x x", ""))["length_ratio"] == 1
    assert figures("en", Sample("a b, c", "a"))["length_ratio"] == 3
    assert figures("ja", Sample("今日 は", "今日は。晴れ"))["length_ratio"] == pytest.approx(3 / 5)


def test_an_empty_answer_to_silence_is_right():
    found = figures("en", Sample(" ", ""), Sample("a", "a"))
    assert (found["empty_rate"], found["hallucination_rate_on_silence"]) == (0, 0)
    found = figures("en", Sample("\u3000", ""))
    assert math.isnan(found["empty_rate"])
    assert found["hallucination_rate_on_silence"] == 0


def test_a_translation_without_a_reference_is_not_silence_where_something_was_said():
    found = figures("de", Sample("", "", source="the dog"), Sample("oh", "", source=" "))
    assert (found["empty_rate"], found["hallucination_rate_on_silence"]) == (100, 100)
    assert math.isnan(found["length_ratio"])


@pytest.mark.parametrize(
    ("hypothesis", "reference", "expected"),
    [
        ("so no no no no no", "so no", True),
        ("so no no no no", "so no", False),  # four times
        ("no no no no no so no", "so no", True),  # anywhere
        ("thank you thank you thank you thank you thank you", "thank you", True),
        ("thank you thank you thank you thank you thank", "thank you", False),
        ("No, no, no, no, no.", "no no no no no", False),  # as in the reference
        ("no no no no no no no", "No, no, no, no, no!", False),
        ("no no no no no", "no no no no", True),
        ("no no no no no ha ha ha ha ha", "no no no no no", True),  # another loop
        (" ".join(["1 2 3 4 5 6 7 8 9 10"] * 5), "", True),
        (" ".join(["1 2 3 4 5 6 7 8 9 10 11"] * 5), "", False),  # a passage of eleven units
        ("! ! ! ! ! ok", "ok", True),
        ("hahahahahahahahaha", "ha", False),  # one word
        ("", "", False),
    ],
)
def test_loops_of_words(hypothesis, reference, expected):
    assert loops(units_of(hypothesis, False), units_of(reference, False)) is expected


@pytest.mark.parametrize(
    ("hypothesis", "reference", "expected"),
    [
        ("はははははは", "は", True),
        ("はは はは", "は", False),
        ("ありがとう。ありがとう。ありがとう。ありがとう。ありがとう。", "ありがとう", True),
        ("どんどんどんどんどん", "どんどんどんどんどん。", False),
        ("。。。。。。", "", True),
    ],
)
def test_loops_of_characters(hypothesis, reference, expected):
    assert loops(units_of(hypothesis, True), units_of(reference, True)) is expected


def test_a_loop_is_found_wherever_it_stands():
    """Against counting by hand, over random texts of three words."""

    def slowly(units):
        return any(
            units[start : start + size] * 5 == units[start : start + 5 * size]
            for size in range(1, 11)
            for start in range(len(units) - 5 * size + 1)
        )

    rng = random.Random(5)
    texts = [rng.choices("abc", k=rng.randint(0, 40)) for _ in range(1500)]
    texts += [["x", *rng.choices("abc", k=rng.randint(1, 11)) * rng.randint(3, 6), "y"] for _ in range(500)]
    expected = [slowly(units) for units in texts]
    assert [loops(units, []) for units in texts] == expected
    assert [loops("".join(units), "") for units in texts] == expected
    assert 300 < sum(expected) < 1700


@pytest.mark.parametrize(
    ("hypothesis", "reference", "expected"),
    [
        ("The dog barks.", "Der Hund bellt.", True),
        ("the dog barked", "Der Hund bellt.", True),  # 2 edits on 12 characters: 0.83
        ("the dogs howl", "Der Hund bellt.", False),
        ("Der Hund bellt.", "Der Hund bellt.", False),
        ("The dog barks!", "the dog barks", False),  # a name, for instance, that is the same in both languages
        ("", "Der Hund bellt.", False),
    ],
)
def test_copies(hypothesis, reference, expected):
    sample = Sample(hypothesis, reference, source="The dog barks.")
    assert is_copy(sample) is expected
    assert figures("de", sample, Sample("a", "b"))["copy_rate"] == 100 * expected


def test_signature():
    assert Health("en").signature().startswith("health|units:words|loop:10x5|copy:0.8|rapidfuzz:")
    assert "|units:characters|" in Health("th").signature()
