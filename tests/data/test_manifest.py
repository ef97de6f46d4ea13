"""Manifests: what is written is what is read, and a wrong row is named."""

import gzip
import json
import os
import pickle
from dataclasses import replace

import numpy as np
import pytest
import soundfile
from lhotse import CutSet

from speechllm.data.index import id_hash
from speechllm.data.manifest import (
    Tally,
    index_path,
    is_current,
    manifest_path,
    open_manifest,
    read_manifest,
    write_manifests,
)
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
    written = [f"{split}.{end}" for split in ("test", "train") for end in ("index.npz", "jsonl.gz")]
    assert sorted(path.name for path in folder.iterdir()) == ["corpus.json", *written]


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
        (lambda row: row.update(duration=0), "duration is 0.0 s"),
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


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"source_language": "xx"}, "unknown language 'xx'"),
        ({"translations": {"dee": ""}}, "unknown language 'dee'.*'de'"),
        ({"id": "a"}, "'a' is already that of row 1"),
        ({"duration_s": 0.0}, "the duration above 0"),
        ({"offset_s": -1.0}, "begins at -1.0 s"),
    ],
)
def test_utterances_that_cannot_be_are_not_written(corpus, folder, monkeypatch, change, message):
    good = list(corpus.read("train", Tally()))
    monkeypatch.setattr(corpus, "read", lambda split, tally: iter([good[0], replace(good[1], **change)]))
    with pytest.raises(UserError, match=rf"train\.jsonl\.gz, row 2: .*{message}"):
        write_manifests(corpus, folder)


class Many(TwoSplits):
    """A corpus of more utterances than a block of the manifest holds, in two languages."""

    def read(self, split, tally):
        audio = str(self.folder / "a.wav")
        for number in range(100):
            translations = {"de": f"Nummer {number}"} if number % 2 else {"fr": "", "de": "x"}
            language = "en" if number % 5 else "es"
            yield Utterance(f"u{number}", audio, 0.1, 0.1 + number / 1000, language, "ab " * (number % 3), translations)


@pytest.fixture
def many(tmp_path):
    (tmp_path / "many").mkdir()
    write_manifests(Many(tmp_path / "many"), tmp_path / "many" / "manifests")
    return tmp_path / "many" / "manifests"


def test_rows_are_read_one_by_one_and_from_other_processes(many):
    manifest, everyone = open_manifest(many, "train"), list(read_manifest(many, "train"))
    assert len(manifest) == len(everyone) == 100
    assert [manifest[row] for row in (99, 0, 31, 32, 63, 64, 5)] == [
        everyone[row] for row in (99, 0, 31, 32, 63, 64, 5)
    ]
    assert pickle.loads(pickle.dumps(manifest))[50] == everyone[50]


def test_index_says_what_rows_hold(many):
    index = open_manifest(many, "train").index
    assert index.durations_s.tolist() == [0.1 + number / 1000 for number in range(100)]
    assert index.transcript_chars.tolist() == [(0, 2, 5)[number % 3] for number in range(100)]
    assert index.translation_column("fr").tolist() == [-1 if number % 2 else 0 for number in range(100)]
    assert index.translation_column("it").tolist() == [-1] * 100
    assert index.translation_column("de").tolist()[:2] == [1, 8]
    assert index.targets() == ["fr", "de"]
    assert index.languages_held() == ["de", "en", "es", "fr"]
    assert index.languages[index.sources].tolist()[:6] == ["es", "en", "en", "en", "en", "es"]
    assert index.ids[7] == id_hash("u7")


def test_manifest_that_changed_or_whose_index_is_gone(many):
    path = manifest_path(many, "train")
    content = path.read_bytes()
    path.write_bytes(content + b"x")
    with pytest.raises(UserError, match=r"train.jsonl.gz' has \d+ bytes, and \d+ when it was written"):
        open_manifest(many, "train")
    path.write_bytes(content[:500] + b"x" * 20 + content[520:])
    with pytest.raises(UserError, match=r"train.jsonl.gz'?, row \d+"):
        [open_manifest(many, "train")[row] for row in range(100)]
    path.write_bytes(content)
    for broken in (b"", b"PK", index_path(many, "train").read_bytes()[:-30]):
        index_path(many, "train").write_bytes(broken)
        with pytest.raises(UserError, match=r"index.npz' .*[Pp]repare the corpus anew"):
            open_manifest(many, "train")


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("ids", None, "ids is not a file in the archive"),
        ("ids", lambda array: array[:-1], r"'ids' is an array of \(99,\) uint64"),
        ("durations_s", lambda array: array[:, None], r"'durations_s' is an array of \(100, 1\) float64"),
        ("durations_s", lambda array: np.array(7.0), r"'durations_s' is an array of \(\) float64"),
        ("sources", lambda array: array.astype("U8"), r"'sources' is an array of \(100,\) <U8"),
        ("sources", lambda array: array + 5, "'sources' names languages that are not there"),
        ("sources", lambda array: array - 5, "'sources' names languages that are not there"),
        ("translation_chars", lambda array: array[:, :1], r"'translation_chars' is an array of \(100, 1\) int32"),
        ("languages", lambda array: np.array(["en"]), "'translation_chars' is an array of"),
        ("languages", lambda array: array.astype(object), "Object arrays cannot be loaded"),
        ("blocks", lambda array: array[:-1], r"'blocks' is an array of \(4,\) int64"),
        ("blocks", lambda array: array[::-1], "'blocks' does not rise from 0"),
    ],
)
def test_an_index_whose_arrays_do_not_go_together_is_refused(many, name, change, message):
    path = index_path(many, "train")
    arrays = dict(np.load(path))
    if change is None:
        del arrays[name]
    else:
        arrays[name] = change(arrays[name])
    np.savez(path, **arrays)
    with pytest.raises(UserError, match=rf"train\.index\.npz' cannot be read: .*{message}.* Prepare the corpus anew"):
        open_manifest(many, "train")


def test_rows_are_those_of_the_index(many):
    path = index_path(many, "train")
    arrays = dict(np.load(path))
    np.savez(path, **arrays | {"ids": np.roll(arrays["ids"], 1)})
    with pytest.raises(UserError, match=r"train\.jsonl\.gz', row 5: the utterance 'u4' is not the one of its index"):
        open_manifest(many, "train")[4]


def test_manifests_that_nobody_reads_are_closed(folder):
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(5):
        assert open_manifest(folder, "train")[0].transcript
    assert len(os.listdir("/proc/self/fd")) <= before


def test_text_comes_in_nfc_but_for_references(tmp_path):
    decomposed = "u\u0308ber"

    class Decomposed(TwoSplits):
        def read(self, split, tally):
            yield Utterance("a", str(self.folder / "a.wav"), 0.0, 0.5, "de", decomposed, {"en": decomposed})

    (tmp_path / "corpus").mkdir()
    summary = write_manifests(Decomposed(tmp_path / "corpus"), tmp_path / "manifests")
    assert summary["train"].changed == {"text brought to Unicode NFC": 1}
    (train,), (test,) = (list(read_manifest(tmp_path / "manifests", split)) for split in ("train", "test"))
    assert (train.transcript, train.translations) == ("über", {"en": "über"})
    assert (test.transcript, test.translations) == ("über", {"en": decomposed})


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
