"""Published figures: read as printed, averages checked at their precision, and every wrong row named."""

import re

import pytest

from speechllm.errors import UserError
from speechllm.evaluation.comparison.published import DIRECTIONS, read_published
from speechllm.registry import METRICS

HEAD = "system,group,figure,languages,value"


def write(tmp_path, *rows, head=HEAD):
    path = tmp_path / "published.csv"
    path.write_text("\n".join([head, *rows]) + "\n", encoding="utf-8")
    return path


def test_reads_values_as_printed(tmp_path):
    path = write(
        tmp_path,
        '"Qwen-Audio, large",,BLEU,en-de,25.10,no,covost2,8',
        "",
        '"Qwen-Audio, large",,BLEU,fr-en,,,covost2,8',
        "b,G,wer_whisper,en,4,YES,,",
        head=f"{HEAD},significant,corpus,compression",
    )
    publication = read_published(path)
    first, second = publication.results
    assert (first.system, first.figure, first.languages, first.value) == (
        ("", "Qwen-Audio, large"),
        "bleu",
        "en-de",
        25.1,
    )
    assert (first.printed, first.significant, first.corpus, first.higher_is_better) == ("25.10", False, "covost2", True)
    assert (second.system, second.figure, second.significant) == (("G", "b"), "wer_whisper", True)
    assert second.higher_is_better is False
    assert publication.compression == {("", "Qwen-Audio, large"): 8.0}
    assert publication.systems == [("", "Qwen-Audio, large"), ("G", "b")]


@pytest.mark.parametrize(
    ("values", "average", "fits"),
    [
        (["84.94", "84.75"], "84.85", True),  # the mean is 84.845
        (["84.94", "84.75"], "84.84", True),
        (["80.35", "81.60"], "80.98", True),  # 0.005 off
        (["80.35", "81.60"], "80.985", False),  # 0.010 off, and printed to the thousandth
        (["80.35", "81.60"], "80.99", False),  # 0.015 off
        (["10", "11"], "10.5", True),  # whole numbers may each be half a unit off
        (["10", "11"], "11.2", False),
        (["12.1", "12.2"], "12.2", True),
        (["12.1", "12.2"], "12.3", False),
    ],
)
def test_averages_are_checked_at_the_precision_of_print(tmp_path, values, average, fits):
    rows = [f"a,,WER,l{number},{value}" for number, value in enumerate(values)]
    publication = read_published(write(tmp_path, *rows, f"a,,WER,avg,{average}"))
    assert publication.averages == {(("", "a"), "wer", ""): average}
    assert bool(publication.misprints) != fits
    if not fits:
        assert str(publication.misprints[0]).startswith(f"a, wer: the average is printed as {average}, but the mean")
        assert f"row {len(values) + 2})" in str(publication.misprints[0])


def test_an_average_with_an_unknown_value_is_no_misprint(tmp_path):
    rows = ["a,,wer,de,10.00", "a,,wer,fr,", "a,,wer,avg,12.00", "b,,wer,de,10.00", "b,,wer,avg,12.00"]
    path = tmp_path / "published.csv"
    path.write_text("\n".join(["system,group,figure,languages,value", *rows]))
    assert [item.system for item in read_published(path).misprints] == [("", "b")]


@pytest.mark.parametrize(
    ("rows", "head", "message"),
    [
        (
            ["a,,WER,en,1.0"],
            "system,group,figure,language,value",
            "row 1: no column 'languages', unknown column 'language'. Did you mean 'languages'?",
        ),
        (["a,,WER,en,1.0"], f"{HEAD},value", "a column that comes twice"),
        (["a,,WER,en"], HEAD, "row 2: 4 cells for the 5 columns"),
        (["a,,WER,en,1.0", "b,,WER,en,1,0"], HEAD, "row 3: 6 cells for the 5 columns"),
        (
            ["a,,WER,en,5.3 %"],
            HEAD,
            "row 2: the value must be a number such as 84.94, or empty if it is not known, but is '5.3 %'",
        ),
        (["a,,WER,en,nan"], HEAD, "row 2: the value must be a number"),
        (["a,,WER,en,1.0", "a,,wer,en,2.0"], HEAD, "row 3: wer of 'a' for 'en' stands in"),
        (["a,,WERR,en,1.0"], HEAD, "row 2: unknown figure 'werr'. Did you mean 'wer'?"),
        (["a,,,en,1.0"], HEAD, "row 2: no figure."),
        ([",g,WER,en,1.0"], HEAD, "row 2: no system."),
        (
            ["a,,WER,en,1.0,maybe"],
            f"{HEAD},significant",
            "row 2: 'significant' must be yes, no or empty, but is 'maybe'",
        ),
        (["a,,WER,en,1.0,4:1"], f"{HEAD},compression", "row 2: 'compression' must be frames for each position"),
        (
            ["a,,WER,en,1.0,4", "a,,WER,de,1.0,5"],
            f"{HEAD},compression",
            "row 3: the compression of 'a' is 5, but was 4",
        ),
        (['a,,WER,en,"1.0'], HEAD, "row 2: unexpected end of data"),
        ([], HEAD, "the file has no values"),
    ],
)
def test_wrong_rows_are_named(tmp_path, rows, head, message):
    path = write(tmp_path, *rows, head=head)
    with pytest.raises(UserError, match=f"^{re.escape(str(path))}.*{re.escape(message)}"):
        read_published(path)


def test_files_that_cannot_be_read(tmp_path):
    near = write(tmp_path, "a,,WER,en,1.0")
    with pytest.raises(UserError, match=r"cannot be read: No such file.*Did you mean '.*published\.csv'"):
        read_published(near.with_name("publisht.csv"))
    near.write_bytes("a,,WER,en,1.0\nä".encode("latin-1"))
    with pytest.raises(UserError, match="not UTF-8"):
        read_published(near)


def test_directions_are_those_of_the_metrics():
    known = 0
    for name in METRICS.names():
        if name in DIRECTIONS and name != "comet":  # comet wants its checkpoint
            figure = METRICS.build({"name": name}, language="en").figures[0]
            assert (figure.name, figure.higher_is_better) == (name, DIRECTIONS[name])
            known += 1
    assert known >= 4
