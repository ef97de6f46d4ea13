"""Markdown, LaTeX, CSV, HTML and JSON of one table: they parse, agree, and show names as they are."""

import csv
import io
import json
import math
import re
import shutil
import subprocess
from html.parser import HTMLParser

import pytest

from speechllm.evaluation.comparison.arrangement import arrange
from speechllm.evaluation.comparison.csv_file import to_csv
from speechllm.evaluation.comparison.html import to_html
from speechllm.evaluation.comparison.json_file import to_json
from speechllm.evaluation.comparison.latex import escape as escape_latex
from speechllm.evaluation.comparison.latex import to_latex
from speechllm.evaluation.comparison.markdown import to_markdown
from speechllm.evaluation.comparison.measured import DifferenceTest
from speechllm.evaluation.comparison.results import Result
from speechllm.evaluation.significance import Comparison

NASTY = 'a_b & 50 % of <i>"x"</i> | *{~^\\#$}*'
VOID = {"meta", "img", "br"}


class Page(HTMLParser):
    """Collects the table's cells, and checks that what is opened is closed."""

    def __init__(self):
        super().__init__()
        self.open, self.rows, self.titles, self.links = [], [], [], []

    def handle_starttag(self, tag, attrs):
        attributes = dict(attrs)
        self.titles += [attributes["title"]] if "title" in attributes else []
        self.links += [attributes[name] for name in ("href", "src") if name in attributes]
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1] += [""] * int(attributes.get("colspan", 1))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if {"td", "th"} & set(self.open):
            self.rows[-1][-1] += data


@pytest.fixture(scope="module")
def table():
    comparison = Comparison("wer", 12.5, 12.0, -1.5, 0.5, 0.31, 0.33)
    measured = {"unit": "%", "higher_is_better": False, "corpus": "must_c", "split": "test", "text": "transcript"}
    measured |= {"signature": "wer|norm:none", "utterances": 8}
    results = [
        Result(("G", "base"), "wer", "en", 12.5, interval=(11.0, 14.0), **measured),
        Result(
            ("G", NASTY), "wer", "en", 12.0, interval=(10.0, 13.0), comparison=comparison, significant=False, **measured
        ),
        Result(("日本", "系統"), "wer", "ja", 7.0, interval=(6.0, 8.0), **measured),
    ]
    baselines = {("G", "base"): None, ("G", NASTY): ("G", "base"), ("日本", "系統"): None}
    table = arrange(results, baselines=baselines)
    table.signatures = [("WER", "wer|norm:none")]
    table.test = "by hand"
    table.notes.append("A note on <x> & y_z.")
    return table


def test_markdown_has_a_row_a_system_and_columns_that_align(table):
    lines = to_markdown(table).splitlines()
    assert len({len(re.sub("日本|系統", "wide", line)) for line in lines[:5]}) == 1, "wide characters fill two columns"
    cells = [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in lines[:5]]
    assert cells[0] == ["group", "system", "WER ↓ en", "ja", "avg"]
    assert cells[2] == ["G", "base", "12.50", "–", "–"]
    assert cells[3][1] == r'a\_b & 50 % of \<i\>"x"\</i\> \| \*{~^\\#$}\*'
    assert cells[3][2] == r"**<u>12.00</u>**\*"
    assert cells[4] == ["日本", "系統", "–", "7.00", "–"]
    assert r"- \*: the difference to the baseline is not significant (p ≥ 0.05; by hand)." in lines
    assert "- WER: `wer|norm:none`" in lines
    assert r"- A note on \<x\> & y\_z." in lines


def test_markdown_without_groups_has_no_column_for_them():
    table = arrange([Result(("", "a"), "wer", "en", 1.0), Result(("", "b"), "wer", "en", 2.0)])
    assert to_markdown(table).splitlines()[0] == "| system | WER en |"


def test_csv_is_plain(table):
    rows = list(csv.reader(io.StringIO(to_csv(table))))
    assert rows[0][:4] == ["group", "system", "WER en", "WER en marks"]
    assert [row[1] for row in rows[1:]] == ["base", NASTY, "系統"]
    assert rows[2][2:4] == ["12.00", "best best_of_group insignificant"]
    assert rows[3][2:6] == ["", "", "7.00", ""]


def test_html_parses_and_says_intervals(table):
    page = Page()
    text = to_html(table, ["by_duration_wer.png"], "utterances.html")
    page.feed(text)
    assert page.open == []
    assert page.rows[0] == ["", "", "", "WER ↓"]
    assert page.rows[1] == ["", "en", "ja", "avg"]
    assert page.rows[2] == ["", "", "", "G"], "the group's name spans its rows"
    assert page.rows[4] == [NASTY, "12.00*", "–", "–"]
    assert page.titles[1] == (
        "95 % interval 10.00 to 13.00; 8 utterances; -0.50 against G/base (-1.50 to +0.50); "
        "p = 0.310 (bootstrap), 0.330 (randomization); wer|norm:none"
    )
    assert page.links == ["utterances.html", "by_duration_wer.png"]
    assert "<i>" not in text
    assert not re.search(r"https?://|<script|<link", text), "the page stands alone"


def test_html_says_nothing_of_intervals_that_there_are_not():
    nothing = Comparison("wer", 2.0, 1.0, *[math.nan] * 4)
    one = Result(
        ("", "a"), "wer", "en", 1.0, "%", False, utterances=3, interval=(math.nan, math.nan), comparison=nothing
    )
    assert 'title="3 utterances; "' in to_html(arrange([one]))


def test_json_has_everything_unrounded(table):
    contents = json.loads(to_json(table, DifferenceTest(samples=10), {("G", "base"): 4.0}))
    assert contents["resampling"] == {"by": "utterance", "samples": 10, "seed": 12345, "test": "bootstrap"}
    first, second, _ = contents["systems"]
    assert (first["compression"], first["baseline"], second["baseline"]) == (4.0, None, "G/base")
    (figure,) = second["figures"]
    assert (figure["value"], figure["low"], figure["high"], figure["utterances"]) == (12.0, 10.0, 13.0, 8)
    assert figure["against_baseline"] == {
        "difference": -0.5,
        "low": -1.5,
        "high": 0.5,
        "p_bootstrap": 0.31,
        "p_randomization": 0.33,
        "significant": False,
    }
    assert figure["marks"] == ["best", "best_of_group", "insignificant"]


def test_latex_escapes_what_means_something_to_it(table):
    assert escape_latex(NASTY) == (
        r"a\_b \& 50 \% of \textless{}i\textgreater{}"
        '"x"'
        r"\textless{}/i\textgreater{} \textbar{} $^*$"
        r"\{\textasciitilde{}\textasciicircum{}\textbackslash{}\#\$\}$^*$"
    )
    text = to_latex(table)
    tabular = text[text.index(r"\begin{tabular}") : text.index(r"\end{tabular}")]
    rows = [line for line in tabular.splitlines() if line.endswith(r"\\") and "multicolumn" not in line]
    assert {len(re.findall(r"(?<!\\)&", row)) for row in rows} == {3}, "every row has the columns of the head"
    assert r"\begin{tabular}{lrrr}" in text
    assert [text.count(rule) for rule in (r"\toprule", r"\midrule", r"\bottomrule", r"\cmidrule(lr){2-4}")] == [
        1,
        2,
        1,
        1,
    ]
    assert text.count("{") == text.count("}")


@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="LaTeX is not installed")
def test_latex_compiles(tmp_path):
    results = [Result(("G_1", name), "wer", "en", number) for number, name in enumerate((NASTY, "b ≥ c → d", "[5x5]"))]
    body = to_latex(arrange([*results, Result(("", "x"), "wer", "de", 1.0)]))
    document = rf"\documentclass{{article}}\usepackage{{booktabs}}\begin{{document}}{body}\end{{document}}"
    (tmp_path / "table.tex").write_text(document, encoding="utf-8")
    command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "table.tex"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stdout[-2000:]
    assert (tmp_path / "table.pdf").stat().st_size > 1000
