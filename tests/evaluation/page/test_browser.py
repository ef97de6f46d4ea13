"""The page in a real browser: what it shows, filters, sums up, plays and keeps in its address."""

import contextlib

import pytest

from speechllm.evaluation.page.page import write_page
from speechllm.evaluation.systems import System
from tests.evaluation.page.browser import open_chromium
from tests.evaluation.page.systems import EVIL, make_systems
from tests.evaluation.predicted import predicted

SPECS = [{"name": "wer"}, {"name": "chrf"}]


@pytest.fixture(scope="module")
def chromium():
    with open_chromium() as browser:
        yield browser


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    folder = tmp_path_factory.mktemp("page with a #, a space and ü")
    return write_page(folder, make_systems(folder), SPECS, baseline="fair")


@pytest.fixture
def open_page(chromium, path):
    """Return a function that opens the page at a state; no page may say or ask for anything unexpected."""
    with opener(chromium, path) as function:
        yield function


@pytest.fixture(scope="module")
def lasting_page(chromium, path):
    with opener(chromium, path) as function:
        yield function()


@pytest.fixture
def shared(lasting_page):
    """The page with nothing chosen, without opening it anew."""
    lasting_page.get_by_role("button", name="Reset").click()
    lasting_page.wait_for_function("() => location.hash.length <= 1")
    return lasting_page


@contextlib.contextmanager
def opener(chromium, path):
    contexts, complaints = [], []

    def open_at(state="", file=path, **options):
        contexts.append(chromium.new_context(**options))
        window = contexts[-1].new_page()
        window.on("console", lambda message: complaints.append(message.text))
        window.on("pageerror", lambda error: complaints.append(str(error)))
        window.on("dialog", lambda dialog: complaints.append(dialog.message))
        window.on("request", lambda one: None if one.url.startswith("file:") else complaints.append(one.url))
        window.goto(f"{file.as_uri()}{state}")
        return window

    yield open_at
    for context in contexts:
        context.close()
    assert complaints == []


def ids(window):
    return window.locator("article h2").all_inner_texts()


def card(window, name):
    return window.locator("article").filter(has=window.get_by_role("heading", name=name, exact=True))


def summary(window):
    """Return the first figure of each system in the table of what is shown, and what it is made of."""
    rows = window.locator("#summary tbody tr").all()
    return {row.locator("th").inner_text(): row.locator("td").first.locator("*").all_inner_texts() for row in rows}


def marks(window, name, system, tag):
    return texts_of(window, name, system).locator(tag).all_inner_texts()


def texts_of(window, name, system):
    """Return the text of a system; those of reference and source have no system's number."""
    return card(window, name).locator(f".name:text-is('{system}') + .text")


def choose(window, **choices):
    for name, value in choices.items():
        control = window.locator(f"[name='{name}']")
        if control.evaluate("control => control.tagName") == "SELECT":
            control.select_option(label=value)
        else:
            control.fill(value)
            window.wait_for_timeout(200)  # the page waits for a pause in typing


def test_shows_every_row_with_its_facts_and_scores(shared):
    window = shared
    assert ids(window)[:5] == ["u0", "u1", "u2", "u3", "u4"]
    assert window.locator("#count").inner_text() == "6 of 6 rows"
    head = card(window, "u3").locator(".head").inner_text()
    assert "other test" in head
    assert "en → de" in head
    assert "translation (st)" in head
    assert texts_of(window, "u3", "source").inner_text() == "the dog barks"
    assert texts_of(window, "u3", "reference").inner_text() == "der Hund bellt laut"
    scores = card(window, "u0").locator(".score").all_inner_texts()
    assert scores == ["wer", "0.0 %", "0/4", "▲ 25.0", "25.0 %", "1/4", "", "50.0 %", "2/4", "▼ 25.0"]
    assert card(window, "u4").locator(".flag").all_inner_texts() == ["empty", "hit limit"]


def test_differences_stand_on_the_words_that_differ(shared):
    window = shared
    assert marks(window, "u0", "fair", "mark") == ["red"]
    assert texts_of(window, "u0", "fair").locator("mark").get_attribute("title") == "reference: brown"
    assert marks(window, "u0", "poor", "mark") == ["brown"]
    assert marks(window, "u0", "poor", "ins") == ["jumps"]
    assert marks(window, "u1", "poor", "del") == ["Büro"]
    assert texts_of(window, "u1", "poor").inner_text() == "Ärger im Büro"
    assert (marks(window, "u2", "fair", "mark"), marks(window, "u2", "poor", "del")) == (["雪"], ["東"])
    assert marks(window, "u2", "poor", "ins") == ["だ"]
    assert marks(window, "u1", "fair", "mark, ins, del") == []


def test_runs_of_every_text_make_up_the_text_and_its_reference(shared):
    window = shared
    unlike = window.evaluate(
        """() => page.rows.flatMap((row) => row.hypotheses.map((text, system) => {
            const runs = runsOf(row, system);
            const whole = [runs.map((run) => run.text).join(""), runs.map((run) => run.instead).join("")];
            const plain = (one) => one.replaceAll(" ", "");
            const same = plain(whole[0]) === plain(text) && plain(whole[1]) === plain(row.reference);
            return same ? null : [row.id, system, whole];
        })).filter(Boolean)"""
    )
    assert unlike == []


def test_figures_are_those_of_what_is_shown(shared):
    window = shared
    # Words: 4 + 3 + 2 + 2; Japanese has no words that count, and a translation none at all.
    assert summary(window) == {
        "good": ["18.2 %", "2 / 11"],
        "fair": ["72.7 %", "8 / 11"],
        "poor": ["45.5 %", "5 / 11"],
    }
    japanese = window.locator("#summary tbody tr").last.locator("td").nth(1).inner_text()
    assert japanese.split() == ["50.0", "%", "2", "/", "4"]
    choose(window, speaker="bert")
    assert ids(window) == ["u1", "u4"]
    assert summary(window) == {
        "good": ["40.0 %", "2 / 5"],
        "fair": ["0.0 %", "0 / 5"],
        "poor": ["60.0 %", "3 / 5"],
    }
    choose(window, speaker="", text="translation")
    assert ids(window) == ["u3"]
    assert summary(window)["fair"] == ["76.3", "mean of 1"]  # chrF of sacreBLEU 2.6
    better, worse = window.locator("#summary tbody tr").nth(2).locator("td").all_inner_texts()[-2:]
    assert (better, worse) == ("0", "1")


@pytest.mark.parametrize(
    ("choices", "expected"),
    [
        ({"q": "ÄRGER IM"}, ["u1"]),
        ({"q": "büro"}, ["u1"]),
        ({"q": "京は雨だ"}, ["u2"]),
        ({"q": "jumps"}, ["u0"]),
        ({"q": "dog"}, ["u3"]),
        ({"q": "U4"}, ["u4"]),
        ({"q": "nothing like it"}, []),
        ({"corpus": "other"}, ["u3"]),
        ({"languages": "en-de"}, ["u3"]),
        ({"speaker": "BER"}, ["u1", "u4"]),
        ({"from": "1.2"}, ["u2"]),
        ({"to": "0.5"}, ["u4"]),
        ({"flag": "hit limit"}, ["u4"]),
        ({"flag": "empty"}, ["u4"]),
        ({"flag": "without a flag"}, ["u0", "u1", "u2", "u3"]),
        ({"corpus": "fake", "compare": "text unlike the baseline’s", "flag": "without a flag"}, ["u0", "u2"]),
        ({"system": "poor", "compare": "worse than the baseline"}, ["u0", "u1", "u2", "u3", "u4"]),
        ({"system": "poor", "compare": "worse than the baseline", "by": "30"}, ["u1", "u3", "u4"]),
        ({"system": "poor", "compare": "worse than the baseline", "by": "25"}, ["u0", "u1", "u2", "u3", "u4"]),
        ({"system": "good", "compare": "better than the baseline", "to": "1"}, ["u0", "u3", "evil"]),
        ({"text": "transcript", "system": "poor", "sort": "worst score first"}, ["u4", "u0", "u2", "u1", "evil"]),
        # In points: 33.3, 25, 25 and -350.
        (
            {"text": "transcript", "sort": "most lost to the baseline", "from": "0.5", "system": "poor"},
            ["u1", "u0", "u2", "evil"],
        ),
        ({"sort": "longest first"}, ["u2", "u0", "u1", "u3", "evil", "u4"]),
    ],
)
def test_filters_and_orders(shared, choices, expected):
    window = shared
    choose(window, **choices)
    assert [name.split(" ")[0] for name in ids(window)] == expected
    assert window.locator("#count").inner_text() == f"{len(expected)} of 6 rows"


def test_the_address_restores_the_view(open_page):
    window = open_page()
    choose(window, system="poor", compare="worse than the baseline", by="30", sort="longest first")
    window.keyboard.press("Escape")
    window.keyboard.press("j")
    seen, address = ids(window), window.url
    state = address.partition("#")[2]
    assert state == "system=2&compare=worse&by=30&sort=longest&at=3"

    again = open_page(f"#{state}")
    assert ids(again) == seen
    assert again.locator("[name='by']").input_value() == "30"
    assert again.locator("article[aria-current] h2").inner_text() == "u3"
    again.evaluate("() => { location.hash = 'q=fox'; }")
    again.wait_for_function("() => document.querySelectorAll('article').length === 1")
    assert ids(again) == ["u0"]
    assert again.locator("[name='by']").input_value() == ""

    choose(again, q="")
    again.get_by_role("button", name="Reset").click()
    again.wait_for_timeout(100)
    assert again.url.partition("#")[2] == ""


def test_an_address_that_names_nothing_known_shows_all(open_page):
    window = open_page("#corpus=gone&system=99&sort=odd&at=nowhere")
    assert len(ids(window)) == 6


def test_keys_move_play_and_search(open_page):
    window = open_page()
    current = window.locator("article[aria-current] h2")
    assert current.inner_text() == "u0"
    window.keyboard.press("j")
    window.keyboard.press("j")
    window.keyboard.press("k")
    assert current.inner_text() == "u1"
    window.keyboard.press(" ")
    window.wait_for_function("() => [...players.values()].some((player) => !player.audio.paused)")
    window.keyboard.press("/")
    window.keyboard.type("jk")  # typed, not obeyed
    assert window.locator("[name='q']").input_value() == "jk"


def test_plays_the_utterance_and_not_the_rest_of_its_talk(open_page):
    window = open_page()
    audio = card(window, "u3").locator("audio")
    assert audio.get_attribute("src") == "talk%201.wav#t=3,4.000"
    card(window, "u3").get_by_role("button", name="Play u3").click()
    window.wait_for_function("() => players.get(3).audio.readyState >= 2 && players.get(3).audio.currentTime >= 3")
    assert audio.evaluate("audio => audio.duration") == pytest.approx(10, abs=0.01)  # of the file, a talk
    assert audio.evaluate("audio => audio.error") is None
    assert card(window, "u3").get_by_role("button", name="Pause u3").count() == 1
    window.wait_for_function("() => players.get(3).audio.paused", timeout=10_000)
    assert audio.evaluate("audio => audio.currentTime") == pytest.approx(4, abs=0.3)
    card(window, "u3").get_by_role("button", name="Play u3").click()  # once more, from its start
    window.wait_for_function("() => !players.get(3).audio.paused && players.get(3).audio.currentTime < 3.9")
    window.wait_for_function("() => players.get(3).audio.paused", timeout=10_000)
    assert audio.evaluate("audio => audio.currentTime") == pytest.approx(4, abs=0.3)
    card(window, "u3").get_by_role("button", name="Play u3").click()
    window.wait_for_function("() => !players.get(3).audio.paused")
    card(window, "u1").get_by_role("button", name="Play u1").click()
    window.wait_for_function("() => players.get(3).audio.paused && players.get(1).audio.currentTime >= 1")


def test_many_rows_are_drawn_page_by_page(open_page, tmp_path):
    predictions = [predicted(row, hypothesis_transcript="one") for row in range(60)]  # three words of four are missing
    window = open_page(file=write_page(tmp_path, [System("a", predictions)], SPECS), state="#at=24")
    current = window.locator("article[aria-current] h2")
    assert (len(ids(window)), current.inner_text()) == (25, "u24")
    window.keyboard.press("j")
    assert (current.inner_text(), ids(window)[0]) == ("u25", "u25")
    assert window.locator("#pages").inner_text() == "page 2 of 3"
    window.get_by_role("button", name="Next page").click()
    assert ids(window) == [f"u{row}" for row in range(50, 60)]
    assert window.get_by_role("button", name="Next page").is_disabled()
    assert window.url.endswith("#at=50")
    assert summary(window) == {"a": ["75.0 %", "180 / 240"]}, "of all pages"


def test_a_system_without_some_test_set(open_page, tmp_path):
    both, one = [predicted(0), predicted(1, corpus="other")], [predicted(0)]
    window = open_page(file=write_page(tmp_path, [System("a", both), System("b", one)], SPECS))
    assert texts_of(window, "u1", "b").inner_text() == "not tested on this"
    assert summary(window) == {"a": ["25.0 %", "2 / 8"], "b": ["25.0 %", "1 / 4"]}
    choose(window, compare="any systems differ")
    assert ids(window) == []


def test_an_utterance_without_a_reference_has_neither_marks_nor_score(open_page, tmp_path):
    silent = predicted(0, corpus="silence", reference_transcript="")
    window = open_page(file=write_page(tmp_path, [System("a", [silent, predicted(1)])], SPECS))
    assert texts_of(window, "u0", "reference").inner_text() == "none"
    assert texts_of(window, "u0", "a").inner_text() == "one two tree four"
    assert marks(window, "u0", "a", "mark, ins, del") == []
    assert "".join(card(window, "u0").locator(".score").all_inner_texts()) == ""
    assert summary(window) == {"a": ["25.0 %", "1 / 4"]}
    choose(window, sort="worst score first")
    assert ids(window) == ["u1", "u0"]


def test_says_what_cannot_be_heard(shared):
    window = shared
    evil = window.locator("article").last
    assert evil.locator("audio").count() == 0
    assert "the audio could not be read" in evil.locator(".head").inner_text()
    assert window.locator("#audio-note").inner_text() == "Rows without audio – the audio could not be read: 1."


def test_copied_clips_play_without_the_talk(open_page, tmp_path):
    (tmp_path / "in").mkdir()
    systems = make_systems(tmp_path / "in")
    file = write_page(tmp_path / "out", systems, SPECS, copy_audio=True)
    (tmp_path / "in" / "talk 1.wav").unlink()
    window = open_page(file=file)
    card(window, "u2").get_by_role("button", name="Play u2").click()
    window.wait_for_function("() => players.get(2).audio.readyState >= 2")
    assert card(window, "u2").locator("audio").evaluate("audio => audio.duration") == pytest.approx(1.5, abs=0.01)


@pytest.mark.parametrize("bypass_csp", [False, True], ids=["with policy", "without policy"])
def test_texts_are_texts(open_page, bypass_csp):
    """No text is HTML, even where the browser would run what stands in it."""
    window = open_page(bypass_csp=bypass_csp)
    evil = window.locator("article").last
    assert evil.locator("h2").inner_text().split() == f"evil {EVIL}".split()
    assert evil.locator(".text").nth(2).inner_text().removesuffix("unreadable").split() == EVIL.split()
    assert window.locator("img").count() == 0
    assert window.locator("script").count() == 1  # that of the page; the data's is taken away
    window.wait_for_timeout(100)
    assert window.evaluate("() => typeof window.struck") == "undefined"


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_texts_and_marks_are_readable(open_page, scheme):
    """Contrast of text on its ground is at least 4.5 to 1, as WCAG 2 wants it of level AA."""
    window = open_page(color_scheme=scheme)
    contrasts = window.evaluate(
        """() => {
            const light = (color) => color.match(/[0-9.]+/g).slice(0, 3).map((part) => part / 255)
                .map((part) => (part <= 0.04045 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4))
                .reduce((sum, part, i) => sum + part * [0.2126, 0.7152, 0.0722][i], 0);
            const ground = (node) => {
                const color = getComputedStyle(node).backgroundColor;
                return color.endsWith(", 0)") ? ground(node.parentElement) : color;
            };
            const nodes = document.querySelectorAll("mark, ins, del, .note, .better, .worse, .flag, .name, .text, th");
            return [...nodes].map((node) => {
                const [a, b] = [getComputedStyle(node).color, ground(node)].map(light).sort((x, y) => y - x);
                return [node.className || node.tagName, (a + 0.05) / (b + 0.05)];
            });
        }"""
    )
    assert len(contrasts) > 50
    assert min(contrast for _, contrast in contrasts) >= 4.5, sorted(contrasts, key=lambda item: item[1])[:5]


def test_a_narrow_window_folds_the_filters_and_needs_no_scrolling_sideways(open_page):
    window = open_page(viewport={"width": 800, "height": 900})
    assert not window.locator("#controls").is_visible()
    assert window.evaluate("() => document.documentElement.scrollWidth") <= 800
    window.locator("summary").click()
    assert window.locator("#controls").is_visible()
    window.locator("summary").click()
    window.set_viewport_size({"width": 1400, "height": 900})
    window.wait_for_selector("#controls")
