"""Europarl-ST as it is on disk, quirk by quirk."""

import os
import shutil
import subprocess

import pytest

from speechllm.data.corpora.europarl_st import EuroparlST, EuroparlSTDataModule
from speechllm.data.manifest import Tally, read_manifest
from speechllm.errors import UserError
from tests.corpora.europarl_st import PAIRS, write_europarl_st, write_fake, write_list

TALK = "en.20080924.31.3-243"


def read(root, split="train", pairs=("en-de",), **options):
    tally = Tally()
    utterances = list(EuroparlST(root, list(pairs), **options).read(split, tally))
    return utterances, tally


@pytest.fixture
def root(tmp_path):
    return write_europarl_st(tmp_path)


def rewrite(path, change):
    path.write_bytes(change(path.read_bytes().decode()).encode())


def test_the_fake_is_read_as_it_says(tmp_path):
    fake = write_fake(tmp_path)
    datamodule = EuroparlSTDataModule(**fake.options, num_workers=0)
    datamodule.prepare_data()
    for split, expected in fake.splits.items():
        found = [
            (one.id, round(one.duration_s * 16_000), one.source_language, one.transcript, one.translations)
            for one in read_manifest(datamodule.manifest_dir, split)
        ]
        assert found == [
            (one.id, one.samples, one.source_language, one.transcript, one.translations) for one in expected
        ]


class TestLists:
    def test_times_are_begin_and_end_and_texts_stay_verbatim(self, root):
        utterances, tally = read(root)
        assert [(one.offset_s, round(one.duration_s, 6)) for one in utterances] == [(0.25, 0.8), (0.5, 0.5)]
        assert utterances[1].transcript == 'A "quote\u2028here.'
        assert utterances[1].translations == {"de": "Ein „Zitat\u2028hier."}
        assert not tally.rejected

    def test_speakers_are_those_of_speeches_and_not_of_lines(self, root):
        utterances, _ = read(root)
        assert [one.speaker for one in utterances] == ["J. Smith", "Mary O'Neil"]
        (root / "en/de/train/speakers.lst").unlink()
        assert [one.speaker for one in read(root)[0]] == ["en.20080924.4.3-018", TALK]
        (root / "en/de/dev/speakers.lst").write_text("one\ntwo\n")
        with pytest.raises(UserError, match=r"has 1 speeches in speeches\.lst, and 2 speakers in speakers\.lst"):
            read(root, "dev")

    def test_a_test_set_keeps_the_order_of_its_list(self, root):
        utterances, _ = read(root, "test")
        assert [one.offset_s for one in utterances] == [1.0, 0.2]
        assert [one.id for one in utterances] == [f"en-de_en.20090101.1.1-001_0000{n}" for n in range(2)]

    def test_noisy_segments_are_trained_on_when_asked_for(self, root):
        assert len(read(root)[0]) == 2
        utterances, _ = read(root, train_noisy=True)
        assert [one.id for one in utterances][2:] == [f"en-de_{TALK}_00000n"]
        assert EuroparlST(root, ["en-de"], train_noisy=True).splits() == ["train", "dev", "test"]
        assert root / "en/de/train-noisy/segments.lst" in EuroparlST(root, ["en-de"], train_noisy=True).files()
        assert root / "en/de/train-noisy/segments.lst" not in EuroparlST(root, ["en-de"]).files()

    def test_transcripts_are_cleaned_when_asked_for(self, root):
        assert read(root, "dev")[0][0].transcript == "(Applause) For dev."
        utterances, tally = read(root, "dev", clean_transcripts=["annotations"])
        assert (utterances[0].transcript, utterances[0].translations) == ("For dev.", {"de": "(Beifall) Für dev."})
        assert tally.changed["transcript cleaned"] == 1

    def test_times_outside_of_the_speech(self, root):
        lines = [(TALK, -0.5, 0.5), (TALK, 1.5, 9.0), (TALK, 0.9, 0.9), (TALK, 1.0, 0.5), (TALK, 7.0, 8.0)]
        for split in ("train", "test"):
            shutil.rmtree(root / "en/de" / split)
            write_list(root / "en/de" / split, "en", "de", [(*line, "Text.", "Text.") for line in lines])
        utterances, tally = read(root)
        assert [(one.offset_s, one.duration_s) for one in utterances] == [(0.0, 0.5), (1.5, 0.5)]
        assert tally.rejected == {"stretch of no length, or past the end of the audio": 3}
        utterances, tally = read(root, "test")
        assert [one.duration_s for one in utterances] == [0.5, 0.5] + [1 / 16_000] * 3
        assert not tally.rejected

    @pytest.mark.parametrize(
        ("line", "message"),
        [
            (f"{TALK} 0.5", "line 2: needs a speech, a begin and an end"),
            ("", "line 2: needs a speech"),
            (f"{TALK} 0.5 x", "line 2: the end is 'x'"),
            (f"{TALK} nan 1", "line 2: the begin is 'nan'"),
        ],
    )
    def test_wrong_lines_are_named(self, root, line, message):
        rewrite(root / "en/de/train/segments.lst", lambda text: f"{text.splitlines()[0]}\n{line}\n")
        with pytest.raises(UserError, match=rf"segments\.lst, {message}"):
            read(root)

    def test_texts_of_another_length(self, root):
        rewrite(root / "en/de/train/segments.de", lambda text: text + "zu viel\n")
        with pytest.raises(UserError, match=r"segments\.lst has 2 lines, segments\.en 2, segments\.de 3"):
            read(root)
        (root / "en/de/train/segments.de").unlink()
        with pytest.raises(UserError, match=r"segments\.de' is missing"):
            read(root)


class TestPairs:
    def test_training_joins_segments_that_are_the_same(self, root):
        utterances, _ = read(root, pairs=("en-de", "en-fr", "fr-en"))
        assert [(one.id[:5], one.source_language, list(one.translations)) for one in utterances] == [
            ("en-de", "en", ["de", "fr"]),
            ("en-de", "en", ["de"]),
            ("en-fr", "en", ["fr"]),
            ("fr-en", "fr", ["en"]),
        ]

    def test_scored_sets_keep_each_pairs_list(self, root):
        utterances, _ = read(root, "test", ("en-fr", "en-de"))
        assert [one.translations for one in utterances] == [
            {target: row[4]} for target in ("fr", "de") for row in PAIRS[f"en-{target}"]["test"]
        ]

    def test_recognition_comes_from_the_first_pair_of_each_source(self, root):
        datamodule = EuroparlSTDataModule(
            str(root), pairs=["en-fr", "fr-en", "en-de"], tasks=["asr", "st"], num_workers=0
        )
        datamodule.prepare_data()
        rows = datamodule.train_rows().rows
        found = [(rows[n].utterance.id[:5], rows[n].task, rows[n].target_language) for n in range(len(rows))]
        assert sorted(found) == [
            ("en-de", "st", "de"),
            ("en-fr", "asr", "en"),
            ("en-fr", "asr", "en"),
            ("en-fr", "st", "de"),
            ("en-fr", "st", "fr"),
            ("en-fr", "st", "fr"),
            ("fr-en", "asr", "fr"),
            ("fr-en", "st", "en"),
        ]

    def test_selections_do_not_share_manifests(self, root):
        options = [
            {},
            {"pairs": ["en-fr"]},
            {"pairs": ["en-de", "en-fr"]},
            {"train_noisy": True},
            {"clean_transcripts": ["annotations"]},
        ]
        assert len({EuroparlSTDataModule(str(root), **option).manifest_dir for option in options}) == 5

    def test_what_is_wrong_with_pairs_is_named(self, root, tmp_path):
        assert EuroparlST(root, ["en_de"]).targets == {"en": ["de"]}
        for pairs in (["de"], ["en-de", "en_de"], ["en-en"]):
            with pytest.raises(UserError, match="written <source>-<target>, such as 'en-de', each once"):
                EuroparlST(root, pairs)
        with pytest.raises(UserError, match="at least one language pair"):
            EuroparlST(root, [])
        with pytest.raises(UserError, match="Europarl-ST has no language 'zh'"):
            EuroparlST(root, ["en-zh"])
        with pytest.raises(UserError, match=r"No Europarl-ST pair en-pl .*There are: en-de, en-fr, fr-en"):
            EuroparlST(root, ["en-pl"]).splits()
        with pytest.raises(UserError, match="No Europarl-ST pair en-de"):
            EuroparlST(tmp_path / "nowhere", ["en-de"]).splits()
        for split in ("train", "dev", "test"):
            (root / "fr/en" / split / "segments.lst").unlink()
        with pytest.raises(UserError, match="No Europarl-ST split is in all of"):
            EuroparlST(root, ["fr-en"]).splits()


class TestAudio:
    def test_formats_by_preference_and_folder(self, root):
        audios = root / "en/audios"
        assert read(root)[0][0].audio == str(audios / "en.20080924.4.3-018.flac")
        (root / "en/audios_wav").mkdir()
        shutil.copy(audios / f"{TALK}.wav", root / "en/audios_wav/en.20080924.4.3-018.wav")
        assert read(root)[0][0].audio == str(root / "en/audios_wav/en.20080924.4.3-018.wav")

    def test_the_channel_that_is_not_empty_is_read(self, root):
        utterances, tally = read(root)
        assert [one.channel for one in utterances] == [1, None]
        assert tally.changed == {"one of two channels is empty, and the other one is read": 1}
        utterances, tally = read(root, "test")
        assert [one.channel for one in utterances] == [None, None]
        assert not tally.changed

    def test_a_channel_survives_the_manifest(self, root):
        datamodule = EuroparlSTDataModule(str(root), num_workers=0)
        datamodule.prepare_data()
        assert [one.channel for one in read_manifest(datamodule.manifest_dir, "train")] == [1, None]

    def test_m4a_is_answered_with_the_command_that_converts_it(self, tmp_path):
        root = write_europarl_st(tmp_path / "it's here")
        audios = root / "en/audios"
        for path in list(audios.iterdir()):
            path.rename(path.with_name(f"{path.name.removesuffix(path.suffix)}.m4a"))
        with pytest.raises(
            UserError, match=r"3 speeches in .* are m4a files, such as en\.20080924\.31\.3-243\.m4a"
        ) as error:
            read(root)
        (tmp_path / "bin").mkdir()
        (tmp_path / "bin/ffmpeg").write_text('#!/bin/sh\nfor last; do :; done\ncp "$6" "$last"\n')
        (tmp_path / "bin/ffmpeg").chmod(0o755)
        command = str(error.value).split("\n", 1)[1]
        environment = {**os.environ, "PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}"}
        subprocess.run(["sh", "-c", command], check=True, env=environment)
        assert len(read(root)[0]) == 2
        assert len(list(audios.glob("*.flac"))) == 3

    def test_one_speech_that_was_not_converted_is_enough(self, root):
        (root / f"en/audios/{TALK}.wav").rename(root / f"en/audios/{TALK}.m4a")
        with pytest.raises(UserError, match="1 speeches in"):
            read(root)

    @pytest.mark.parametrize("damage", ["missing", "empty"])
    def test_missing_speeches_are_counted_and_a_test_set_keeps_its_size(self, root, damage):
        for name in (f"{TALK}.wav", "en.20090101.1.1-001.wav"):
            (root / "en/audios" / name).unlink()
            if damage == "empty":
                (root / "en/audios" / name).touch()
        utterances, tally = read(root)
        assert [one.id[-5:] for one in utterances] == ["00000"]
        assert tally.rejected == {"audio is missing, empty or damaged": 1}
        if damage == "empty":
            utterances, tally = read(root, "test")
            assert [one.duration_s for one in utterances] == [1 / 16_000] * 2
            assert tally.changed == {"audio is missing, empty or damaged, and counts as silence": 2}
        else:
            with pytest.raises(UserError, match=r"None of the audio files .*en\.20090101\.1\.1-001\.wav"):
                read(root, "test")
