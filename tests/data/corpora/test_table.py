"""Tables of one's own files, quirk by quirk."""

import json

import pytest
import soundfile

import speechllm.data
from speechllm.data import TableDataModule
from speechllm.data.corpora.table import Table
from speechllm.data.manifest import Tally
from speechllm.errors import UserError
from tests.corpora.must_c import tone
from tests.corpora.table import write_fake


@pytest.fixture
def root(tmp_path):
    """A folder with four clips of 0.5 to 0.8 s, the last at 8 kHz."""
    (tmp_path / "clips").mkdir()
    for number in range(4):
        rate = 8_000 if number == 3 else 16_000
        soundfile.write(tmp_path / "clips" / f"{number}.wav", tone(0.5 + number / 10, 300.0, rate), rate)
    return tmp_path


def read(root, content, name="train.csv", source="en", target=None):
    """Write a table and read it; return its utterances and the tally."""
    split = name.partition(".")[0].rpartition("/")[2]
    path = root / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    tally = Tally()
    return list(Table(root, {split: name}, source, target).read(split, tally)), tally


def texts(utterances):
    return [(utterance.id, utterance.transcript, utterance.translations) for utterance in utterances]


def test_the_three_formats_say_the_same(root):
    expected = [
        ("clips/0.wav", 'He said "yes", she no.', {"de": "Er sagte „ja“."}),
        ("clips/1.wav", "Two", {"de": '"Zwei"'}),
    ]
    csv = (
        "audio,transcript,translation\n"
        'clips/0.wav,"He said ""yes"", she no.",Er sagte „ja“.\nclips/1.wav,Two,"""Zwei"""\n'
    )
    tsv = (
        "audio\ttranscript\ttranslation\n"
        'clips/0.wav\tHe said "yes", she no.\tEr sagte „ja“.\nclips/1.wav\tTwo\t"Zwei"\n'
    )
    rows = [{"audio": name, "transcript": text, "translation": german["de"]} for name, text, german in expected]
    jsonl = "".join(json.dumps(row) + "\n" for row in rows)
    for name, content in (("train.csv", csv), ("train.tsv", tsv), ("train.jsonl", jsonl)):
        utterances, tally = read(root, content, name, target="de")
        assert texts(utterances) == expected, name
        assert not tally.rejected
        assert not tally.changed


def test_a_tsv_from_pandas_has_its_quotes_undone(root):
    content = 'audio\ttranscript\nclips/0.wav\t"She said ""no""."\nclips/1.wav\t"Quoted" and "quoted"\nclips/2.wav\t"\n'
    utterances, _ = read(root, content, "train.tsv")
    assert [utterance.transcript for utterance in utterances] == ['She said "no".', '"Quoted" and "quoted"', '"']


def test_marks_line_ends_and_empty_lines_are_passed_over(root):
    for name, separator in (("train.csv", ","), ("train.tsv", "\t")):
        content = f"\ufeffaudio{separator}transcript\r\n\r\nclips/0.wav{separator}One\r\nclips/1.wav{separator}Two"
        assert [text for _, text, _ in texts(read(root, content, name)[0])] == ["One", "Two"]
    content = '\ufeff{"audio": "clips/0.wav", "transcript": "One"}\r\n\r\n'
    assert [text for _, text, _ in texts(read(root, content, "train.jsonl")[0])] == ["One"]


def test_text_is_left_as_it_is(root):
    composed, decomposed = "\u00e9", "e\u0301"
    content = (
        f'audio,transcript\nclips/0.wav," {composed} "\nclips/1.wav,{decomposed}\nclips/2.wav,"two\nlines\u2028"\n'
    )
    utterances, _ = read(root, content)
    assert [utterance.transcript for utterance in utterances] == [f" {composed} ", decomposed, "two\nlines\u2028"]


def test_durations_come_from_the_header_where_the_table_has_none(root):
    content = (
        "audio,transcript,offset,duration\n"
        "clips/0.wav,a,,\nclips/1.wav,b,0.2,\nclips/2.wav,c,0.1,0.3\nclips/3.wav,d,,\n"
    )
    utterances, _ = read(root, content)
    stretches = [(utterance.offset_s, round(utterance.duration_s, 3)) for utterance in utterances]
    assert stretches == [(0.0, 0.5), (0.2, 0.4), (0.1, 0.3), (0.0, 0.8)]
    assert [utterance.id for utterance in utterances] == [
        "clips/0.wav",
        "clips/1.wav:0.200",
        "clips/2.wav:0.100+0.300",
        "clips/3.wav",
    ]
    assert utterances[3].sampling_rate == 8_000


def test_a_duration_that_is_given_is_not_looked_up(root, monkeypatch):
    monkeypatch.setattr("speechllm.data.reading.headers.audio_info", lambda path: pytest.fail("the header was read"))
    (utterance,), _ = read(root, "audio,transcript,duration\nclips/0.wav,a,0.4\n")
    assert utterance.duration_s == 0.4


def test_audio_is_named_from_the_tables_folder(root):
    (root / "lists").mkdir()
    (utterance,), _ = read(root, "audio,transcript\n../clips/0.wav,a\n", "lists/train.csv")
    assert utterance.duration_s == 0.5
    (utterance,), _ = read(root, f"audio,transcript\n{root}/clips/1.wav,a\n", "lists/train.csv")
    assert utterance.audio == f"{root}/clips/1.wav"


def test_translations_by_columns_and_by_rows(root):
    expected = [("clips/0.wav", "One", {"de": "Eins", "fr": "Un"}), ("clips/1.wav", "Two", {"fr": "Deux"})]
    content = "audio,transcript,translation_de,translation_fr\nclips/0.wav,One,Eins,Un\nclips/1.wav,Two,,Deux\n"
    utterances, tally = read(root, content)
    assert texts(utterances) == expected
    assert tally.changed == {"the translation into de is empty": 1}
    content = (
        "audio,transcript,translation,target\n"
        "clips/0.wav,One,Eins,de\nclips/1.wav,Two,Deux,fr\nclips/0.wav,One,Un,fr\nclips/0.wav,One,Une,fr\n"
    )
    utterances, tally = read(root, content)
    assert texts(utterances) == expected
    assert tally.rejected == {"the same audio and target again": 1}


def test_languages_and_speakers_are_the_rows_own_or_the_default(root):
    content = "audio,transcript,source,speaker,translation\nclips/0.wav,Un,fr,anna,Eins\nclips/1.wav,Two,,,Zwei\n"
    utterances, _ = read(root, content, target="de")
    assert [(utterance.source_language, utterance.speaker) for utterance in utterances] == [("fr", "anna"), ("en", "")]
    assert {utterance.corpus for utterance in utterances} == {"table"}


def test_what_cannot_be_trained_on_is_counted(root):
    (root / "clips" / "empty.wav").touch()
    content = (
        "audio,transcript,translation\nclips/0.wav,One,Eins\nclips/empty.wav,a,b\nclips/none.wav,a,b\nclips/1.wav,,Zwei\n"
        "clips/2.wav,,\n,a,b\nclips/3.wav,a\nclips/0.wav,Other,Anders\n"
    )
    utterances, tally = read(root, content, target="de")
    assert texts(utterances) == [("clips/0.wav", "One", {"de": "Eins"}), ("clips/1.wav", "", {"de": "Zwei"})]
    assert tally.rejected == {
        "audio is missing, empty or damaged": 2,
        "neither transcript nor translation": 1,
        "no audio is named": 1,
        "2 cells for 3 columns": 1,
        "another transcript of the same audio": 1,
    }
    assert tally.changed == {"the transcript is empty": 2, "the translation into de is empty": 1}


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (
            "clips/none.wav,a,b\nclips/nor.wav,a,b\n",
            r"None of the audio files of the split 'test' exists \(2 utt.*none\.wav' .*line 2.*table's folder",
        ),
        ("clips/0.wav,a,b\n,a,b\n", "line 3: no audio is named. A test set must be whole"),
        ("clips/0.wav,a\n", "line 2: 2 cells for 3 columns. A cell with a comma in it must stand in quotes"),
        ("clips/0.wav,a,b\nclips/0.wav,x,b\n", "line 3: another transcript of the same audio as .*line 2"),
        ("clips/0.wav,a,b\nclips/0.wav,a,b\n", "line 3: the same audio and target again as .*line 2"),
    ],
)
def test_a_test_row_is_never_left_out_in_silence(root, rows, message):
    with pytest.raises(UserError, match=message):
        read(root, f"audio,transcript,translation\n{rows}", "test.csv", target="de")


def test_test_rows_without_references_and_silent_clips_stay(root):
    (root / "clips" / "empty.wav").touch()
    content = "audio,transcript,translation\nclips/0.wav,One,\nclips/empty.wav,Two,Zwei\nclips/none.wav,Three,Drei\n"
    utterances, tally = read(root, content, "test.csv", target="de")
    assert texts(utterances) == [
        ("clips/0.wav", "One", {"de": ""}),
        ("clips/empty.wav", "Two", {"de": "Zwei"}),
        ("clips/none.wav", "Three", {"de": "Drei"}),
    ]
    assert [utterance.duration_s for utterance in utterances[1:]] == [1 / 16_000, 1 / 16_000]
    assert tally.changed == {
        "the translation into de is empty": 1,
        "audio is missing, empty or damaged, and counts as silence": 2,
    }
    assert not tally.rejected
    utterances, _ = read(root, "audio\nclips/0.wav\nclips/1.wav\n", "test.csv", target="de")
    assert texts(utterances) == [("clips/0.wav", "", {"de": ""}), ("clips/1.wav", "", {"de": ""})]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            "audi,transcript\nclips/0.wav,a\n",
            r"no column 'audio'. Did you mean 'audi'\? Its columns are: audi, transcript",
        ),
        ("audio;transcript\nclips/0.wav;a\n", "A .csv file separates its columns by a comma"),
        ("", "no column 'audio'. Its columns are: none"),
        ("audio,transcription\nclips/0.wav,a\n", "neither a column 'transcript'.* Did you mean 'transcription'"),
        ("audio,audio\n", "the column audio more than once"),
        ('audio,transcript\nclips/1.wav,a\nclips/0.wav,"He said "no""\n', "line 3: .*Double the quotes"),
        ('audio,transcript\nclips/1.wav,a\nclips/0.wav,"open\nclips/1.wav,b\n', "line 3: .*unexpected end"),
        (b"audio,transcript\nclips/0.wav,caf\xe9\n", r"train\.csv' is not UTF-8 in line 2: .* Save it as UTF-8"),
        (
            "audio,transcript,source\nclips/0.wav,a,en\nclips/1.wav,b,ge\n",
            "line 3: unknown language 'ge'. Did you mean",
        ),
        ("audio,transcript,translation_ger\nclips/0.wav,a,b\n", "line 2: unknown language 'ger'"),
        ("audio,transcript,translation\nclips/0.wav,a,b\n", "line 2: no target language. Add a column `target`"),
        ("audio,transcript,duration\nclips/0.wav,a,1:30\n", "line 2: `duration` is '1:30', and must be a number"),
        ("audio,transcript,duration\nclips/0.wav,a,0\n", "line 2: `duration` is 0, and must be above"),
        ("audio,transcript,offset\nclips/0.wav,a,-1\n", "line 2: `offset` is '-1'"),
        ("audio,transcript,id\nclips/0.wav,a,x\nclips/1.wav,b,x\n", "line 3: the id 'x' is already that of .*line 2"),
        ("audio,transcript\nnone/0.wav,a\nnone/1.wav,b\n", r"None of the audio .*\(2 utt.*none/0.wav' .*line 2"),
        (f"audio,transcript\n{'long/' * 2000}.wav,a\n", "None of the audio files"),
        ("audio,transcript\nclips/\0.wav,a\n", "None of the audio files"),
    ],
)
def test_mistakes_are_named_with_their_place(root, content, message):
    with pytest.raises(UserError, match=message):
        read(root, content)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"audio": "clips/0.wav"', "line 2: not JSON"),
        ('["clips/0.wav"]', "line 2: not a JSON object"),
        ('{"audoi": "clips/0.wav"}', "line 2: no 'audio'. Did you mean 'audoi'"),
        (
            '{"audio": "clips/0.wav", "transcript": ["a"]}',
            r"line 2: `transcript` must be a text or a number, but is \['a'\]",
        ),
        (r'{"audio": "clips/0.wav", "transcript": "\ud800"}', "line 2: not JSON: .*surrogates not allowed"),
        (f"{'[' * 100_000}", "line 2: the objects in it are nested too deeply"),
    ],
)
def test_mistakes_in_json_lines(root, line, message):
    with pytest.raises(UserError, match=message):
        read(root, f'{{"audio": "clips/1.wav", "transcript": "a", "tags": [1]}}\n{line}\n', "train.jsonl")


def test_rows_need_a_source_language(root):
    with pytest.raises(UserError, match="line 2: no source language"):
        read(root, "audio,transcript\nclips/0.wav,a\n", source=None)
    with pytest.raises(UserError, match="unknown language 'xx'"):
        Table(root, {}, "xx", None)


def test_a_stretch_past_the_end_is_left_out_of_training_alone(root):
    content = "audio,transcript,offset\nclips/0.wav,a,0.6\nclips/0.wav,b,0.1\n"
    utterances, tally = read(root, content)
    assert [utterance.transcript for utterance in utterances] == ["b"]
    assert tally.rejected == {"stretch of no length, or past the end of the audio": 1}
    utterances, tally = read(root, content, "test.csv")
    assert [(utterance.transcript, round(utterance.duration_s * 16_000)) for utterance in utterances] == [
        ("a", 1),
        ("b", 6_400),
    ]
    assert tally.changed == {"stretch of no length, or past the end of the audio, and is one sample": 1}


def test_a_transcript_that_comes_later_is_joined(root):
    content = "audio,transcript,translation\nclips/0.wav,,Eins\nclips/0.wav,One,\n"
    utterances, tally = read(root, content, target="de")
    assert texts(utterances) == [("clips/0.wav", "One", {"de": "Eins"})]
    assert not tally.rejected


def test_columns_that_look_like_another_are_named(root, caplog):
    read(root, "audio,transcript,durations,mood\nclips/0.wav,a,0.5,glad\n")
    assert "the column 'durations' is not read. Did you mean 'duration'?" in caplog.text
    assert "mood" not in caplog.text


def test_selections_do_not_share_manifests_and_a_changed_table_is_read_anew(tmp_path):
    options = write_fake(tmp_path).options | {"num_workers": 0}
    datamodule = TableDataModule(**options)
    assert datamodule.manifest_dir != TableDataModule(**options | {"target": "fr"}).manifest_dir
    assert datamodule.manifest_dir != TableDataModule(**options | {"train": "dev.tsv"}).manifest_dir
    datamodule.prepare_data()
    rows = len(datamodule.train_rows().rows)
    with (tmp_path / "train.csv").open("a") as file:
        file.write("clips/dev_0.wav,Three,Drei,,,\n")
    datamodule.prepare_data()
    assert len(datamodule.train_rows().rows) == rows + 3


def test_the_name_stands_in_the_batches(tmp_path):
    datamodule = TableDataModule(**write_fake(tmp_path).options, name="mine", num_workers=0)
    datamodule.prepare_data()
    (batch,) = datamodule.test_dataloader()
    assert set(batch.corpora) == {"mine"}


def test_tables_are_found_or_named(root):
    with pytest.raises(UserError, match=r"No table in .*looked for <split>\.csv.*It holds: clips\. Name the tables"):
        Table(root, {}, "en", None).splits()
    with pytest.raises(UserError, match="No such folder"):
        Table(root / "none", {}, "en", None).splits()
    (root / "dev.tsv").write_text("audio\ttranscript\n")
    assert Table(root, {}, "en", None).splits() == ["dev"]
    with pytest.raises(UserError, match=r"The table of `train`, .*my\.csv', does not exist"):
        Table(root, {"train": "my.csv"}, "en", None).splits()
    (root / "dev.csv").write_text("audio,transcript\n")
    with pytest.raises(UserError, match=r"several tables of the split dev: 'dev\.csv', 'dev\.tsv'. Say which: `dev`"):
        Table(root, {}, "en", None).splits()
    (root / "dev.xlsx").touch()
    with pytest.raises(UserError, match=r"A table ends in one of \.csv, \.tsv, \.jsonl, but this is .*dev\.xlsx"):
        read(root, "", "dev.xlsx")


def test_it_can_be_named_in_a_recipe():
    assert "TableDataModule" in speechllm.data.__all__
