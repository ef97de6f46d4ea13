"""The file of the page: whole, safe against what texts hold, and the same each time."""

import json
import re

import pytest

from speechllm.errors import UserError
from speechllm.evaluation.page.page import write_page
from speechllm.evaluation.systems import System
from tests.evaluation.page.systems import EVIL, make_systems
from tests.evaluation.predicted import predicted

SPECS = [{"name": "wer"}, {"name": "chrf"}]


def data_of(path):
    text = path.read_text(encoding="utf-8")
    return json.loads(re.search(r'<script type="application/json" id="data">(.*?)</script>', text, re.DOTALL)[1])


def test_one_file_with_everything_inside(tmp_path):
    path = write_page(tmp_path / "new" / "folder", make_systems(tmp_path), SPECS, baseline="fair")
    assert [found.name for found in path.parent.iterdir()] == ["utterances.html"]
    text = path.read_text(encoding="utf-8")
    assert re.findall(r"<(?:link|img|iframe)\b|<script [^>]*src", text) == []
    assert re.findall(r"https?://", text) == []
    assert text.count("{{") == text.count("{{script}}") == 3, "in the texts of one utterance and its speaker alone"
    data = data_of(path)
    assert data["head"]["systems"] == ["good", "fair", "poor"]
    assert data["head"]["baseline"] == 1
    assert [row[0] for row in data["rows"]][:5] == ["u0", "u1", "u2", "u3", "u4"]


def test_texts_cannot_end_the_element_that_they_stand_in(tmp_path):
    path = write_page(tmp_path, make_systems(tmp_path), SPECS)
    text = path.read_text(encoding="utf-8")
    assert len(re.findall("<script", text, re.IGNORECASE)) == 2
    assert len(re.findall("</script", text, re.IGNORECASE)) == 2
    assert re.findall("<!--|<img|\u2028|\u2029", text) == []
    assert data_of(path)["rows"][5][0] == f"evil {EVIL}"


def test_names_of_systems_are_escaped(tmp_path):
    path = write_page(tmp_path, [System("</title><b>", [predicted(0)], group="a&b")], SPECS)
    text = path.read_text(encoding="utf-8")
    assert "<title>Utterances of a&amp;b/&lt;/title&gt;&lt;b&gt;</title>" in text
    assert data_of(path)["head"]["systems"] == ["a&b/</title><b>"]


def test_half_a_surrogate_pair_is_written(tmp_path):
    path = write_page(tmp_path, [System("a", [predicted(0, hypothesis_transcript="one \ud83d four")])], SPECS)
    assert data_of(path)["rows"][0][8] == ["one \ud83d four"]


def test_the_policy_allows_the_page_its_own_program_alone(tmp_path):
    text = write_page(tmp_path, make_systems(tmp_path), SPECS).read_text(encoding="utf-8")
    policy = re.search(r'http-equiv="Content-Security-Policy" content="([^"]*)"', text)[1]
    assert policy.startswith("default-src 'none'; style-src 'sha256-")
    assert "unsafe" not in policy


def test_a_page_is_written_the_same_again(tmp_path):
    systems = make_systems(tmp_path)
    first = write_page(tmp_path, systems, SPECS).read_bytes()
    assert write_page(tmp_path, systems, SPECS).read_bytes() == first


@pytest.mark.parametrize(("baseline", "number"), [(None, 0), ("b", 1), ("large/b", 2), ("large/c", 3), ("c", 3)])
def test_baseline_by_name_or_by_group_and_name(tmp_path, baseline, number):
    systems = [
        System("a", [predicted(0)]),
        System("b", [predicted(0)], group="small"),
        System("b", [predicted(0)], group="large"),
        System("c", [predicted(0)], group="large"),
    ]
    assert data_of(write_page(tmp_path, systems, SPECS, baseline))["head"]["baseline"] == number


def test_wrong_input(tmp_path):
    with pytest.raises(UserError, match=r"no system 'fare' to be the baseline\. Did you mean 'fair'\? Systems: good, "):
        write_page(tmp_path, make_systems(tmp_path), SPECS, baseline="fare")
    with pytest.raises(UserError, match="at least one system"):
        write_page(tmp_path, [], SPECS)
    assert not (tmp_path / "utterances.html").exists()
