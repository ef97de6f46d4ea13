"""MLC-SLM as it is on disk, quirk by quirk."""

import shutil
from collections import Counter
from pathlib import Path

import pytest

from speechllm.data.corpora.mlc_slm import MlcSlm, MlcSlmDataModule
from speechllm.data.manifest import Tally
from speechllm.data.reading.text import mlc_slm
from speechllm.errors import UserError
from tests.corpora.mlc_slm import SPLITS, write_fake, write_recording


@pytest.fixture
def root(tmp_path):
    write_fake(tmp_path)
    return tmp_path


def read(root, split="train", **options):
    tally = Tally()
    return list(MlcSlm(root, **options).read(split, tally)), tally


def read_lines(root, lines, split="train", **options):
    """Write one recording of 2 s and return what its list gives."""
    write_recording(root / split.replace("official-", "") / "Thai/0001_001", lines)
    return read(root, split, **options)


@pytest.mark.parametrize("split", ["train", "dev", "official-dev", "test"])
def test_utterances_are_those_of_the_baseline(root, split):
    utterances, tally = read(root, split)
    wanted = SPLITS[split.removeprefix("official-")]
    assert [found.id for found in utterances] == [row[0] for row in wanted]
    assert [found.duration_s for found in utterances] == pytest.approx([row[1] for row in wanted], abs=1e-9)
    assert [found.source_language for found in utterances] == [row[2] for row in wanted]
    assert [found.transcript for found in utterances] == [row[3] for row in wanted]
    assert {found.recording_duration_s for found in utterances} == {2.0}
    assert tally.rejected == {}
    assert tally.changed == ({"no text, and with an empty reference": 3} if split == "test" else {})


def test_categories_are_corpora_and_speakers_belong_to_a_recording(root):
    utterances, _ = read(root)
    assert [found.corpus for found in utterances[2:6]] == [
        *("mlc_slm.English-American", "mlc_slm.English-American", "mlc_slm.French", "mlc_slm.Thai")
    ]
    assert utterances[3].speaker == "English-American-0501-0501_002-O1"
    assert len({found.speaker for found in utterances}) == 6


def test_segments_of_both_speakers_overlap(root):
    first, second, _ = read(root)[0][:3]
    assert (first.audio, first.offset_s + first.duration_s) == (second.audio, 0.74)
    assert second.offset_s == 0.6


def test_categories_may_be_chosen(root):
    reader = MlcSlm(root, ["French", "Thai"])
    assert reader.splits() == ["train", "dev", "official-dev", "test"]
    assert [found.corpus for found in read(root, categories=["French", "Thai"])[0]] == [
        *("mlc_slm.French", "mlc_slm.Thai", "mlc_slm.Thai")
    ]
    assert len(reader.files()) == 4
    assert MlcSlm(root, ["French"]).splits() == ["train"]


@pytest.mark.parametrize(
    ("path", "category", "language"),
    [
        ("English/British/0500/0500_001", "English-British", "en"),
        ("English-British/0500_001", "English-British", "en"),
        ("English-AN4/train_00", "English-AN4", "en"),
        ("Japanese/phone/0600_001", "Japanese-phone", "ja"),
        ("French/Canada/0600_001", "French-Canada", "fr"),
        ("Vietnamese/0600", "Vietnamese", "vi"),
    ],
)
def test_categories_are_the_folders_that_have_no_number(tmp_path, path, category, language):
    write_recording(tmp_path / "dev" / path, ["0.5 1.0 O1 hello"])
    (utterance,) = read(tmp_path, "dev")[0]
    assert utterance.id == f"{path.replace('/', '-')}-O1-000050-000100"
    assert (utterance.corpus, utterance.source_language) == (f"mlc_slm.{category}", language)


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("Hello, World!", "hello world"),
        ("It's a well-known FACT.", "it's a well-known fact"),
        ("3.5 % of $1,000", "35 of 1000"),
        ("¿Qué? ¡Sí!", "qué sí"),
        ("今日は、いい天気ですね。", "今日はいい天気ですね"),
        ("カッター・ナイフ，本当？！", "カッターナイフ本当"),
        ("""!"#$%&()*+,./:;<=>?@[\\]^_`{|}~。、？！・¿¡，""", ""),
        ("'-«»“”—", "'-«»“”—"),
        (" a \t b\u3000c ", "a b c"),
        ("", ""),
    ],
)
def test_normalised_as_by_the_baseline(text, wanted):
    assert mlc_slm(text) == wanted
    assert mlc_slm(wanted) == wanted


def test_transcripts_may_stay_as_they_are_but_for_white_space(root):
    texts = [found.transcript for found in read(root, clean_transcripts=[])[0]]
    assert texts[:3] == ["Hi, Will.", "Uh-huh; it's \u201con\u201d.", "I paid $3.50!"]


def test_transcripts_of_punctuation_alone_are_counted(tmp_path):
    utterances, tally = read_lines(tmp_path, ["0.1 0.5 O1 ...", "0.6 0.9 O1 ... ja"])
    assert [found.transcript for found in utterances] == ["", "ja"]
    assert tally.changed == {"the transcript is punctuation alone, and became empty": 1}


def test_ids_that_truncation_makes_equal_get_a_number(tmp_path):
    # round(0.285, 2) * 100 and 0.29 * 100 are both below 29.
    lines = ["0.29 0.57 O1 one", "0.28 0.57 O1 two", "0.28 0.57 O2 three", "0.28 0.57 O1 four"]
    utterances, tally = read_lines(tmp_path, lines, "dev")
    name = "Thai-0001_001-{}-000028-000056"
    assert [found.id for found in utterances] == [
        *(name.format("O1"), f"{name.format('O1')}-2", name.format("O2"), f"{name.format('O1')}-3")
    ]
    assert [found.offset_s for found in utterances] == [0.29, 0.28, 0.28, 0.28]
    assert tally.changed == {"the id is that of another segment, and got a number": 2}


def test_fields_are_divided_by_any_white_space(tmp_path):
    lines = ["\ufeff0.1\t0.5\tO1\ta  b\r", "", "  0.6 0.9   O2 c\td\u3000e\u00a0f\rg", "\t\r"]
    utterances, tally = read_lines(tmp_path, lines)
    assert [(found.offset_s, found.transcript) for found in utterances] == [(0.1, "a b"), (0.6, "c d e f g")]
    assert (tally.rejected, tally.changed) == ({}, {})


WRONG = [
    ("0.1 0.5", "fewer than 3 fields"),
    ("damaged", "fewer than 3 fields"),
    ("a 0.5 O1 text", "start or end is not a number of seconds"),
    ("0.1 nan O1 text", "start or end is not a number of seconds"),
    ("-0.1 0.5 O1 text", "start or end is not a number of seconds"),
    ("0.1 inf O1 text", "start or end is not a number of seconds"),
    ("0.1 0.5 O1 te\0xt", "a NUL character"),
]


@pytest.mark.parametrize(("line", "reason"), WRONG)
def test_lines_that_are_none_are_counted_and_named_in_a_test_set(tmp_path, line, reason):
    for split in ("train", "dev"):
        utterances, tally = read_lines(tmp_path, ["0.1 0.5 O1 a", line, "0.6 0.9 O1 b"], split)
        assert [found.transcript for found in utterances] == ["a", "b"]
        assert tally.rejected == {reason: 1}
    for split in ("official-dev", "test"):
        with pytest.raises(UserError, match=rf"0001_001\.txt, line 2: {reason}.* A test set must be whole"):
            read_lines(tmp_path, ["0.1 0.5 O1 a", line], split)


def test_lines_without_text_stay_in_test_sets_alone(tmp_path):
    lines = ["0.1 0.5 O1", "0.6 0.9 O2 text"]
    for split, count in (("train", 1), ("dev", 1), ("official-dev", 2), ("test", 2)):
        utterances, tally = read_lines(tmp_path, lines, split)
        assert len(utterances) == count
        assert tally.rejected == ({"no text": 1} if count == 1 else {})
        assert tally.changed == ({} if count == 1 else {"no text, and with an empty reference": 1})


def test_segments_are_cut_at_the_end_and_of_no_length_left_out(tmp_path):
    lines = ["1.5 2.5 O1 cut", "2.0 2.5 O1 beyond", "0.7 0.7 O1 none", "0.9 0.8 O1 backwards", "0.1 0.2 O2 right"]
    utterances, tally = read_lines(tmp_path, lines)
    assert [(found.transcript, found.duration_s) for found in utterances] == [("cut", 0.5), ("right", 0.1)]
    assert tally.rejected == {"stretch of no length, or past the end of the audio": 3}
    assert tally.changed == {"cut at the end of the audio": 1}
    utterances, tally = read_lines(tmp_path, lines, "test")
    sample_s = 1 / 16_000
    assert [found.duration_s for found in utterances] == [0.5, sample_s, sample_s, sample_s, 0.1]
    assert not tally.rejected


@pytest.mark.parametrize("damage", [None, b"", b"RIFF\0\0"])
def test_recordings_that_cannot_be_read(root, damage):
    for part in ("MLC-SLM_Workshop-Training_Set_2/data/French/0700/0700_003", "test/Thai/0901_001"):
        path = root / f"{part}.wav"
        path.write_bytes(damage) if damage is not None else path.unlink()
    utterances, tally = read(root)
    assert len(utterances) == 6
    assert tally.rejected == {"audio is missing, empty or damaged": 1}
    utterances, tally = read(root, "test")
    assert [found.duration_s for found in utterances] == [0.5, 0.6, 1 / 16_000]
    assert not tally.rejected


def test_recordings_without_a_list_are_counted_in_train_and_named_in_a_test_set(root):
    for part in ("MLC-SLM_Workshop-Training_Set_2/data/French/0700/0700_003", "test/Thai/0901_001"):
        (root / f"{part}.txt").unlink()
    utterances, tally = read(root)
    assert len(utterances) == 6
    assert tally.rejected == {"recording without a list of segments": 1}
    with pytest.raises(UserError, match=r"0901_001\.wav: recording without a list of segments\. A test set must be"):
        read(root, "test")
    with pytest.raises(UserError, match=r"No recording of MLC-SLM's split 'train' .* has a list of segments"):
        read(root, categories=["French"])


def test_lists_without_a_line_are_counted_in_train_and_named_in_a_test_set(root):
    for part in ("MLC-SLM_Workshop-Training_Set_2/data/French/0700/0700_003", "test/Thai/0901_001"):
        (root / f"{part}.txt").write_bytes(b"\n")
    utterances, tally = read(root)
    assert len(utterances) == 6
    assert tally.rejected == {"list without a segment": 1}
    with pytest.raises(UserError, match=r"0901_001\.txt: list without a segment\. A test set must be whole"):
        read(root, "test")


@pytest.mark.parametrize("odd", ["\r", "\u0085", "\x1e", "\u3000"])
def test_odd_white_space_divides_no_fields(root, odd):
    path = root / "test/Thai/0901_001.txt"
    path.write_text(f"0{odd}.2\t0.5\tO1\n", encoding="utf-8", newline="\n")
    with pytest.raises(UserError, match=r"0901_001\.txt, line 1: start or end is not a number"):
        read(root, "test")
    path.write_text(f"0.2 \t0.5\tO1  so{odd}it {odd} is \t{odd}\n", encoding="utf-8", newline="\n")
    (*_, last), _ = read(root, "test")
    assert (last.id, last.transcript) == ("Thai-0901_001-O1-000020-000050", "so it is")


def test_a_time_in_the_place_of_the_speaker_is_a_row_gone_wrong(root):
    path = root / "test/Thai/0901_001.txt"
    path.write_text("0\t2\t0.5\tO1\n")
    with pytest.raises(UserError, match=r"0901_001\.txt, line 1: a time in the place of the speaker"):
        read(root, "test")


def test_a_list_that_nothing_ends_is_counted(root):
    path = root / "MLC-SLM_Workshop-Training_Set_2/data/French/0700/0700_003.txt"
    path.write_bytes(path.read_bytes()[:-9])
    assert read(root)[1].changed == {"no line feed ends a list of segments, which may be cut off": 1}


@pytest.mark.parametrize("place", ["train", "train_data", "data", "MLC-SLM_Workshop-Training_Set_1/data"])
def test_the_training_set_is_found(tmp_path, place):
    write_recording(tmp_path / place / "Thai/0001_001", ["0.1 0.5 O1 a"])
    assert MlcSlm(tmp_path).splits() == ["train"]
    assert [found.id for found in read(tmp_path)[0]] == ["Thai-0001_001-O1-000010-000050"]


def test_parts_may_be_named(root):
    (root / "test").rename(root / "Eval_1")
    assert MlcSlm(root).splits() == ["train", "dev", "official-dev"]
    places = {"test": "Eval_1", "train": "MLC-SLM_Workshop-Training_Set_2"}
    assert MlcSlm(root, places=places).splits() == ["train", "dev", "official-dev", "test"]
    assert [found.corpus for found in read(root, places=places)[0]] == ["mlc_slm.French"]
    with pytest.raises(UserError, match=r"The folder of `dev`, '.*Dev', does not exist"):
        MlcSlm(root, places={"dev": "Dev"}).splits()


def test_the_same_recording_in_two_archives_is_named(root):
    data = "MLC-SLM_Workshop-Training_Set_{}/data"
    shutil.copytree(root / data.format(2), root / data.format(3))
    with pytest.raises(UserError, match=r"'French-0700-0700_003' is both '.*Set_2.*' and '.*Set_3.*0700_003\.wav'"):
        read(root)


def write_conversations(root, category, count):
    """Write conversations of 0.9 s in two recordings each."""
    for number in range(count):
        for part in (1, 2):
            write_recording(root / f"train/{category}/{number:04d}/{number:04d}_{part:03d}", ["0.1 0.45 O1 a"])


def test_whole_conversations_are_held_out(tmp_path):
    for category in ("Thai", "French"):
        write_conversations(tmp_path, category, 10)
    write_recording(tmp_path / "dev/Thai/0001_001", ["0.1 0.5 O1 official"])
    options = {"held_out_hours": 2 / 3600}
    assert MlcSlm(tmp_path, **options).splits() == ["train", "dev", "official-dev"]
    conversations = {
        split: Counter(
            (found.corpus.split(".")[1], Path(found.audio).stem.split("_")[0])
            for found in read(tmp_path, split, **options)[0]
        )
        for split in ("train", "dev")
    }
    assert Counter(category for category, _ in conversations["dev"]) == {"Thai": 3, "French": 3}
    assert Counter(category for category, _ in conversations["train"]) == {"Thai": 7, "French": 7}
    assert set(conversations["dev"].values()) == set(conversations["train"].values()) == {2}
    assert conversations["dev"].keys().isdisjoint(conversations["train"])
    assert {number for category, number in conversations["dev"] if category == "Thai"} != {
        number for category, number in conversations["dev"] if category == "French"
    }
    assert [found.transcript for found in read(tmp_path, "official-dev", **options)[0]] == ["official"]
    assert len(read(tmp_path)[0]) == 40


def test_too_little_to_hold_out(tmp_path):
    write_conversations(tmp_path, "Thai", 3)
    with pytest.raises(UserError, match=r"Thai of MLC-SLM has 0\.00 h in 3 conversations .* to hold out 2 h"):
        read(tmp_path, held_out_hours=2.0)


def test_what_is_missing_or_in_the_wrong_place_is_named(root):
    with pytest.raises(UserError, match=r"No MLC-SLM in '.*nowhere': looked for 'train', 'train_data'"):
        MlcSlm(root / "nowhere").splits()
    with pytest.raises(UserError, match=r"no category 'English-Amercan'\. Did you mean 'English-American'\? It has:"):
        MlcSlm(root, ["English-Amercan"]).splits()
    write_recording(root / "test/0001_001", ["0.1 0.5 O1"])
    with pytest.raises(UserError, match=r"test/0001_001\.wav' lies in no folder of a category"):
        MlcSlm(root).splits()


def test_category_of_an_unknown_language_is_named(tmp_path):
    write_recording(tmp_path / "train/Spanisch/0001_001", ["0.1 0.5 O1 a"])
    with pytest.raises(UserError, match=r"category 'Spanisch' in .* language 'Spanisch'\. Did you mean 'es'"):
        MlcSlm(tmp_path).splits()


def test_list_that_is_not_utf8_is_named(tmp_path):
    write_recording(tmp_path / "train/Thai/0001_001", ["0.1 0.5 O1 a"])
    (tmp_path / "train/Thai/0001_001.txt").write_bytes(b"0.1 0.5 O1 \xff\n")
    with pytest.raises(UserError, match=r"0001_001\.txt' is not UTF-8"):
        read(tmp_path)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"categories": []}, "at least one category"),
        ({"categories": ["Thai", "Thai"]}, "each once"),
        ({"held_out_hours": -1.0}, "`held_out_hours` must be at least 0, but is -1"),
        ({"test_splits": ["dev"]}, r"test set 'dev' of MLC-SLM\. Known: official-dev, test\."),
        ({"test_splits": ["oficial-dev"]}, r"test set 'oficial-dev' of MLC-SLM\. Did you mean 'official-dev'\?"),
    ],
)
def test_wrong_options_are_refused(root, options, message):
    with pytest.raises(UserError, match=message):
        MlcSlmDataModule(str(root), **options)


def test_selections_have_manifests_of_their_own(root):
    options = [{}, {"clean_transcripts": []}, {"categories": ["Thai"]}, {"held_out_hours": 1.0}, {"test": "test"}]
    assert len({MlcSlmDataModule(str(root), **some).manifest_dir for some in options}) == 5


def test_conversations_of_an4_are_read(shared_data):
    root = shared_data / "an4_conv_mlcslm"
    reader = MlcSlm(root)
    assert reader.splits() == ["train", "dev", "official-dev"]
    utterances, tally = read(root)
    assert (len(utterances), len({found.audio for found in utterances})) == (154, 6)
    assert utterances[0].id == "English-AN4-train_00-O1-000097-000367"
    assert utterances[0].transcript == "enter four thousand eight hundred eighty three"
    assert {(found.corpus, found.source_language) for found in utterances} == {("mlc_slm.English-AN4", "en")}
    assert (tally.rejected, tally.changed) == ({}, {})
    assert len(read(root, "dev")[0]) == 53
    assert [found.id for found in read(root, "dev")[0]] == [found.id for found in read(root, "official-dev")[0]]
