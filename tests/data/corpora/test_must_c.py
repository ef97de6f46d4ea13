"""MuST-C as it is on disk, quirk by quirk."""

import json
import time

import pytest

from speechllm.data.corpora.must_c import MustC, MustCDataModule, read_lines, read_segments, strip_annotations
from speechllm.data.manifest import Tally
from speechllm.errors import UserError
from tests.corpora.must_c import TEST, write_must_c


def read(root, split="train", targets=("de",), **options):
    tally = Tally()
    utterances = list(MustC(root, "en", list(targets), **options).read(split, tally))
    return utterances, tally


@pytest.fixture
def root(tmp_path):
    return write_must_c(tmp_path)


@pytest.fixture
def datamodule(root):
    datamodule = MustCDataModule(str(root), num_workers=0)
    datamodule.prepare_data()
    return datamodule


@pytest.mark.parametrize("version", ["v1", "v2", "v3"])
def test_fields_are_read_by_name_in_every_release(tmp_path, version):
    utterances, _ = read(write_must_c(tmp_path, version=version), version=version)
    first = utterances[0]
    assert (first.offset_s, first.duration_s, first.speaker) == (0.1, 0.5, "spk.1")
    assert first.audio.endswith("en-de/data/train/wav/ted_1.wav")


def test_segment_lists_of_any_field_order_and_line_breaks(tmp_path):
    path = tmp_path / "train.yaml"
    path.write_text("- {wav: a.wav, duration: 1.5, offset: 2}\n- {duration: 3.0, offset: 4.25,\n  wav: 'b.wav'}\n")
    assert read_segments(path) == [
        {"wav": "a.wav", "duration": "1.5", "offset": "2"},
        {"duration": "3.0", "offset": "4.25", "wav": "b.wav"},
    ]


def test_a_large_segment_list_is_read_at_once(tmp_path):
    line = "- {duration: 3.500000, offset: 16.080000, rW: 9, uW: 0, speaker_id: spk.767, wav: ted_767.wav}\n"
    (tmp_path / "train.yaml").write_text(line * 50_000)
    start = time.perf_counter()
    assert len(read_segments(tmp_path / "train.yaml")) == 50_000
    assert time.perf_counter() - start < 5  # a yaml parser needs 4 to 15 s


def test_order_is_the_lists_order_and_offsets_are_numbers(root):
    utterances, _ = read(root, "tst-COMMON")
    assert [utterance.id for utterance in utterances] == [f"en-de_ted_9_{row:06d}" for row in range(5)]
    assert [utterance.offset_s for utterance in utterances] == [segment[1] for segment in TEST]
    assert [utterance.translations["de"] for utterance in utterances] == [segment[4] for segment in TEST]


def test_only_a_newline_ends_a_line(root):
    utterances, _ = read(root)
    assert utterances[1].transcript == "A line\u2028in two\rpieces."
    assert utterances[1].translations == {"de": "Eine Zeile\u0085in Stücken."}


def test_files_of_different_lengths_are_refused_with_their_counts(root):
    path = root / "en-de/data/train/txt/train.de"
    path.write_text(path.read_text(encoding="utf-8") + "zu viel\n", encoding="utf-8")
    with pytest.raises(UserError, match=r"train\.yaml' has 5 segments, .*train\.en' 5 lines, .*train\.de' 6 lines"):
        read(root)


def test_empty_last_lines_count(tmp_path):
    (tmp_path / "text").write_bytes(b"a\n\n")
    assert read_lines(tmp_path / "text") == ["a", ""]
    (tmp_path / "text").write_bytes(b"a\nb")
    assert read_lines(tmp_path / "text") == ["a", "b"]
    (tmp_path / "text").write_bytes(b"\xff\n")
    with pytest.raises(UserError, match="not UTF-8"):
        read_lines(tmp_path / "text")


def test_training_segments_are_clamped_or_left_out_and_counted(root):
    utterances, tally = read(root)
    assert [utterance.id[-6:] for utterance in utterances] == ["000000", "000001", "000002", "000004"]
    assert [utterance.duration_s for utterance in utterances] == [0.5, 0.7, 0.5, 0.5]
    assert tally.changed["clamped to the end of the talk"] == 2
    assert sum(tally.rejected.values()) == 1


def test_test_segments_all_stay(root):
    utterances, tally = read(root, "tst-COMMON")
    assert len(utterances) == len(TEST)
    assert all(utterance.duration_s > 0 for utterance in utterances)
    assert not tally.rejected


@pytest.mark.parametrize(
    ("text", "spoken"),
    [
        ("Thank you. (Laughter)", "Thank you."),
        ("(Applause) (Music) Hello.", "Hello."),
        ("(Audience: Yes.) So.", "So."),
        ("(♫ La la ♫)", ""),
        ("An aside (like this one) stays.", "An aside (like this one) stays."),
        ("Two  spaces\u2028stay.", "Two  spaces\u2028stay."),
    ],
)
def test_annotations_are_not_speech(text, spoken):
    assert strip_annotations(text) == spoken


def test_transcripts_are_cleaned_and_translations_verbatim(root):
    (first, *_), tally = read(root)
    assert (first.transcript, first.translations["de"]) == ("Thank you.", "Danke. (Gelächter)")
    assert tally.changed["annotations taken out of the transcript"] == 2
    (first, *_), _ = read(root, clean_transcript=False)
    assert first.transcript == "Thank you. (Laughter)"


@pytest.mark.parametrize("archive", [False, True])
def test_both_archive_roots_and_a_partition_itself(tmp_path, archive):
    root = write_must_c(tmp_path, ("de", "fr"), archive=archive)
    utterances, _ = read(root, targets=("fr", "de"))
    assert [next(iter(utterance.translations)) for utterance in utterances] == ["fr"] * 4 + ["de"] * 4
    assert len({utterance.id for utterance in utterances}) == 8
    partition = root / ("MUSTC_v1.0_en-fr/en-fr" if archive else "en-fr")
    assert len(read(partition, targets=("fr",))[0]) == 4


def test_what_is_missing_is_named(root, tmp_path):
    with pytest.raises(UserError, match=r"No MuST-C partition en-fr.*'en-fr/data'.*holds: en-de"):
        MustC(root, "en", ["fr"]).splits()
    with pytest.raises(UserError, match="No such folder"):
        MustC(tmp_path / "nowhere", "en", ["de"]).splits()
    with pytest.raises(UserError, match=r"version 'v4'.*Known: v1, v2, v3"):
        MustC(root, "en", ["de"], version="v4")
    with pytest.raises(UserError, match="language 'dee'"):
        MustC(root, "en", ["dee"])
    with pytest.raises(UserError, match="at least one target"):
        MustC(root, "en", [])
    (root / "en-de/data/dev/txt/dev.en").unlink()
    with pytest.raises(UserError, match=r"dev\.en' is missing"):
        MustC(root, "en", ["de"]).files()
    (root / "en-de/data/train/wav/ted_2.wav").unlink()
    with pytest.raises(UserError, match=r"ted_2\.wav' does not exist"):
        read(root)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("- {duration: 1.0, offset: 1.0}", r"entry 1: no wav"),
        ("- {duration: x, offset: 1.0, wav: ted_1.wav}", r"entry 1: the duration is 'x'"),
        ("- {duration: 1.0, offset: -1.0, wav: ted_1.wav}", r"entry 1: the offset is '-1.0'"),
        ("- {duration: nan, offset: 1.0, wav: ted_1.wav}", r"entry 1: the duration is 'nan'"),
    ],
)
def test_wrong_entries_are_named(root, line, message):
    path = root / "en-de/data/train/txt/train.yaml"
    path.write_text("\n".join([line, *path.read_text().split("\n")[1:]]))
    with pytest.raises(UserError, match=rf"train\.yaml, {message}"):
        read(root)


def test_version_is_stored(tmp_path):
    datamodule = MustCDataModule(str(write_must_c(tmp_path, version="v2")), version="v2", num_workers=0)
    datamodule.prepare_data()
    assert json.loads((datamodule.manifest_dir / "corpus.json").read_text())["version"] == "v2"


def test_from_files_to_a_batch_and_back(datamodule):
    datamodule.setup("fit")
    batch = next(iter(datamodule.train_dataloader()))
    facts = zip(batch.transcripts, batch.translations, batch.audio_lengths.tolist(), strict=True)
    rows = dict(zip(batch.ids, facts, strict=True))
    assert rows == {
        "en-de_ted_1_000000": ("Thank you.", "Danke. (Gelächter)", 8_000),
        "en-de_ted_1_000001": ("A line\u2028in two\rpieces.", "Eine Zeile\u0085in Stücken.", 11_200),
        "en-de_ted_1_000002": ("", "(Applaus)", 8_000),
        "en-de_ted_2_000004": ("It runs past the end (of the talk).", "Über das Ende.", 8_000),
    }
    assert set(batch.tasks) == {"st"}
    assert (set(batch.source_languages), set(batch.target_languages)) == ({"en"}, {"de"})
    assert set(batch.corpora) == {"must_c"}


def test_asr_comes_from_the_first_partition_only(tmp_path):
    root = write_must_c(tmp_path, ("de", "fr"))
    datamodule = MustCDataModule(str(root), targets=["de", "fr"], tasks=["asr", "st", "asr+st"], num_workers=0)
    datamodule.prepare_data()
    rows = [(cut.id[:5], cut.custom["task"], cut.custom["target_language"]) for cut in datamodule.train_rows()]
    assert {row: rows.count(row) for row in rows} == {
        ("en-de", "asr", "en"): 3,
        ("en-de", "st", "de"): 4,
        ("en-de", "asr+st", "de"): 3,
        ("en-fr", "st", "fr"): 4,
        ("en-fr", "asr+st", "fr"): 3,
    }
    assert datamodule.left_out == {"no transcript": 3}


def test_test_set_keeps_every_segment_in_order(root):
    datamodule = MustCDataModule(str(root), tasks=["asr", "st"], test_splits=["tst-COMMON", "tst-HE"], num_workers=0)
    datamodule.prepare_data()
    found = {}
    for batch in datamodule.test_dataloader():
        facts = zip(batch.ids, batch.tasks, batch.corpora, batch.audio_lengths.tolist(), strict=True)
        found |= dict(zip(batch.rows, facts, strict=True))
    assert sorted(found) == list(range(12))
    assert [found[row][0][-6:] for row in range(0, 10, 2)] == [f"{row:06d}" for row in range(5)]
    assert [found[row][1] for row in range(4)] == ["asr", "st", "asr", "st"]
    assert [found[row][2] for row in (0, 9, 10, 11)] == ["must_c.tst-COMMON"] * 2 + ["must_c.tst-HE"] * 2
    assert [found[row][3] for row in range(0, 10, 2)] == [6_400, 4_800, 4_800, 0, 0]


def test_unknown_test_split(root):
    with pytest.raises(UserError, match=r"split 'tst-COMON'\. Did you mean 'tst-COMMON'"):
        MustCDataModule(str(root), test_splits=["tst-COMON"])
