"""The picture of a check shows what was measured, and how much of it is outside the limits."""

import numpy as np
import pytest

from speechllm.audio_levels import MEASUREMENT, Measurement
from speechllm.data.doctor.corpus import Columns, chars_limits
from speechllm.data.doctor.picture import MAX_RIDGES, draw, save
from speechllm.data.doctor.rules import Thresholds
from speechllm.data.utterance import Utterance

RATE = 16_000


def measured(seconds, rms):
    row = Measurement(*np.zeros(1, dtype=MEASUREMENT).tolist()[0])
    return row._replace(rate=RATE, decoded=round(seconds * RATE), rms=rms, peak=2 * rms)


@pytest.fixture
def picture():
    """Return a function that draws utterances given by split as (seconds, RMS, language, characters)."""

    def make(**splits):
        columns = Columns(splits)
        for split, rows in splits.items():
            for number, (seconds, rms, language, chars) in enumerate(rows):
                utterance = Utterance(f"u{number}", "a.wav", 0.0, seconds, language, "a" * chars)
                columns.add(split, utterance, measured(seconds, rms), audible=True)
        limits = {key: chars_limits(*key, figures, Thresholds()) for key, figures in columns.chars_per_s.items()}
        return draw(columns, limits, Thresholds(), "a corpus")

    return make


def axes_of(figure):
    return {axes.get_label(): axes for axes in figure.axes}


def words(axes):
    return [text.get_text() for text in axes.texts if text.get_text()]


def test_each_split_and_language_is_drawn(picture):
    rows = [(2.0 + number / 100, 0.1, "en" if number % 4 else "de", 30) for number in range(100)]
    axes = axes_of(picture(train=rows, dev=rows[:10]))
    assert list(axes) == ["durations", "levels", "characters"]
    for name in ("durations", "levels"):
        assert [text.get_text() for text in axes[name].get_legend().get_texts()] == ["train (100)", "dev (10)"]
    assert words(axes["levels"]) == ["silent", "quiet"]
    labels = [label.get_text() for label in axes["characters"].get_yticklabels()]
    assert labels == ["transcript en (82)", "transcript de (28)"]


def test_the_histogram_is_the_share_of_each_split(picture):
    axes = axes_of(picture(train=[(2.0, 0.1, "en", 30)] * 5, test=[(2.0, 0.1, "en", 30)] * 3 + [(1.0, 0.1, "en", 15)]))
    tallest = [float(np.max(patch.get_data().values)) for patch in axes["durations"].patches if not patch.get_fill()]
    assert tallest == [100.0, 75.0]


def test_what_is_outside_is_counted(picture):
    rows = [(2.0, 0.1, "en", 30)] * 200 + [(2.0, 0.1, "en", 90)] * 2 + [(9.0, 0.1, "en", 3)]
    loud, silent = [(2.0, 0.1, "ja", 10)] * 3, [(60.0, 1e-5, "ja", 240)] * 1
    axes = axes_of(picture(train=rows + loud + silent))
    assert words(axes["characters"]) == ["15.0", "1 below, 2 above", "5.0"]
    assert axes["durations"].get_xlabel() == "seconds (1 longer)"
    assert axes["levels"].get_xlabel() == "RMS in dBFS (1 lower)"


def test_the_longest_that_training_keeps_is_drawn_where_some_are_longer(picture):
    axes = axes_of(picture(train=[(seconds / 2, 0.1, "en", 100) for seconds in range(1, 100)]))
    assert words(axes["durations"]) == ["over-long"]
    assert axes["durations"].get_xlim()[1] == pytest.approx(49.5 * 1.05, rel=0.01)


def test_many_splits_and_languages_find_a_place(picture, tmp_path):
    splits = {f"split{number}": [(2.0, 0.1, f"x{number}", 30)] * (50 - number) for number in range(40)}
    figure = picture(**splits)
    axes = axes_of(figure)
    assert [text.get_text() for text in axes["levels"].get_legend().get_texts()][-2:] == [
        "split3 (47)",
        f"36 other splits ({sum(50 - number for number in range(4, 40)):,})",
    ]
    assert len(axes["characters"].get_yticklabels()) == MAX_RIDGES
    assert axes["characters"].get_xlabel().endswith("10 rarer languages are not drawn)")
    save(figure, tmp_path / "a file without a suffix")
    assert (tmp_path / "a file without a suffix").read_bytes()[:4] == b"\x89PNG"


@pytest.mark.parametrize("splits", [{}, {"train": []}, {"train": [(2.0, 0.0, "en", 0)]}], ids=str)
def test_nothing_to_draw(picture, splits, tmp_path):
    figure = picture(**splits)
    assert list(axes_of(figure)) == ["durations", "levels"]
    save(figure, tmp_path / "picture.png")
