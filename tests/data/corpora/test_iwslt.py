"""IWSLT's test sets and low-resource tracks as they are on disk, quirk by quirk."""

import json

import pytest

from speechllm.data.corpora.iwslt import IWSLT, IWSLTDataModule
from speechllm.data.manifest import Tally, read_manifest
from speechllm.data.reading.stamped import StampedCorpus
from speechllm.data.reading.talk_references import match_talks, read_references
from speechllm.data.reading.text import UNSPOKEN
from speechllm.errors import UserError
from tests.corpora.iwslt import AUTOMATIC, TST2018, TST2019, write_fake, write_set, write_stamped


def read(root, split="tst2019", targets=("de",), **options):
    tally = Tally()
    utterances = list(IWSLT(root, "en", list(targets), **options).read(split, tally))
    return utterances, tally


def read_stamped(root, split="train", source="ga", targets=("en",)):
    tally = Tally()
    utterances = list(StampedCorpus("iwslt", root, source, list(targets), UNSPOKEN).read(split, tally))
    return utterances, tally


@pytest.fixture
def root(tmp_path):
    write_set(tmp_path / "IWSLT.tst2019", "tst2019", TST2019)
    return tmp_path


@pytest.fixture
def automatic(tmp_path):
    write_set(tmp_path / "IWSLT.tst2010", "tst2010", TST2019, cut=AUTOMATIC, listed="test-db.yaml")
    return tmp_path


def rewrite(path, change):
    path.write_bytes(change(path.read_bytes().decode()).encode())


class TestGiven:
    def test_the_fake_is_read_as_it_says(self, tmp_path):
        fake = write_fake(tmp_path)
        datamodule = IWSLTDataModule(**fake.options, num_workers=0)
        datamodule.prepare_data()
        for split, expected in fake.splits.items():
            found = [
                (one.id, round(one.duration_s * 16_000), one.transcript, one.translations)
                for one in read_manifest(datamodule.manifest_dir, split)
            ]
            assert found == [(one.id, one.samples, one.transcript, one.translations) for one in expected]

    def test_order_is_that_of_the_references_whatever_the_list_says(self, root):
        text = (root / "IWSLT.tst2019/IWSLT.TED.tst2019.en-de.yaml").read_text()
        assert text.index("ted_837") < text.index("ted_2000")
        utterances, _ = read(root)
        assert [utterance.id for utterance in utterances] == [
            "en-de_ted_2000_0000",
            "en-de_ted_837_0000",
            "en-de_ted_837_0001",
        ]
        assert [utterance.translations["de"] for utterance in utterances] == [
            "Der erste.",
            "Der zweite.",
            "Der  dritte.",
        ]
        assert [utterance.offset_s for utterance in utterances] == [0.5, 0.0, 0.5]
        assert {utterance.speaker for utterance in utterances} == {"ted_2000", "ted_837"}

    def test_talks_of_any_rate_and_channel_count_are_read(self, tmp_path):
        datamodule = IWSLTDataModule(**write_fake(tmp_path).options, num_workers=0)
        datamodule.prepare_data()
        lengths = {}
        for batch in datamodule.test_dataloader():
            lengths |= dict(zip(batch.ids, batch.audio_lengths.tolist(), strict=True))
        assert lengths["en-de_tst2018.en.lecture0001_0000"] == 8_000
        assert lengths["en-de_tst2018.en.lecture0004_0000"] == 9_600
        rates = {one.audio[-8:]: one.sampling_rate for one in read_manifest(datamodule.manifest_dir, "tst2018")}
        assert rates == {"0001.wav": 48_000, "0004.wav": 22_050}

    def test_segments_that_are_not_those_of_the_references_are_refused(self, automatic):
        with pytest.raises(
            UserError,
            match=r"has 1 of the talk ted_2000.* 1 \(in all 4 and 3\)|has 3 of the talk ted_837.* 2 \(in all 4 and 3\)",
        ) as error:
            read(automatic, "tst2010")
        assert "Give `segmentation: automatic`" in str(error.value)

    def test_a_set_without_references_is_translated_all_the_same(self, tmp_path):
        write_set(tmp_path / "IWSLT.tst2020", "tst2020", TST2019, references=False)
        utterances, tally = read(tmp_path, "tst2020")
        assert [(one.transcript, one.translations) for one in utterances] == [("", {"de": ""})] * 3
        assert tally.changed == {"no reference of its own": 3}
        datamodule = IWSLTDataModule(str(tmp_path), test_splits=["tst2020"], num_workers=0)
        datamodule.prepare_data()
        assert sum(len(batch) for batch in datamodule.test_dataloader()) == 3

    def test_references_of_one_language_alone(self, root):
        (root / "IWSLT.tst2019/IWSLT.TED.tst2019.en-de.en.xml").unlink()
        assert [one.transcript for one in read(root)[0]] == [""] * 3
        assert read(root)[0][0].translations == {"de": "Der erste."}

    def test_times_outside_of_the_talk_stay_and_are_counted(self, root):
        rewrite(
            root / "IWSLT.tst2019/IWSLT.TED.tst2019.en-de.yaml",
            lambda text: text.replace('"offset":0.0, "duration":0.4', '"offset":-0.5, "duration":9.0').replace(
                '"offset":0.5, "duration":0.3', '"offset":7, "duration":0.3'
            ),
        )
        utterances, tally = read(root)
        assert [(one.offset_s, one.duration_s) for one in utterances] == [(0.5, 0.7), (0.0, 2.0), (7.0, 1 / 16_000)]
        assert sum(tally.changed.values()) == 3
        assert not tally.rejected

    def test_a_missing_talk_counts_as_silence(self, root):
        (root / "IWSLT.tst2019/wavs/ted_837.wav").unlink()
        utterances, tally = read(root)
        assert len(utterances) == 3
        assert tally.changed == {"audio is missing, empty or damaged, and counts as silence": 2}
        (root / "IWSLT.tst2019/wavs/ted_2000.wav").unlink()
        with pytest.raises(UserError, match="None of the audio files"):
            read(root)


class TestAutomatic:
    def test_segments_have_no_texts_and_the_order_of_the_files(self, automatic):
        utterances, tally = read(automatic, "tst2010", segmentation="automatic")
        assert [(one.id, one.offset_s, one.transcript, one.translations) for one in utterances] == [
            ("en-de_ted_2000_0000", 0.25, "", {"de": ""}),
            ("en-de_ted_837_0000", 0.0, "", {"de": ""}),
            ("en-de_ted_837_0001", 1.1, "", {"de": ""}),
            ("en-de_ted_837_0002", 1.5, "", {"de": ""}),
        ]
        assert tally.changed == {"no reference of its own": 4}

    def test_references_are_kept_beside_the_manifests(self, automatic):
        datamodule = IWSLTDataModule(
            str(automatic), segmentation="automatic", test_splits=["tst2010"], tasks=["asr", "st"], num_workers=0
        )
        datamodule.prepare_data()
        lines = (datamodule.manifest_dir / "tst2010.references.jsonl").read_text(encoding="utf-8").splitlines()
        assert [json.loads(line) for line in lines] == [
            {
                "talk": "ted_2000",
                "segment": "1",
                "target": "de",
                "transcript": "First of the references.",
                "translation": "Der erste.",
            },
            {"talk": "ted_837", "segment": "1", "target": "de", "transcript": "Second.", "translation": "Der zweite."},
            {"talk": "ted_837", "segment": "2", "target": "de", "transcript": "Third.", "translation": "Der  dritte."},
        ]
        assert sum(len(batch) for batch in datamodule.test_dataloader()) == 8

    def test_a_list_of_ones_own(self, automatic):
        folder = automatic / "IWSLT.tst2010"
        (folder / "shas").mkdir()
        one = "{duration: 2.0, offset: 0.0,\n  wav: ted_837.wav}"
        (folder / "shas/tst2010.en-de.yaml").write_text(f"[{one}, {one.replace('837', '2000')}]")
        utterances, _ = read(automatic, "tst2010", segmentation="automatic", segments="shas/{split}.{pair}.yaml")
        assert [(one.id, one.duration_s) for one in utterances] == [
            ("en-de_ted_2000_0000", 2.0),
            ("en-de_ted_837_0000", 2.0),
        ]
        with pytest.raises(UserError, match=r"No list of segments of tst2010 in .*'own\.yaml'"):
            read(automatic, "tst2010", segmentation="automatic", segments="own.yaml")

    def test_selections_do_not_share_manifests(self, root):
        options = [{}, {"segmentation": "automatic"}, {"segments": "x.yaml"}, {"clean_transcripts": []}]
        folders = {IWSLTDataModule(str(root), **option).manifest_dir for option in options}
        assert len(folders) == 4


class TestFolders:
    @pytest.mark.parametrize(
        "place",
        ["IWSLT.tst2019", "tst2019/IWSLT.tst2019", "IWSLT23.tst2019.en-de/benchmark/en-de/tst2019", "."],
    )
    def test_a_set_is_found_wherever_it_was_unpacked(self, tmp_path, place):
        write_set(tmp_path / place, "tst2019", TST2019)
        (tmp_path / place / "wavs").rename(tmp_path / place / "wav")
        corpus = IWSLT(tmp_path, "en", ["de"])
        assert corpus.splits() == ["tst2019"]
        assert {path.name for path in corpus.files()} == {
            "FILE_ORDER",
            "IWSLT.TED.tst2019.en-de.yaml",
            "IWSLT.TED.tst2019.en-de.en.xml",
            "IWSLT.TED.tst2019.en-de.de.xml",
        }
        assert len(read(tmp_path)[0]) == 3

    def test_pairs_of_one_set_have_their_own_talks_and_order(self, tmp_path):
        write_set(tmp_path / "IWSLT.tst2022", "tst2022", TST2019)
        write_set(tmp_path / "IWSLT.tst2022", "tst2022", {"ted_9": TST2019["ted_837"]}, target="ja")
        (tmp_path / "IWSLT.tst2022/FILE_ORDER.en-de").write_text("ted_837\nted_2000\n")
        write_set(tmp_path / "IWSLT.tst2019", "tst2019", TST2019)
        corpus = IWSLT(tmp_path, "en", ["de", "ja"])
        assert corpus.splits() == ["tst2022"]
        utterances, _ = read(tmp_path, "tst2022", ("de", "ja"))
        assert [one.id[:11] for one in utterances] == ["en-de_ted_2", *["en-de_ted_8"] * 2, *["en-ja_ted_9"] * 2]
        datamodule = IWSLTDataModule(
            str(tmp_path), targets=["de", "ja"], tasks=["asr", "st"], test_splits=["tst2022"], num_workers=0
        )
        datamodule.prepare_data()
        rows = datamodule.eval_rows("test")
        assert [rows[n].task for n in range(len(rows))] == ["asr", "st"] * 3 + ["st"] * 2
        datamodule.corpus.segmentation = "automatic"
        found, _ = read(tmp_path, "tst2022", segmentation="automatic")
        assert [one.speaker for one in found] == ["ted_837", "ted_837", "ted_2000"]

    def test_older_lists(self, automatic):
        (automatic / "IWSLT.tst2010/test-db.yaml").rename(automatic / "IWSLT.tst2010/test-db-tst2010.yaml")
        assert len(read(automatic, "tst2010", segmentation="automatic")[0]) == 4

    def test_what_is_missing_is_named(self, root, tmp_path):
        with pytest.raises(UserError, match=r"No IWSLT test set of en-ja in .*IWSLT\.TED\.tst2019\.en-ja\.yaml"):
            IWSLT(root, "en", ["ja"]).splits()
        with pytest.raises(UserError, match="There is no such folder"):
            IWSLT(tmp_path / "nowhere", "en", ["de"]).splits()
        with pytest.raises(UserError, match=r"No IWSLT test set 'tst2018'.*Did you mean 'tst2019'"):
            read(root, "tst2018")
        with pytest.raises(
            UserError, match=r"`segmentation` is given or automatic, not 'auto'\. Did you mean 'automatic'"
        ):
            IWSLTDataModule(str(root), segmentation="auto")
        with pytest.raises(UserError, match="language 'zx'"):
            IWSLTDataModule(str(root), targets=["zx"])
        with pytest.raises(UserError, match="each once"):
            IWSLTDataModule(str(root), targets=["de", "de"])
        (root / "IWSLT.tst2019/IWSLT.TED.tst2019.en-de.yaml").unlink()
        with pytest.raises(UserError, match=r"No list of segments of tst2019.*'test-db\.yaml'"):
            read(root)

    def test_there_is_nothing_to_train_on(self, root):
        datamodule = IWSLTDataModule(str(root), num_workers=0)
        datamodule.prepare_data()
        with pytest.raises(UserError, match="holds test sets alone, and nothing to train on"):
            datamodule.setup("fit")
        datamodule.setup("test")


class TestReferences:
    def test_unescaped_signs_quotes_and_case(self, tmp_path):
        path = tmp_path / "a.xml"
        path.write_bytes(
            b"<?xml version='1.0'?><mteval>\n<DOC genre='x' docid = 'talk & so'>\n<keywords>a & b</keywords>\n"
            b"<seg id='1'> R&D &amp; AT&amp;T, 1 < 2 > 0 &#8220;so&#8221;\xe2\x80\xa8here </seg>\r\n"
            b'<SEG type="x" id="2">\nTwo\nlines\r\n</SEG ></DOC></mteval>'
        )
        assert read_references(path) == {"talk & so": {"1": "R&D & AT&T, 1 < 2 > 0 “so”\u2028here", "2": "Two lines"}}

    def test_entities_of_a_document_type_mean_nothing(self, tmp_path):
        path = tmp_path / "a.xml"
        secret = tmp_path / "secret"
        secret.write_text("secret")
        path.write_text(
            f'<!DOCTYPE x [<!ENTITY a "ha"><!ENTITY b "&a;&a;"><!ENTITY c SYSTEM "file://{secret}">]>'
            '<doc docid="1"><seg id="1">&b; &c;</seg></doc>'
        )
        assert read_references(path) == {"1": {"1": "&b; &c;"}}

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ('<doc docid="1">\n<seg id="1">One\n<seg id="2">Two</seg></doc>', r"line 2: the segment 1 is not closed"),
            ('<doc docid="1">\n<seg id="1">One</seg>\n<seg id="2">Tw', r"line 3: the segment 2 is not closed"),
            ('<doc docid="1"><seg id="1">a</seg>\n<seg id="1">b</seg></doc>', r"line 2: the segment 1 comes twice"),
            ('<doc docid="1"><seg>a</seg></doc>', r"line 1: '<seg>' has no id"),
            ("<doc><seg>a</seg></doc>", r"line 1: '<doc>' has no docid"),
            ('<seg id="1">a</seg>', r"line 1: the segment 1 is in no talk"),
            ("", "has no segment"),
            ('<doc docid="1"></doc>', "has no segment"),
        ],
    )
    def test_wrong_files_are_refused(self, tmp_path, text, message):
        (tmp_path / "a.xml").write_text(text)
        with pytest.raises(UserError, match=message):
            read_references(tmp_path / "a.xml")

    def test_languages_must_match(self, root):
        rewrite(
            root / "IWSLT.tst2019/IWSLT.TED.tst2019.en-de.de.xml",
            lambda text: text.replace('<seg id="2">   Der  dritte.  </seg>\n', ""),
        )
        with pytest.raises(
            UserError, match=r"en\.xml' has 3 segments in 2 talks and .*de\.xml' has 2 segments in 2 talks"
        ):
            read(root)

    def test_talks_are_matched_by_their_numbers_or_else_by_their_order(self):
        talks = ["tst2010.en.talkid0837", "tst2010.en.talkid93"]
        assert match_talks(["93", "837"], talks) == {"93": talks[1], "837": talks[0]}
        assert match_talks(["837"], talks) == {"837": talks[0]}
        assert match_talks(["one", "two"], talks) == {"one": talks[0], "two": talks[1]}
        assert match_talks(["2.1", "3.1"], ["a1", "b1"]) == {"2.1": "a1", "3.1": "b1"}
        with pytest.raises(ValueError, match="argument 2 is longer"):
            match_talks(["one"], talks)

    def test_talks_that_do_not_match_are_named(self, root):
        rewrite(
            root / "IWSLT.tst2019/IWSLT.TED.tst2019.en-de.yaml",
            lambda text: "\n".join(line for line in text.split("\n") if "ted_2000" not in line),
        )
        with pytest.raises(UserError, match=r"are of 2 talks \(2000, 837\), and .* lists 1 \(ted_837\)"):
            read(root)


class TestStamped:
    def test_files_and_texts_without_header_and_with_line_ends_of_windows(self, tmp_path):
        utterances, tally = read_stamped(write_stamped(tmp_path))
        assert [(one.id, one.duration_s, one.transcript, one.translations) for one in utterances] == [
            (f"train_{n}", pytest.approx(0.4 + 0.1 * n), "", {"en": f'Sentence {n} of train, "so".'}) for n in range(3)
        ]
        assert (tally.rejected, tally.changed) == ({}, {})

    def test_it_is_trained_on_and_scored(self, tmp_path):
        root = write_stamped(tmp_path / "data").parent
        datamodule = IWSLTDataModule(
            str(root), source="ga", targets=["en"], test_splits=["test-2023", "test-2024"], num_workers=0
        )
        datamodule.prepare_data()
        assert datamodule.corpus.splits() == ["train", "dev", "test-2023", "test-2024"]
        assert datamodule.corpus.published()["train"] == 7_478
        assert len(datamodule.train_rows().rows) == 3
        texts = {}
        for batch in datamodule.test_dataloader():
            texts |= dict(zip(batch.ids, batch.translations, strict=True))
        assert texts == {
            "test-2023_0": 'Sentence 0 of test-2023, "so".',
            "test-2023_1": 'Sentence 1 of test-2023, "so".',
            "test-2024_0": "",
        }

    def test_transcripts_where_there_are_any(self, tmp_path):
        root = write_stamped(tmp_path)
        (root / "train/txt/train.gle").write_text("Abairt a náid. (Gáire)\nA haon\nA dó\n", encoding="utf-8")
        (root / "train/txt/notes.bak").write_text("not a text")
        utterances, tally = read_stamped(root)
        assert [one.transcript for one in utterances] == ["Abairt a náid.", "A haon", "A dó"]
        assert tally.changed == {"transcript cleaned": 1}

    def test_a_stretch_of_a_file_and_the_same_file_again(self, tmp_path):
        root = write_stamped(tmp_path)
        (root / "train/stamped.tsv").write_text(
            "wav/train_1.wav\t0.1\t0.3\nwav/train_1.wav\t0.3\t0.5\nwav/train_0.wav\t0.3\t0.2\n"
        )
        utterances, tally = read_stamped(root)
        assert [(one.id, one.offset_s) for one in utterances] == [("train_1", 0.1), ("train_1_2", 0.3)]
        assert [one.duration_s for one in utterances] == pytest.approx([0.2, 0.2])
        assert sum(tally.rejected.values()) == 1

    @pytest.mark.parametrize(
        ("line", "message"),
        [
            ("wav/train_1.wav\t0.0", "line 2: needs a file, a begin and an end, divided by tabs; it has 2 fields"),
            ("", "line 2: needs a file"),
            ("wav/train_1.wav\t0.0\tx", "line 2: the time is 'x'"),
        ],
    )
    def test_wrong_lines_are_named(self, tmp_path, line, message):
        root = write_stamped(tmp_path)
        lines = (root / "train/stamped.tsv").read_text().split("\n")
        (root / "train/stamped.tsv").write_text("\n".join([lines[0], line, *lines[2:]]))
        with pytest.raises(UserError, match=rf"stamped\.tsv, {message}"):
            read_stamped(root)

    def test_what_is_missing_or_does_not_match(self, tmp_path):
        root = write_stamped(tmp_path)
        with pytest.raises(UserError, match=r"train/txt' has no text in any of the languages ga, de"):
            read_stamped(root, targets=("de",))
        rewrite(root / "train/txt/train.eng", lambda text: text + "One more.\r\n")
        with pytest.raises(UserError, match=r"stamped\.tsv' has 3 lines, and .*train\.eng' 4"):
            read_stamped(root)
        with pytest.raises(UserError, match=r"No split 'test-2025'.*Did you mean 'test-202[34]'"):
            read_stamped(root, "test-2025")
        with pytest.raises(UserError, match=r"No '<split>/stamped\.tsv'"):
            StampedCorpus("iwslt", tmp_path / "nowhere", "ga", ["en"], []).splits()
        with pytest.raises(UserError, match="`segmentation` and `segments` are for test sets of talks"):
            IWSLTDataModule(str(root), source="ga", targets=["en"], segmentation="automatic")


def test_stereo_and_rates_of_the_fake_are_odd():
    assert [(rate, channels) for rate, channels, _ in TST2018.values()] == [(48_000, 1), (22_050, 2)]
