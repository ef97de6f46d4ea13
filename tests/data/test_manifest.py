"""Manifests: what is written is what is read, and a wrong row is named."""

import gzip
import json
import os
from dataclasses import replace

import pytest
import soundfile
from lhotse import CutSet

from speechllm.data.manifest import Tally, is_current, manifest_path, read_manifest, write_manifests
from speechllm.data.utterance import Utterance
from speechllm.errors import UserError
from tests.corpora.must_c import tone


class TwoSplits:
    """A corpus of generated clips."""

    name = "two_splits"
    version = "v1"

    def __init__(self, folder, names=("a", "b", "c")):
        self.folder = folder
        self.names = names
        for name in names:
            soundfile.write(folder / f"{name}.wav", tone(0.5), 16_000)
        (folder / "list.txt").write_text("\n".join(names))

    def splits(self):
        return ["train", "test"]

    def files(self):
        return [self.folder / "list.txt"]

    def options(self):
        return {"names": list(self.names)}

    def read(self, split, tally):
        tally.rejected["too short"] += 2
        for name in self.names if split == "train" else self.names[:1]:
            audio = str(self.folder / f"{name}.wav")
            yield Utterance(name, audio, 0.0, 0.5, "en", f"text of {name}\u2028", {"de": "Übung"}, corpus=self.name)


@pytest.fixture
def corpus(tmp_path):
    (tmp_path / "corpus").mkdir()
    return TwoSplits(tmp_path / "corpus")


@pytest.fixture
def folder(corpus, tmp_path):
    write_manifests(corpus, tmp_path / "manifests")
    return tmp_path / "manifests"


def rewrite(folder, change):
    """Change the decoded second row of the training manifest, or replace its text."""
    path = manifest_path(folder, "train")
    lines = gzip.open(path, "rt", encoding="utf-8").read().rstrip("\n").split("\n")
    row = json.loads(lines[1])
    changed = change(row)
    lines[1] = changed if isinstance(changed, str) else json.dumps(row)
    with gzip.open(path, "wt", encoding="utf-8") as file:
        file.write("\n".join(lines) + "\n")


def test_what_is_written_is_read_in_order(corpus, folder):
    assert list(read_manifest(folder, "train")) == list(corpus.read("train", Tally()))
    assert [cut.id for cut in CutSet.from_file(manifest_path(folder, "train"))] == ["a", "b", "c"]
    assert sorted(path.name for path in folder.iterdir()) == ["corpus.json", "test.jsonl.gz", "train.jsonl.gz"]


def test_summary_counts_and_names(folder):
    summary = json.loads((folder / "corpus.json").read_text(encoding="utf-8"))
    assert (summary["corpus"], summary["version"], summary["languages"]) == ("two_splits", "v1", ["de", "en"])
    train = summary["splits"]["train"]
    assert train["utterances"] == 3
    assert train["hours"] == pytest.approx(1.5 / 3600)
    assert train["rejected"] == {"too short": 2}


def test_manifests_are_stale_when_files_or_options_change(corpus, folder):
    assert is_current(corpus, folder)
    corpus.names = ("a", "b")
    assert not is_current(corpus, folder)
    corpus.names = ("a", "b", "c")
    assert is_current(corpus, folder)
    os.utime(corpus.folder / "list.txt", ns=(1, 1))
    assert not is_current(corpus, folder)
    write_manifests(corpus, folder)
    assert is_current(corpus, folder)
    manifest_path(folder, "test").unlink()
    assert not is_current(corpus, folder)


def test_failure_leaves_nothing_half_written(corpus, folder, monkeypatch):
    before = manifest_path(folder, "train").read_bytes()

    def fail(split, tally):
        yield Utterance("x", "x.wav", 0.0, 1.0, "en", "")
        raise UserError("a row is wrong")

    monkeypatch.setattr(corpus, "read", fail)
    with pytest.raises(UserError, match="a row is wrong"):
        write_manifests(corpus, folder)
    assert manifest_path(folder, "train").read_bytes() == before
    assert not list(folder.glob(".*"))
    assert not is_current(corpus, folder)


def test_folder_that_cannot_be_written(corpus, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"Cannot write manifests to .*file/manifests.*`manifest_dir`"):
        write_manifests(corpus, tmp_path / "file" / "manifests")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda row: row["supervisions"][0].update(language="xx"), "unknown language 'xx'"),
        (lambda row: row["supervisions"][0]["custom"]["translation"].update(dee=""), "unknown language 'dee'.*'de'"),
        (lambda row: row["recording"]["sources"][0].update(source="/no/b.wav"), "'/no/b.wav' of 'b' does not exist"),
        (lambda row: row.update(duration=0), "duration is 0.0 s"),
        (lambda row: row.update(id="a"), "'a' is already that of row 1"),
        (lambda row: row.pop("recording") and None, "'recording' is missing"),
        (lambda row: "", "the row is empty"),
        (lambda row: '{"id": ', "Expecting value"),
        (lambda row: "[1]", "not a cut"),
    ],
)
def test_wrong_rows_are_named_with_file_and_row(folder, change, message):
    rewrite(folder, change)
    with pytest.raises(UserError, match=rf"train\.jsonl\.gz, row 2: .*{message}"):
        list(read_manifest(folder, "train"))


def test_absent_split_and_broken_file(folder):
    with pytest.raises(UserError, match=r"split 'dev' at .*Splits there: test, train"):
        list(read_manifest(folder, "dev"))
    manifest_path(folder, "test").write_bytes(manifest_path(folder, "test").read_bytes()[:60])
    with pytest.raises(UserError, match=r"test\.jsonl\.gz, after row 0: .*Delete the file"):
        list(read_manifest(folder, "test"))


def test_regional_codes_are_known(corpus, folder, tmp_path, monkeypatch):
    (utterance,) = read_manifest(folder, "test")
    utterance = replace(utterance, source_language="sv-SE", translations={"zh-CN": "好"})
    monkeypatch.setattr(corpus, "read", lambda split, tally: iter([utterance]))
    write_manifests(corpus, folder)
    assert list(read_manifest(folder, "train")) == [utterance]
