"""Table III of arXiv 2409.17044 from its numbers: underlines, bold, asterisks and averages as printed."""

import csv
import io
from decimal import Decimal
from pathlib import Path

import pytest

from speechllm.evaluation.comparison.arrangement import arrange
from speechllm.evaluation.comparison.csv_file import to_csv
from speechllm.evaluation.comparison.html import to_html
from speechllm.evaluation.comparison.latex import to_latex
from speechllm.evaluation.comparison.markdown import to_markdown
from speechllm.evaluation.comparison.published import read_published
from speechllm.evaluation.comparison.table import columns_of

FILE = Path(__file__).with_name("table_iii.csv")
GROUPS = ["Seamless + Mistral", "Seamless + Llama 3.1", "Whisper + Mistral", "Whisper + Llama 3.1"]
SYSTEMS = ["Base", "CIF-based", "Conv-based", "CTC-based", "WLQ-former"]
COMET, WER = ("en-de", "de-en", "es-en", "fr-en", "it-en", "avg"), ("en", "es", "fr", "it", "de", "avg")

# The best of each group: one name where it is the best of every column of a block.
UNDERLINED = {
    "Seamless + Mistral": ["Base"] * 6 + ["WLQ-former"] + ["Base"] * 5,
    "Seamless + Llama 3.1": ["WLQ-former"] * 12,
    "Whisper + Mistral": ["WLQ-former"] * 6 + ["Base"] * 6,
    "Whisper + Llama 3.1": ["Conv-based"] * 6 + ["Base, Conv-based", "Base", "Base", "Base", "Conv-based", "Base"],
}
BOLD = [
    *["85.65", "84.84", "86.66", "84.71", "85.42", "85.44"],
    *["6.38", "6.33", "9.69", "7.80", "8.36", "7.78"],
]
ASTERISKS = {
    "Seamless + Mistral": ["WLQ-former de-en", "WLQ-former es-en", "WLQ-former en", "WLQ-former fr", "WLQ-former de"],
    "Seamless + Llama 3.1": ["CIF-based es", "Conv-based en", "Conv-based fr", "Conv-based de"],
    "Whisper + Mistral": [
        *["Conv-based es-en", "Conv-based fr-en"],
        *["WLQ-former en-de", "WLQ-former de-en", "WLQ-former fr-en"],
    ],
    "Whisper + Llama 3.1": ["Conv-based en", "Conv-based fr", "Conv-based it", "Conv-based de"],
}


@pytest.fixture(scope="module")
def table():
    return arrange([], [read_published(FILE)])


def test_layout(table):
    assert [(block.title, block.columns) for block in table.blocks] == [("COMET", COMET), ("WER", WER)]
    assert [[row.group for row in group] for group in table.groups] == [[name] * 5 for name in GROUPS]
    assert [[row.name for row in group] for group in table.groups] == [SYSTEMS] * 4


def test_every_value_is_printed_as_in_the_paper(table):
    with FILE.open(encoding="utf-8") as file:
        expected = {
            (row["group"], row["system"], row["figure"], row["languages"]): row["value"] for row in csv.DictReader(file)
        }
    assert len(expected) == 240
    for row in table.rows:
        for (block, name), cell in zip(columns_of(table), row.cells, strict=True):
            assert cell.printed == expected.pop((row.group, row.name, block.title, name))
    assert not expected


def test_underlines_bold_and_asterisks(table):
    for group in table.groups:
        underlined = [", ".join(row.name for row in group if row.cells[index].best_of_group) for index in range(12)]
        assert underlined == UNDERLINED[group[0].group]
        marked = [
            f"{row.name} {name}"
            for row in group
            for (_, name), cell in zip(columns_of(table), row.cells, strict=True)
            if cell.insignificant
        ]
        assert marked == ASTERISKS[group[0].group]
    bold = [[row.cells[index].printed for row in table.rows if row.cells[index].best] for index in range(12)]
    assert bold == [[value] for value in BOLD]
    assert next(row for row in table.rows if row.cells[5].best).group == "Seamless + Llama 3.1"


def test_averages_are_the_means_but_for_the_two_misprints(table):
    found = []
    for row in table.rows:
        for first in (0, 6):
            mean = sum(Decimal(cell.printed) for cell in row.cells[first : first + 5]) / 5
            average = row.cells[first + 5]
            assert average.doubtful == (abs(Decimal(average.printed) - mean) > Decimal("0.01"))
            found += [(row.group, row.name, average.printed, mean)] if average.doubtful else []
    assert found == [
        ("Seamless + Llama 3.1", "CTC-based", "9.90", Decimal("9.864")),
        ("Whisper + Mistral", "CIF-based", "80.99", Decimal("80.974")),
    ]
    assert [note.partition(" (")[0] for note in table.notes] == [
        "Seamless + Llama 3.1/CTC-based, wer: the average is printed as 9.90, but the mean of the row is 9.864",
        "Whisper + Mistral/CIF-based, comet: the average is printed as 80.99, but the mean of the row is 80.974",
    ]
    assert f"{FILE}, row 109)" in table.notes[0]
    assert FILE.read_text(encoding="utf-8").splitlines()[108] == "CTC-based,Seamless + Llama 3.1,WER,avg,9.90,,2"


def test_all_formats_mark_the_same(table):
    markdown, latex, page = to_markdown(table), to_latex(table), to_html(table)
    assert markdown.count("<u>") == page.count("<u>") == latex.count(r"\underline{") == 49
    assert markdown.count("**<u>") == page.count("<b>") == latex.count(r"\textbf{") == 12
    assert page.count("<sup>*</sup>") == 18
    assert "| WLQ-former | **<u>85.65</u>** |" in markdown
    assert r"**<u>6.38</u>**\* |" in markdown
    assert r"WLQ-former & \textbf{\underline{85.65}} & \textbf{\underline{84.84}}" in latex
    assert r"& \textbf{\underline{6.38}}$^*$ &" in latex
    assert r"& 80.99$^\dagger$ &" in latex
    assert r"\multicolumn{6}{c}{COMET $\uparrow$} & \multicolumn{6}{c}{WER $\downarrow$}" in latex
    for text in (markdown, latex, page):
        assert "9.864" in text
        assert "80.974" in text
    rows = list(csv.DictReader(io.StringIO(to_csv(table))))
    assert [row["WER avg"] for row in rows][:2] == ["7.78", "8.45"]
    marks = [row[column] for row in rows for column in row if column.endswith("marks")]
    assert sum("best_of_group" in mark for mark in marks) == 49
    assert sum("best" in mark.split() for mark in marks) == 12
    assert sum("insignificant" in mark for mark in marks) == 18
    assert sum("doubtful" in mark for mark in marks) == 2
