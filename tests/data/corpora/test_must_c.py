"""MuST-C as it is on disk, quirk by quirk."""

import json
import time

import pytest

from speechllm.data.corpora.must_c import MustC, MustCDataModule
from speechllm.data.manifest import Tally, read_manifest
from speechllm.data.reading.talks import read_segments, read_texts
from speechllm.data.reading.text import UNSPOKEN
from speechllm.errors import UserError
from tests.corpora.must_c import TEST, VALID, write_fake, write_must_c, write_split

SILENCE = "audio is missing, empty or damaged"
NO_LENGTH = "stretch of no length, or past the end of the audio"


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


def rewrite(path, change):
    path.write_bytes(change(path.read_bytes().decode()).encode())


class TestFormats:
    @pytest.mark.parametrize("version", ["v1", "v1.2", "v2", "v3"])
    def test_fields_are_read_by_name_in_every_release(self, tmp_path, version):
        utterances, _ = read(write_must_c(tmp_path, version=version), version=version)
        first = utterances[0]
        assert (first.offset_s, first.duration_s, first.speaker) == (0.1, 0.5, "spk.1")
        assert first.audio.endswith("en-de/data/train/wav/ted_1.wav")

    @pytest.mark.parametrize(
        "text",
        [
            "- {wav: a.wav, duration: 1.5, offset: 2}\n- {duration: 3.0, offset: 4.25,\n  wav: 'b, c.wav'}\n",
            '[{"wav": "a.wav", "offset":2, "duration":1.5},\r\n {wav: "b, c.wav",offset: 4.25,duration: 3.0 }]\r\n',
            "---\n- wav: a.wav\n  duration: 1.5\n  offset: 2\n- duration: 3.0\n  offset: 4.25\n  wav: 'b, c.wav'\n",
        ],
        ids=["flow", "json-like", "block"],
    )
    def test_segment_lists_of_any_field_order_quotes_and_line_breaks(self, tmp_path, text):
        (tmp_path / "train.yaml").write_bytes(text.encode())
        assert read_segments(tmp_path / "train.yaml") == [
            {"wav": "a.wav", "duration": "1.5", "offset": "2"},
            {"duration": "3.0", "offset": "4.25", "wav": "b, c.wav"},
        ]

    @pytest.mark.parametrize(
        ("entry", "message"),
        [
            ("{duration: 1,5, offset: 16.08, wav: a.wav}", r"line 2: '5' is no field in '\{duration: 1,5"),
            ("{duration: 1.5; offset: 16.08, wav: a.wav}", "line 2: no offset in"),
            ("{duration: 1.5, offset: 2, wav: 'a'.wav}", r"line 2: '\.wav' is no field in"),
        ],
    )
    def test_what_is_no_field_of_a_segment_is_named(self, tmp_path, entry, message):
        (tmp_path / "train.yaml").write_text(f"- {{wav: a.wav, duration: 1.5, offset: 2}}\n- {entry}\n")
        with pytest.raises(UserError, match=rf"train\.yaml, {message}"):
            read_segments(tmp_path / "train.yaml")

    def test_a_text_that_nothing_ends_is_counted(self, root):
        path = root / "en-de/data/dev/txt/dev.de"
        path.write_bytes(path.read_bytes()[:-4])
        assert read(root, "dev")[1].changed["no line feed ends dev.de, which may be cut off"] == 1

    def test_a_large_segment_list_is_read_at_once(self, tmp_path):
        line = "- {duration: 3.500000, offset: 16.080000, rW: 9, uW: 0, speaker_id: spk.767, wav: ted_767.wav}\n"
        (tmp_path / "train.yaml").write_text(line * 50_000)
        start = time.perf_counter()
        assert len(read_segments(tmp_path / "train.yaml")) == 50_000
        assert time.perf_counter() - start < 5  # a yaml parser needs 4 to 15 s

    def test_order_is_the_lists_order_and_offsets_are_numbers(self, tmp_path):
        segments = [("ted_9", offset, 0.1, f"At {offset}.", f"Bei {offset}.") for offset in (1.25, 0.2, 0.95)]
        write_split(tmp_path / "en-de/data/tst-COMMON", "tst-COMMON", "de", segments)
        rewrite(
            tmp_path / "en-de/data/tst-COMMON/txt/tst-COMMON.yaml",
            lambda text: text.replace("offset: 1.2", "offset: 01.2"),
        )
        utterances, _ = read(tmp_path, "tst-COMMON")
        assert [utterance.id for utterance in utterances] == [f"en-de_ted_9_{row:06d}" for row in range(3)]
        assert [utterance.offset_s for utterance in utterances] == [1.25, 0.2, 0.95]
        assert [utterance.translations["de"] for utterance in utterances] == ["Bei 1.25.", "Bei 0.2.", "Bei 0.95."]

    def test_only_a_newline_ends_a_line(self, root):
        utterances, _ = read(root, clean_transcripts=[])
        assert utterances[1].transcript == "A line\u2028in two\rpieces."
        assert utterances[1].translations == {"de": "Eine Zeile\u0085in Stücken."}

    def test_line_ends_of_windows_are_none_of_the_text(self, root):
        expected, _ = read(root, clean_transcripts=[])
        for end in ("yaml", "en", "de"):
            rewrite(root / f"en-de/data/train/txt/train.{end}", lambda text: text.replace("\n", "\r\n"))
        assert read(root, clean_transcripts=[])[0] == expected

    def test_a_talk_without_speaker_is_its_own(self, root):
        rewrite(root / "en-de/data/train/txt/train.yaml", lambda text: text.replace("speaker_id: spk.1, ", ""))
        assert [utterance.speaker for utterance in read(root)[0]] == ["ted_1", "ted_1", "ted_1", "spk.2"]


class TestTimes:
    def test_training_segments_are_clamped_or_left_out_and_counted(self, root):
        utterances, tally = read(root)
        assert [utterance.id[-6:] for utterance in utterances] == ["000000", "000001", "000002", "000004"]
        assert [utterance.duration_s for utterance in utterances] == [0.5, 0.7, 0.5, 0.5]
        assert tally.changed["cut at the end of the audio"] == 2
        assert tally.rejected == {NO_LENGTH: 1}

    def test_test_segments_all_stay(self, root):
        utterances, tally = read(root, "tst-COMMON")
        assert len(utterances) == len(TEST)
        assert [utterance.duration_s for utterance in utterances] == [0.4, 0.3, 0.3, 1 / 16_000, 1 / 16_000]
        assert not tally.rejected
        assert tally.changed == {f"{NO_LENGTH}, and is one sample": 2}

    @pytest.mark.parametrize(
        ("offset", "duration", "kept"),
        [
            ("-0.25", "0.75", (0.0, 0.5)),
            ("0.5", "-1.0", None),
            ("-1.0", "0.5", None),
            ("1.9", "0.15", (1.9, 0.1)),
            ("0.5", "0.05", (0.5, 0.05)),
        ],
        ids=["early", "negative", "before", "late", "short"],
    )
    def test_times_outside_of_the_talk(self, root, offset, duration, kept):
        path = root / "en-de/data/{0}/txt/{0}.yaml"
        for split in ("train", "tst-COMMON"):
            line = f"- {{duration: {duration}, offset: {offset}, speaker_id: spk.9, wav: ted_9.wav}}\n"
            rewrite(
                path.with_name(f"{split}.yaml").parents[2] / split / "txt" / f"{split}.yaml",
                lambda text, line=line, split=split: (
                    line.replace("ted_9", "ted_1" if split == "train" else "ted_9") + text.split("\n", 1)[1]
                ),
            )
        utterances, tally = read(root)
        (test, *_), test_tally = read(root, "tst-COMMON")
        assert len(utterances) == 3 + (kept is not None)
        assert tally.rejected[NO_LENGTH] == 1 + (kept is None)
        if kept:
            assert (utterances[0].offset_s, utterances[0].duration_s) == pytest.approx(kept)
            assert (test.offset_s, test.duration_s) == pytest.approx(kept)
        else:
            assert test.duration_s == 1 / 16_000
        assert test_tally.changed["begins before the audio, and is cut there"] == offset.startswith("-")

    def test_silence_reaches_the_batch_with_length_0(self, root):
        datamodule = MustCDataModule(
            str(root), tasks=["asr", "st"], test_splits=["tst-COMMON", "tst-HE"], num_workers=0
        )
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


class TestMissingAudio:
    @pytest.mark.parametrize("damage", ["missing", "empty", "text", "nul"])
    def test_is_counted_and_a_test_set_keeps_its_size(self, root, damage):
        for split, talk in (("train", "ted_2"), ("tst-COMMON", "ted_9")):
            wav = root / f"en-de/data/{split}/wav/{talk}.wav"
            wav.unlink()
            if damage in ("empty", "text"):
                wav.write_bytes(b"" if damage == "empty" else b"no audio at all")
            if damage == "nul":
                rewrite(
                    root / f"en-de/data/{split}/txt/{split}.yaml",
                    lambda text, talk=talk: text.replace(f"{talk}.", f"{talk}\0."),
                )
        (root / "en-de/data/tst-COMMON/wav/ted_0.wav").write_bytes(
            (root / "en-de/data/train/wav/ted_1.wav").read_bytes()
        )
        rewrite(
            root / "en-de/data/tst-COMMON/txt/tst-COMMON.yaml",
            lambda text: text.replace("ted_9\0" if damage == "nul" else "ted_9", "ted_0", 1),
        )
        utterances, tally = read(root)
        assert [utterance.id[-6:] for utterance in utterances] == ["000000", "000001", "000002"]
        assert tally.rejected == {SILENCE: 2}
        utterances, tally = read(root, "tst-COMMON")
        assert [utterance.duration_s for utterance in utterances] == [0.4] + [1 / 16_000] * 4
        assert tally.changed == {f"{SILENCE}, and counts as silence": 4}

    def test_all_missing_is_an_error(self, root):
        for wav in (root / "en-de/data/train/wav").iterdir():
            wav.unlink()
        with pytest.raises(UserError, match=r"None of the audio files of the split 'train' exists .*ted_1\.wav"):
            read(root)

    def test_a_talk_is_looked_for_in_its_own_folder_alone(self, root):
        rewrite(
            root / "en-de/data/train/txt/train.yaml", lambda text: text.replace("ted_1.wav", "../../dev/wav/ted_1.wav")
        )
        assert read(root)[0][0].audio.endswith("data/train/wav/ted_1.wav")


class TestTranscripts:
    def test_are_cleaned_and_translations_verbatim(self, root):
        (first, second, applause, _), tally = read(root)
        assert (first.transcript, first.translations["de"]) == ("Thank you.", "Danke. (Gelächter)")
        assert second.transcript == "A line in two pieces."
        assert (applause.transcript, applause.translations["de"]) == ("", "(Applaus)")
        assert tally.changed["transcript cleaned"] == 3
        (first, *_), tally = read(root, clean_transcripts=[])
        assert first.transcript == "Thank you. (Laughter)"
        assert "transcript cleaned" not in tally.changed

    def test_unknown_cleaners_have_a_near_match(self, root):
        with pytest.raises(
            UserError, match=r"cleaner of transcripts 'speaker_prefix'\. Did you mean 'speaker_prefixes'"
        ):
            MustCDataModule(str(root), clean_transcripts=["speaker_prefix"])

    def test_selections_of_cleaners_do_not_share_manifests(self, root):
        selections = ([], UNSPOKEN, ["annotations"], ["speaker_prefixes", "annotations"])
        folders = [MustCDataModule(str(root), clean_transcripts=names).manifest_dir.name for names in selections]
        assert folders == [
            "v1_en_de_verbatim",
            "v1_en_de",
            "v1_en_de_annotations",
            "v1_en_de_annotations-speaker_prefixes",
        ]
        assert MustCDataModule(str(root), clean_transcripts=UNSPOKEN[::-1]).manifest_dir.name == "v1_en_de"

    def test_an_annotation_alone_counts_for_translation_and_not_for_recognition(self, datamodule):
        (row,) = [number for number in range(4) if datamodule.train_rows().rows[number].utterance.transcript == ""]
        assert datamodule.train_rows().rows[row].utterance.translations == {"de": "(Applaus)"}
        datamodule.tasks = ["asr", "asr+st"]
        assert len(datamodule.train_rows().rows) == 6
        assert datamodule.left_out == {"no transcript": 2}


class TestTargets:
    def test_training_joins_the_segments_that_are_the_same(self, tmp_path):
        utterances, _ = read(write_must_c(tmp_path, ("de", "fr")), targets=("de", "fr"))
        assert [(utterance.id[:5], list(utterance.translations)) for utterance in utterances] == [
            ("en-de", ["de", "fr"])
        ] * 4
        assert utterances[0].translations["fr"] == "fr: Danke. (Gelächter)"

    def test_each_target_may_cut_the_talks_in_its_own_way(self, tmp_path):
        write_fake(tmp_path)
        utterances, _ = read(tmp_path, targets=("de", "fr"), version="v1.2")
        found = [(utterance.id, utterance.duration_s, list(utterance.translations)) for utterance in utterances]
        assert found == [
            ("en-de_ted_1_000000", 0.5, ["de", "fr"]),
            ("en-de_ted_1_000001", 0.6, ["de"]),
            ("en-de_ted_2_000002", 0.8, ["de", "fr"]),
            ("en-fr_ted_1_000001", 1.2, ["fr"]),
        ]

    def test_the_same_segment_twice_in_one_partition_stays_twice(self, tmp_path):
        for target in ("de", "fr"):
            segments = [("ted_1", 0.0, 0.5, "Yes.", f"{target} 1"), ("ted_1", 0.0, 0.5, "Yes.", f"{target} 2")]
            write_split(tmp_path / f"en-{target}/data/train", "train", target, segments, verbatim=True)
        utterances, _ = read(tmp_path, targets=("de", "fr"))
        texts = [text for utterance in utterances for text in utterance.translations.values()]
        assert sorted(texts) == ["de 1", "de 2", "fr 1", "fr 2"]

    @pytest.mark.parametrize("split", ["dev", "tst-COMMON"])
    def test_scored_sets_keep_each_targets_list_as_it_is(self, tmp_path, split):
        write_fake(tmp_path)
        utterances, _ = read(tmp_path, split, ("fr", "de"), version="v1.2")
        expected = [(target, row[4]) for target in ("fr", "de") for row in VALID[split][target]]
        assert [next(iter(utterance.translations.items())) for utterance in utterances] == expected
        assert all(len(utterance.translations) == 1 for utterance in utterances)

    def test_recognition_comes_from_the_first_partition_only(self, tmp_path):
        options = write_fake(tmp_path).options | {"num_workers": 0}
        datamodule = MustCDataModule(**options)
        datamodule.prepare_data()
        rows = datamodule.train_rows().rows
        found = [(rows[n].utterance.id[-6:], rows[n].task, rows[n].target_language) for n in range(len(rows))]
        assert sorted(found, key=lambda row: row[1:]) == [
            ("000000", "asr", "en"),
            ("000001", "asr", "en"),
            ("000002", "asr", "en"),
            ("000000", "asr+st", "de"),
            ("000001", "asr+st", "de"),
            ("000002", "asr+st", "de"),
            ("000000", "asr+st", "fr"),
            ("000002", "asr+st", "fr"),
            ("000001", "asr+st", "fr"),
            ("000000", "st", "de"),
            ("000001", "st", "de"),
            ("000002", "st", "de"),
            ("000000", "st", "fr"),
            ("000002", "st", "fr"),
            ("000001", "st", "fr"),
        ]


class TestReleases:
    @pytest.mark.parametrize("archive", [False, True])
    def test_both_roots_and_a_partition_itself(self, tmp_path, archive):
        root = write_must_c(tmp_path, ("de", "fr"), archive=archive)
        utterances, _ = read(root, "dev", targets=("fr", "de"))
        assert [next(iter(utterance.translations)) for utterance in utterances] == ["fr"] * 2 + ["de"] * 2
        assert len({utterance.id for utterance in utterances}) == 4
        partition = root / ("MUSTC_v1.0_en-fr/en-fr" if archive else "en-fr")
        assert len(read(partition, targets=("fr",))[0]) == 4

    def test_an_archive_of_another_release_is_not_taken_for_this_one(self, tmp_path):
        root = write_must_c(tmp_path, archive=True)
        assert len(read(root, version="v1.2")[0]) == 4  # which took over the targets of v1.0
        with pytest.raises(UserError, match=r"No MuST-C partition en-de.*MUSTC_v1.0_en-de is another release than v2"):
            read(root, version="v2")
        for place in (root / "MUSTC_v1.0_en-de", root / "MUSTC_v1.0_en-de" / "en-de"):
            with pytest.raises(UserError, match=r"is of release v1\.0 of MuST-C, not v3"):
                read(place, version="v3")

    def test_targets_that_a_release_does_not_have(self, tmp_path):
        root = write_must_c(tmp_path, ("zh",))
        assert len(read(root, targets=("zh",), version="v2")[0]) == 4
        with pytest.raises(UserError, match=r"v1 has no translations into 'zh'.*'zh' is in: v1\.2, v2, v3"):
            read(root, targets=("zh",))

    def test_published_numbers(self, root):
        assert MustC(root, "en", ["de"]).published() == {
            "train": 229_703,
            "dev": 1_423,
            "tst-COMMON": 2_641,
            "tst-HE": 600,
        }
        assert MustC(root, "en", ["de", "es"], "v1.2").published() == {"dev": 2_739, "tst-COMMON": 5_143}
        assert MustC(root, "en", ["de"], "v2").published() == {"tst-COMMON": 2_580}
        assert MustC(root, "en", ["de", "ja"], "v2").published() == {}
        own = MustC(root, "en", ["de"])
        own.name = "mine"
        assert own.published() == {}

    def test_version_is_stored(self, tmp_path):
        datamodule = MustCDataModule(str(write_must_c(tmp_path, version="v2")), version="v2", num_workers=0)
        datamodule.prepare_data()
        assert json.loads((datamodule.manifest_dir / "corpus.json").read_text())["version"] == "v2"


class TestErrors:
    def test_files_of_different_lengths_are_refused_with_their_counts(self, root):
        rewrite(root / "en-de/data/train/txt/train.de", lambda text: text + "zu viel\n")
        with pytest.raises(UserError, match=r"train\.yaml' has 5 segments, .*train\.en' 5 lines, .*train\.de' 6 lines"):
            read(root)

    def test_what_is_missing_is_named(self, root, tmp_path):
        with pytest.raises(UserError, match=r"No MuST-C partition en-fr.*'en-fr/data'.*holds: en-de"):
            MustC(root, "en", ["fr"]).splits()
        with pytest.raises(UserError, match="No such folder"):
            MustC(tmp_path / "nowhere", "en", ["de"]).splits()
        with pytest.raises(UserError, match=r"version 'v4'.*Known: v1, v1\.2, v2, v3"):
            MustC(root, "en", ["de"], version="v4")
        with pytest.raises(UserError, match="language 'dee'"):
            MustC(root, "en", ["dee"])
        with pytest.raises(UserError, match="at least one target"):
            MustC(root, "en", [])
        (root / "en-de/data/dev/txt/dev.en").unlink()
        with pytest.raises(UserError, match=r"dev\.en' is missing"):
            MustC(root, "en", ["de"]).files()
        with pytest.raises(UserError, match=r"split 'tst-COMON'\. Did you mean 'tst-COMMON'"):
            MustCDataModule(str(root), test_splits=["tst-COMON"])

    @pytest.mark.parametrize(
        ("line", "message"),
        [
            ("- {duration: 1.0, offset: 1.0}", r"line 2: no wav"),
            ("- {duration: 1.0, offset: 1.0, wav: ted_1.wav", r"line 2: the entry is not closed"),
            ("- {duration: x, offset: 1.0, wav: ted_1.wav}", r"entry 2: the duration is 'x'"),
            ("- {duration: 1.0, offset: inf, wav: ted_1.wav}", r"entry 2: the offset is 'inf'"),
            ("- {duration: nan, offset: 1.0, wav: ted_1.wav}", r"entry 2: the duration is 'nan'"),
        ],
    )
    def test_wrong_entries_are_named(self, root, line, message):
        path = root / "en-de/data/train/txt/train.yaml"
        lines = path.read_text().split("\n")
        path.write_text("\n".join([lines[0], line, *lines[2:]]))
        with pytest.raises(UserError, match=rf"train\.yaml, {message}"):
            read(root)

    def test_a_list_that_breaks_off_is_an_error(self, root):
        rewrite(root / "en-de/data/train/txt/train.yaml", lambda text: text[:-20])
        with pytest.raises(UserError, match=r"train\.yaml, line 5: the entry is not closed"):
            read(root)

    def test_texts_that_are_not_utf8(self, tmp_path):
        (tmp_path / "text").write_bytes(b"a\n\n")
        assert read_texts(tmp_path / "text") == ["a", ""]
        (tmp_path / "text").write_bytes(b"a\nb")
        assert read_texts(tmp_path / "text") == ["a", "b"]
        (tmp_path / "text").write_bytes(b"\xff\n")
        with pytest.raises(UserError, match="not UTF-8"):
            read_texts(tmp_path / "text")


def test_from_files_to_a_batch_and_back(datamodule):
    datamodule.setup("fit")
    rows = {}
    for batch in datamodule.train_dataloader():
        facts = zip(batch.transcripts, batch.translations, batch.audio_lengths.tolist(), strict=True)
        rows |= dict(zip(batch.ids, facts, strict=True))
        assert set(batch.tasks) == {"st"}
        assert (set(batch.source_languages), set(batch.target_languages)) == ({"en"}, {"de"})
        assert set(batch.corpora) == {"must_c"}
    assert rows == {
        "en-de_ted_1_000000": ("Thank you.", "Danke. (Gelächter)", 8_000),
        "en-de_ted_1_000001": ("A line in two pieces.", "Eine Zeile\u0085in Stücken.", 11_200),
        "en-de_ted_1_000002": ("", "(Applaus)", 8_000),
        "en-de_ted_2_000004": ("It runs past the end (of the talk).", "Über das Ende.", 8_000),
    }


def test_the_fake_is_read_as_it_says(tmp_path):
    fake = write_fake(tmp_path)
    datamodule = MustCDataModule(**fake.options, num_workers=0)
    datamodule.prepare_data()
    for split, expected in fake.splits.items():
        found = [
            (one.id, round(one.duration_s * 16_000), one.source_language, one.transcript, one.translations)
            for one in read_manifest(datamodule.manifest_dir, split)
        ]
        assert found == [
            (one.id, one.samples, one.source_language, one.transcript, one.translations) for one in expected
        ]
