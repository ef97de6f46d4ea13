"""LibriSpeech as it is on disk."""

import os
import shutil

import pytest
import soundfile

from speechllm.data.corpora.librispeech import PUBLISHED, LibriSpeech, LibriSpeechDataModule
from speechllm.data.manifest import Tally
from speechllm.errors import UserError
from tests.corpora.librispeech import PARTS, write_fake, write_part

TRAIN = ["train-clean-100", "train-clean-360", "train-other-500"]
CHAPTER = "LibriSpeech/train-clean-100/103/1240"
TEST_CHAPTER = "LibriSpeech/test-clean/61/70968"


@pytest.fixture
def root(tmp_path):
    write_fake(tmp_path)
    return tmp_path


def corpus(root, train=TRAIN, dev=("dev-clean",), test=("test-clean", "test-other"), **options):
    return LibriSpeech(root, list(train), list(dev), list(test), **options)


def read(reader, split="train"):
    tally = Tally()
    return list(reader.read(split, tally)), tally


def test_utterances_are_those_of_the_parts_in_order(root):
    utterances, tally = read(corpus(root))
    wanted = [utterance for part in TRAIN for utterance in PARTS[part]]
    assert [(found.id, found.duration_s, found.transcript) for found in utterances] == wanted
    assert [found.speaker for found in utterances] == ["103", "103", "1034", "14", "20", "20"]
    assert {(found.source_language, found.corpus, found.sampling_rate) for found in utterances} == {
        ("en", "librispeech", 16_000)
    }
    assert all(os.path.isabs(found.audio) and os.path.isfile(found.audio) for found in utterances)
    assert (tally.rejected, tally.changed) == ({}, {})


def test_each_test_part_is_a_set_of_its_own(root):
    reader = corpus(root, test=["test-other", "dev-other"])
    assert reader.splits() == ["train", "dev", "test-other", "dev-other"]
    assert [found.id for found in read(reader, "dev-other")[0]] == ["116-288045-0000"]
    assert [found.id for found in read(reader, "test-other")[0]] == ["1688-142285-0000"]


def test_dev_may_be_both_parts(root):
    names = [found.id for found in read(corpus(root, dev=["dev-clean", "dev-other"]), "dev")[0]]
    assert names == ["84-121123-0000", "84-121550-0000", "116-288045-0000"]


@pytest.mark.parametrize("below", ["", "LibriSpeech"])
def test_root_is_the_folder_of_the_parts_or_the_one_above(root, below):
    assert corpus(root / below).splits() == ["train", "dev", "test-clean", "test-other"]
    assert len(corpus(root / below).files()) == 8


def test_transcripts_may_be_lower_case(root):
    assert read(corpus(root, clean_transcripts=["lowercase"]))[0][2].transcript == "i'd better go"


def test_published_counts_are_those_of_whole_splits(root):
    assert corpus(root).published() == {"train": 281_241, "dev": 2_703, "test-clean": 2_620, "test-other": 2_939}
    write_part(root / "LibriSpeech/train-clean-5", PARTS["dev-clean"])
    mini = corpus(root, train=["train-clean-5"], dev=["dev-other"], test=[])
    assert mini.published() == {"dev": 2_864}
    assert [found.id for found in read(mini)[0]] == ["84-121123-0000", "84-121550-0000"]
    assert sum(PUBLISHED.values()) == 292_367


def test_line_without_audio_is_counted(root):
    (root / CHAPTER / "103-1240-0001.flac").unlink()
    utterances, tally = read(corpus(root))
    assert "103-1240-0001" not in {found.id for found in utterances}
    assert tally.rejected == {"clip is missing, empty or damaged": 1}


def test_audio_without_line_is_counted(root):
    (root / CHAPTER / "103-1240.trans.txt").write_text("103-1240-0001 ONE\n", encoding="utf-8")
    (root / CHAPTER / "notes.txt").touch()
    utterances, tally = read(corpus(root))
    assert [found.id for found in utterances][:2] == ["103-1240-0001", "1034-121119-0000"]
    assert tally.rejected == {"audio without a line in trans.txt": 1}
    (root / CHAPTER / "103-1240.trans.txt").unlink()
    assert read(corpus(root))[1].rejected == {"audio without a line in trans.txt": 2}


def test_test_sets_keep_their_size(root):
    (root / TEST_CHAPTER / "61-70968.trans.txt").write_text("61-70968-0001 GIVE\n", encoding="utf-8")
    (root / TEST_CHAPTER / "61-70968-0001.flac").write_bytes(b"")
    utterances, tally = read(corpus(root), "test-clean")
    assert [(found.id, found.transcript, found.duration_s) for found in utterances] == [
        ("61-70968-0001", "GIVE", 1 / 16_000),
        ("61-70968-0000", "", 0.7),
    ]
    assert not tally.rejected
    assert tally.changed == {
        "audio without a line in trans.txt, and with an empty reference": 1,
        "clip is missing, empty or damaged, and counts as silence": 1,
    }


@pytest.mark.parametrize("damage", [b"", b"fLaC\0\0", b"\0" * 200, b"<html>404</html>"])
def test_damaged_audio_is_counted(root, damage):
    (root / CHAPTER / "103-1240-0000.flac").write_bytes(damage)
    assert read(corpus(root))[1].rejected == {"clip is missing, empty or damaged": 1}


def test_audio_may_be_converted_to_wav(root):
    flac = root / CHAPTER / "103-1240-0000.flac"
    samples, rate = soundfile.read(flac)
    soundfile.write(flac.with_suffix(".wav"), samples, rate)
    flac.unlink()
    utterance = read(corpus(root))[0][0]
    assert (utterance.id, utterance.duration_s) == ("103-1240-0000", 0.4)
    assert utterance.audio.endswith("103-1240-0000.wav")


def test_line_ends_of_windows_and_empty_texts_are_read(root):
    (root / CHAPTER / "103-1240.trans.txt").write_bytes(b"103-1240-0000 ONE\r\n103-1240-0001\r\n")
    assert [found.transcript for found in read(corpus(root))[0]][:2] == ["ONE", ""]


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (b"103-1240-0000 ONE\n\n103-1240-0001 TWO\n", r"line 2: the line must begin with .*'103-1240-0000', but is ''"),
        (b"103-1240-0000 ONE\n40-0001 TWO\n", r"line 2: the line must begin with .* but is '40-0001 TWO'"),
        (b"84-121123-0000 GO\n", r"line 1: the line must begin with"),
        (b"103-1240-0000 ONE\n" + b"\0" * 60, r"line 2: the line must begin with"),
        (b"103-1240-0000 O\0E\n", r"line 1: the line holds a NUL character"),
        (b"103-1240-0000 ONE\n103-1240-0000 TWO\n", r"line 2: the line names the utterance '103-1240-0000' again"),
        (b"103-1240-0000\tONE\n", r"line 1: the line must begin with"),
        (b"103-1240-0000 \xff\n", "is not UTF-8"),
    ],
)
def test_wrong_lines_are_named(root, lines, message):
    (root / CHAPTER / "103-1240.trans.txt").write_bytes(lines)
    with pytest.raises(UserError, match=r"103-1240\.trans\.txt.*" + message):
        read(corpus(root))


def test_missing_parts_are_named(root):
    shutil.rmtree(root / "LibriSpeech/train-clean-360")
    with pytest.raises(
        UserError, match=r"'train-clean-360' of LibriSpeech is not in .*holds: dev-clean, dev-other, .*"
    ):
        corpus(root).splits()
    assert corpus(root, train=["train-clean-100", "train-other-500"]).splits()[0] == "train"
    for part in ("train-clean-100", "train-other-500", "test-other"):
        shutil.rmtree(root / f"LibriSpeech/{part}")
    assert corpus(root).splits() == ["dev", "test-clean"]
    with pytest.raises(UserError, match=r"'train-claen-100' .* Did you mean 'train-clean-100'\?"):
        corpus(root, train=["train-claen-100"]).splits()
    with pytest.raises(UserError, match=r"No LibriSpeech in .*nowhere.*train-clean-100, .*'LibriSpeech' below"):
        corpus(root / "nowhere").splits()


def test_empty_part_is_named(root):
    shutil.rmtree(root / "LibriSpeech/dev-clean")
    (root / "LibriSpeech/dev-clean").mkdir()
    with pytest.raises(UserError, match=r"The part 'dev-clean' of LibriSpeech in .* is empty"):
        read(corpus(root), "dev")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"clean_transcripts": ["lowercas"]}, r"cleaner of transcripts 'lowercas'\. Did you mean 'lowercase'"),
        ({"train": ["train-clean-100"] * 2}, "parts of train must be named once each"),
        ({"test": ["dev"]}, "is a part such as 'test-clean', not 'train' or 'dev'"),
    ],
)
def test_wrong_options_are_refused(root, options, message):
    with pytest.raises(UserError, match=message):
        corpus(root, **options)


def test_selections_have_manifests_of_their_own(root):
    options = [
        {},
        {"clean_transcripts": ["lowercase"]},
        {"train": ["train-clean-100"]},
        {"test_splits": ["test-clean"]},
    ]
    folders = {LibriSpeechDataModule(str(root), **some).manifest_dir for some in options}
    assert len(folders) == 4
    assert {folder.parent for folder in folders} == {root / "manifests"}
