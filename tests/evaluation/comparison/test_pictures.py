"""Pictures: numbers that are right, labels that keep apart, and nothing where there is nothing to show."""

import itertools
from pathlib import Path

import pytest
from matplotlib.text import Text

from speechllm.evaluation.comparison.arrangement import arrange
from speechllm.evaluation.comparison.duration_bars import draw as draw_bars
from speechllm.evaluation.comparison.duration_bars import measure_bins
from speechllm.evaluation.comparison.measured import DifferenceTest, measure, score_systems
from speechllm.evaluation.comparison.pictures import real_time_factor, write_pictures
from speechllm.evaluation.comparison.published import read_published
from speechllm.evaluation.comparison.style import COLOURS, looks, short
from speechllm.evaluation.comparison.tradeoff import Cost, draw, drawable
from speechllm.evaluation.systems import System
from tests.evaluation.predicted import predicted

TABLE_III = read_published(Path(__file__).with_name("table_iii.csv"))
HOW = DifferenceTest(samples=50)


def system(name, wrong=(), languages=("en",), decode_s=0.5, durations=(1.0, 3.0, 3.0, 12.0)):
    predictions = [
        predicted(
            row,
            id=f"{code}{row}",
            source_language=code,
            target_language=code,
            duration_s=duration,
            decode_s=decode_s,
            hypothesis_transcript="one two tree four" if row in wrong else "one two three four",
        )
        for code in languages
        for row, duration in enumerate(durations)
    ]
    return System(name, predictions, "", {}, "")


def compared(*systems):
    scored, _ = score_systems(systems, [{"name": "wer"}])
    return arrange(measure(scored, None, {}, HOW)), scored


def test_bins_hold_the_figures_of_their_utterances():
    table, scored = compared(system("a", (0, 2), ("en", "de")), system("b", (), ("en", "de")), system("c", (0,)))
    bins = measure_bins(scored, table.blocks[0], HOW)
    assert list(bins) == [("", "a"), ("", "b")], "the third lacks a language"
    found = {name: (item.value, item.utterances) for name, item in bins["", "a"].items()}
    assert found == {"< 2 s": (25.0, 2), "2-5 s": (12.5, 4), "10-20 s": (0.0, 2)}
    middle = bins["", "a"]["2-5 s"]
    # each language has an interval from 0 to 25, and the mean of two independent ones a narrower one
    assert (middle.low, middle.high) == pytest.approx((12.5 - 12.5 / 2**0.5, 12.5 + 12.5 / 2**0.5))


def test_bars_have_a_bar_for_each_system_and_bin():
    table, scored = compared(system("a", (0, 2)), system("b"))
    (axes,) = draw_bars(measure_bins(scored, table.blocks[0], HOW), table.blocks[0]).axes
    heights = [[bar.get_height() for bar in bars] for bars in axes.containers if hasattr(bars, "patches")]
    assert heights == [[25.0, 12.5, 0.0], [0.0, 0.0, 0.0]]
    assert [text.get_text() for text in axes.get_xticklabels()] == ["< 2 s\n1", "2-5 s\n2", "10-20 s\n1"]
    assert axes.get_ylabel() == "WER, en (lower is better)"


def test_labels_cover_neither_each_other_nor_points():
    table = arrange([], [TABLE_III])
    figure = draw(table, Cost("compression", TABLE_III.compression))
    figure.canvas.draw()
    for axes in figure.axes:
        boxes = [Text.get_window_extent(text) for text in axes.texts]  # without the line to the point
        assert len(boxes) == 20
        overlaps = [(a, b) for a, b in itertools.combinations(boxes, 2) if a.overlaps(b)]
        assert overlaps == []
        points = [axes.transData.transform(point) for line in axes.lines for point in line.get_xydata()]
        assert len(points) == 20
        assert not [1 for x, y in points for box in boxes if box.contains(x, y)]
    assert [axes.get_ylabel() for axes in figure.axes] == [
        "COMET, average (higher is better)",
        "WER, average (lower is better)",
    ]
    assert figure.axes[0].get_xscale() == "log"


def test_points_are_averages_against_costs():
    table = arrange([], [TABLE_III])
    (comet, points), (wer, _) = drawable(table, Cost("compression", TABLE_III.compression))
    assert (comet.title, wer.title) == ("COMET", "WER")
    assert points[2] == (("Seamless + Mistral", "Conv-based"), 4.0, 84.75)
    with pytest.raises(ValueError, match="Nothing to draw against cost"):
        draw(table, Cost("cost", {}))


def test_real_time_factor_is_known_where_times_are():
    assert real_time_factor(system("a")) == pytest.approx(2.0 / 19.0)
    assert real_time_factor(system("a", decode_s=0.0)) is None


def test_writes_what_has_something_to_show_and_says_why_not(tmp_path):
    table, scored = compared(system("a", (0,)), system("b"), system("text", decode_s=0.0))
    (tmp_path / "quality_compression.png").write_bytes(b"of an older comparison")
    names, notes = write_pictures(tmp_path, table, scored, {("", "a"): 4.0}, HOW)
    assert names == ["quality_cost.png", "by_duration_wer.png"]
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(names)
    assert all((tmp_path / name).read_bytes().startswith(b"\x89PNG") for name in names)
    assert notes == [
        "No picture of quality against compression: it takes two systems whose compression is known.",
        "Not in the picture of quality against real-time factor, which is not known: text.",
    ]
    silent, scored = compared(system("a", durations=(0.0, 0.0)), system("b", durations=(0.0, 0.0)))
    names, notes = write_pictures(tmp_path, silent, scored, {}, HOW)
    assert names == []
    assert notes[-1] == "No picture of WER by duration: no system has durations and all its languages."
    assert list(tmp_path.iterdir()) == []


def test_looks_tell_many_systems_apart():
    names = [f"s{number}" for number in range(30)]
    assert len(set(looks(names).values())) == 30
    assert len(set(COLOURS)) == len(COLOURS)
    assert short("x" * 40) == "x" * 27 + "…"
