"""Tables by hand: blocks and columns, averages, and what is marked."""

import math

import pytest

from speechllm.errors import UserError
from speechllm.evaluation.comparison.arrangement import arrange
from speechllm.evaluation.comparison.published import read_published
from speechllm.evaluation.comparison.reading import check_common
from speechllm.evaluation.comparison.results import Result, check_names, choose_baselines


def value(system, number, languages="en", figure="wer", better=False, **more):
    key = tuple(system.split("/")) if "/" in system else ("", system)
    return Result(key, figure, languages, number, "%", better, **({"corpus": "must_c"} | more))


def marks(table, name):
    """Return, by system, the marks of each cell."""
    return {
        row.name: ["".join("BG*†"[i] for i, on in enumerate(cell_marks(cell)) if on) for cell in row.cells]
        for row in table.rows
        if row.group == name
    }


def cell_marks(cell):
    return cell.best, cell.best_of_group, cell.insignificant, cell.doubtful


def printed(table):
    return {row.name: [cell.printed for cell in row.cells] for row in table.rows}


def published(tmp_path, *rows, head="system,group,figure,languages,value"):
    path = tmp_path / "published.csv"
    path.write_text("\n".join([head, *rows]) + "\n", encoding="utf-8")
    return read_published(path)


@pytest.mark.parametrize(("better", "best"), [(False, "a"), (True, "b"), (None, "")])
def test_direction_decides_what_is_best(better, best):
    table = arrange([value("a", 1.0, better=better), value("b", 2.0, better=better)])
    assert [row.name for row in table.rows if row.cells[0].best] == ([best] if best else [])
    assert not any(cell.best_of_group for row in table.rows for cell in row.cells)


def test_groups_have_bests_of_their_own():
    table = arrange([value("G/a", 1.0), value("H/c", 3.0), value("G/b", 2.0), value("H/d", 4.0), value("I/e", 0.5)])
    assert [(row.group, row.name) for row in table.rows] == [("G", "a"), ("G", "b"), ("H", "c"), ("H", "d"), ("I", "e")]
    assert marks(table, "G") == {"a": ["G"], "b": [""]}
    assert marks(table, "H") == {"c": ["G"], "d": [""]}
    assert marks(table, "I") == {"e": ["B"]}, "the only one of its group is the best of nothing but the column"


def test_all_that_tie_are_marked_and_measured_values_are_compared_unrounded():
    table = arrange([value("a", 1.0), value("b", 1.0), value("c", 1.0001)])
    assert printed(table) == {"a": ["1.00"], "b": ["1.00"], "c": ["1.00"]}
    assert marks(table, "") == {"a": ["B"], "b": ["B"], "c": [""]}


def test_published_values_are_compared_as_printed(tmp_path):
    table = arrange([value("ours", 9.9004, corpus="")], [published(tmp_path, "x,,WER,en,9.90", "y,,WER,en,9.90")])
    assert printed(table) == {"ours": ["9.90"], "x": ["9.90"], "y": ["9.90"]}
    assert marks(table, "") == {"ours": [""], "x": ["B"], "y": ["B"]}


def test_average_is_the_plain_mean_and_left_out_where_a_column_is_missing():
    table = arrange([value("a", 1.0), value("a", 4.0, "de"), value("b", 2.0), value("c", math.nan, "de")])
    assert table.blocks[0].columns == ("en", "de", "avg")
    assert printed(table) == {"a": ["1.00", "4.00", "2.50"], "b": ["2.00", "", ""], "c": ["", "", ""]}
    assert marks(table, "") == {"a": ["B", "", ""], "b": ["", "", ""], "c": ["", "", ""]}
    assert table.notes == ["b, WER: no average, for there is no value for de."]


def test_a_printed_average_counts_only_over_the_same_columns(tmp_path):
    rows = ["x,,WER,en,2.00", "x,,WER,de,3.01", "x,,WER,avg,2.51"]
    same = arrange([value("a", 1.0), value("a", 4.0, "de")], [published(tmp_path, *rows)])
    assert printed(same) == {"a": ["1.00", "4.00", "2.50"], "x": ["2.00", "3.01", "2.51"]}
    wider = [value("a", 1.0), value("a", 4.0, "de"), value("a", 4.0, "ja")]
    table = arrange(wider, [published(tmp_path, *rows)])
    assert printed(table)["x"] == ["2.00", "3.01", "", ""]
    assert table.notes == ["x, WER: no average (printed: 2.51), for there is no value for ja."]
    alone = arrange([value("a", 1.0)], [published(tmp_path, "x,,BLEU,avg,30.0", "x,,WER,en,2")])
    assert alone.notes == ["x, BLEU: no values beside the average 30.0."]


def test_the_mean_of_published_values_has_their_decimals(tmp_path):
    table = arrange([], [published(tmp_path, "x,,WER,en,2.0", "x,,WER,de,3.5", "y,,WER,en,3", "y,,WER,de,4")])
    assert printed(table) == {"x": ["2.0", "3.5", "2.8"], "y": ["3", "4", "4"]}


def test_corpora_never_share_a_column():
    table = arrange([value("a", 1.0), value("a", 2.0, corpus="covost2"), value("b", 1.5, corpus="covost2")])
    assert [(block.title, block.columns) for block in table.blocks] == [
        ("WER must_c", ("en",)),
        ("WER covost2", ("en",)),
    ]
    assert printed(table) == {"a": ["1.00", "2.00"], "b": ["", "1.50"]}


def test_splits_and_texts_stand_in_titles_where_there_are_several():
    results = [
        value("a", 1.0, split="dev"),
        value("a", 2.0, split="test"),
        value("a", 9.0, figure="bleu", split="test"),
    ]
    assert [block.title for block in arrange(results).blocks] == ["WER dev", "WER test", "BLEU"]


def test_blocks_of_one_figure_stand_side_by_side_in_the_order_of_figures():
    results = [value("a", 1.0), value("a", 9.0, figure="bleu"), value("b", 1.0, corpus="covost2")]
    assert [block.title for block in arrange(results).blocks] == ["WER must_c", "WER covost2", "BLEU"]


def test_published_figures_join_the_corpus_that_they_fit(tmp_path):
    results = [value("a", 1.0), value("a", 2.0, "fr", corpus="covost2")]
    assert printed(arrange(results, [published(tmp_path, "x,,WER,fr,3.0")]))["x"] == ["", "3.0"]
    both = [value("a", 1.0), value("a", 2.0, corpus="covost2")]
    with pytest.raises(
        UserError, match=r"wer for en was measured on several test sets: must_c, covost2\. Say in a column"
    ):
        arrange(both, [published(tmp_path, "x,,WER,en,3.0")])
    head = "system,group,figure,languages,value,corpus"
    named = arrange(both, [published(tmp_path, "x,,WER,en,3.0,covost2", head=head)])
    assert printed(named)["x"] == ["", "3.0"]
    other = arrange(both, [published(tmp_path, "x,,WER,en,3.0,fleurs", head=head)])
    assert [block.title for block in other.blocks] == ["WER must_c", "WER covost2", "WER fleurs"]


def test_published_languages_that_were_not_measured_get_columns(tmp_path):
    rows = ["x,,WER,en,3.0", "x,,WER,it,5.0"]
    table = arrange([value("a", 1.0)], [published(tmp_path, *rows)])
    assert table.blocks[0].columns == ("en", "it", "avg")
    assert printed(table) == {"a": ["1.00", "", ""], "x": ["3.0", "5.0", "4.0"]}


def test_legend_explains_the_marks_that_occur():
    plain = arrange([value("a", 1.0)])
    assert plain.legend == []
    starred = arrange([value("G/a", 1.0), value("G/b", 2.0, significant=False), value("H/c", 3.0)])
    assert [line.partition(":")[0] for line in starred.legend] == ["Bold", "Underlined", "*"]


def test_something_must_be_in_common():
    check_common(arrange([value("a", 1.0)]))
    check_common(arrange([value("a", 1.0), value("b", 1.0)]))
    table = arrange([value("G/a", 1.0), value("b", 1.0, figure="wer_whisper")])
    with pytest.raises(UserError, match=r"no figure in common. G/a: WER en; b: WER \(whisper\) en"):
        check_common(table)


def test_baselines_are_looked_for_in_each_group():
    keys = [("G", "base"), ("G", "a"), ("H", "base"), ("H", "b"), ("I", "c")]
    assert choose_baselines(keys, None) == dict.fromkeys(keys)
    assert choose_baselines(keys, "base") == {
        ("G", "base"): None,
        ("G", "a"): ("G", "base"),
        ("H", "base"): None,
        ("H", "b"): ("H", "base"),
        ("I", "c"): None,  # which of the two it were is anyone's guess
    }
    only = {("G", "base"): None, ("G", "a"): ("G", "base"), ("I", "c"): ("G", "base")}
    assert choose_baselines(list(only), "base") == only
    one = choose_baselines(keys, "H/base")
    assert [key for key, baseline in one.items() if baseline == ("H", "base")] == [keys[0], keys[1], keys[3], keys[4]]
    with pytest.raises(UserError, match=r"called 'bas', the baseline. Did you mean 'base'\? Systems: G/base, G/a"):
        choose_baselines(keys, "bas")


def test_names_are_unique_within_a_group():
    check_names([(("G", "a"), "x"), (("H", "a"), "y")])
    with pytest.raises(UserError, match=r"Two systems are called 'G/a': runs/x and runs/y\. Give them names"):
        check_names([(("G", "a"), "runs/x"), (("G", "a"), "runs/y")])
