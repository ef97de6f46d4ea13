"""Cleaners of transcripts: what each takes out, and above all what each leaves."""

import pytest

from speechllm.data.reading.text import CLEANERS, UNSPOKEN, annotations, check_cleaners, clean
from speechllm.errors import UserError

CASES = {
    "quotes": [
        ('"He said ""no""."', 'He said "no".'),
        ('"No", he said, "no"', '"No", he said, "no"'),
    ],
    "japanese": [("ＮＨＫの、ｱｻ「ドラ」♪", "NHKのアサドラ"), ("3.5％　です。", "3.5% です")],
    "mlc_slm": [("It's 3.5, well-known!", "it's 35 well-known"), ("¿Qué? 你好。", "qué 你好")],
    "lowercase": [("I'D BETTER GO", "i'd better go"), ("ÄÖ", "äö")],
    "annotations": [
        ("Thank you. (Laughter)", "Thank you."),
        ("(Applause) (Music) Hello.", "Hello."),
        ("Hello (Laughter) (Applause).", "Hello."),
        ("So (Laughter), yes.", "So, yes."),
        ("(Audience: Yes.) So.", "So."),
        ("(In Spanish) Hola.", "Hola."),
        ("(♫ La la ♫)", ""),
        ("(Laughter).", ""),
        ("Wait [Applause] now", "Wait now"),
        ("He (laughs) and [INAUDIBLE] (unclear) goes.", "He and goes."),
        ("An aside (like this one) stays.", "An aside (like this one) stays."),
        ("As (I think) does this.", "As (I think) does this."),
        ("He said [that] so.", "He said [that] so."),
        ("Two  spaces\u2028stay.", "Two  spaces\u2028stay."),
        ("It is never (Closed", "It is never (Closed"),
    ],
    "music": [
        ("♫ La la ♫", "La la"),
        ("♪♫ 🎵", ""),
        ("Do-re-mi  #1", "Do-re-mi  #1"),
    ],
    "entities": [
        ("R&amp;D, &quot;so&quot; &#39;n&#x27; &lt;3", "R&D, \"so\" 'n' <3"),
        ("AT&T; &copy b &unknown;", "AT&T; &copy b &unknown;"),
    ],
    "speaker_prefixes": [
        ("Bruno Giussani: Thank you.", "Thank you."),
        ("J.J. Abrams: Yes.", "Yes."),
        ("Dr. Zoë O’Brien-Björk: Yes.", "Yes."),
        ("Ludwig van Beethoven: Musik.", "Musik."),
        ("-- Chris Anderson: So.", "So."),
        ("Chris Anderson:", ""),
        ("CA: Yes. BG: No.", "Yes. No."),
        ("Man 1: Hi. Woman: Hi.", "Hi. Hi."),
        ("Male voice: Hello.", "Hello."),
        ("Audience member: What?", "What?"),
        ("At 10:30 we go.", "At 10:30 we go."),
        ("Remember: do it.", "Remember: do it."),
        ("Question: what is it?", "Question: what is it?"),
        ("The United Nations: a history.", "The United Nations: a history."),
        ("So I said: Go.", "So I said: Go."),
        ("Thanks. Then he said: Go.", "Thanks. Then he said: Go."),
        ("AI: the future. It is so. TV: the past.", "AI: the future. It is so. TV: the past."),
        ("Genesis 1: In the beginning.", "Genesis 1: In the beginning."),
        ("  No prefix  ", "  No prefix  "),
    ],
    "dashes": [
        ("-- and so on -- or not", "and so on -- or not"),
        ("— And", "And"),
        ("- Hi.", "Hi."),
        ("-- -- So", "So"),
        ("--", ""),
        ("-5 degrees", "-5 degrees"),
        ("well-known", "well-known"),
    ],
    "whitespace": [
        (" A line\u2028in two\rpieces.\t\u00a0", "A line in two pieces."),
        ("Fine.", "Fine."),
    ],
}


@pytest.mark.parametrize(("name", "text", "spoken"), [(name, *case) for name, cases in CASES.items() for case in cases])
def test_each_cleaner(name, text, spoken):
    assert clean(text, [name]) == spoken
    assert clean(spoken, [name]) == spoken


def test_every_cleaner_is_tested_and_explained():
    assert set(CASES) == set(CLEANERS)
    assert all(cleaner.__doc__ for cleaner in CLEANERS.values())


def test_the_order_of_names_does_not_matter():
    text = "(Laughter) Chris Anderson: (Applause) -- R&amp;D ♫ la ♫\u2028now"
    names = [*UNSPOKEN, "speaker_prefixes"]
    assert clean(text, names) == clean(text, names[::-1]) == "R&D la now"
    assert clean("&lt;&#9835;&gt;", ["music", "entities"]) == ""
    assert check_cleaners(["whitespace", "annotations", "whitespace"]) == ["annotations", "whitespace"]


def test_the_safe_ones_take_out_no_word_outside_of_brackets():
    assert set(CLEANERS) - set(UNSPOKEN) == {"speaker_prefixes", "quotes", "japanese", "mlc_slm", "lowercase"}
    text = "-- Bruno Giussani: ♫ well (so to say), 5 > 3 & &amp; (Applause) the   end"
    assert clean(text, UNSPOKEN) == "Bruno Giussani: well (so to say), 5 > 3 & & the end"


def test_no_cleaner_leaves_a_text_as_it_is():
    assert clean(" (Laughter)\r", []) == " (Laughter)\r"


def test_unknown_names_have_a_near_match():
    with pytest.raises(UserError, match=r"'anotations'\. Did you mean 'annotations'\? Known: quotes, entities"):
        clean("Hi.", ["anotations"])


def test_brackets_without_end_are_read_in_no_time():
    assert annotations("(A " * 20_000).count("(A") == 20_000
