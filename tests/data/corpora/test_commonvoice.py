"""Common Voice as it is on disk, release by release and quirk by quirk."""

import pytest
import soundfile

from speechllm.audio import read_audio
from speechllm.data.corpora.commonvoice import CommonVoice, CommonVoiceDataModule
from speechllm.data.manifest import Tally
from speechllm.data.reading.text import quotes
from speechllm.errors import UserError
from tests.corpora.commonvoice import COLUMNS, VALID, write_clips, write_durations, write_fake, write_list
from tests.data.damage import check_damage

# (clip, duration in s, speaker, sentence)
TRAIN = [
    ("common_voice_sv-SE_1.mp3", 0.3, "a", "Hej."),
    ("common_voice_sv-SE_2.mp3", 0.4, "a", "N/A"),
    ("common_voice_sv-SE_3.mp3", 0.5, "b", 'Han sa "nej.'),
]
DEV = [("common_voice_sv-SE_4.mp3", 0.3, "c", "Fyra.")]
TEST = [("common_voice_sv-SE_5.mp3", 0.3, "d", "Fem."), ("common_voice_sv-SE_6.mp3", 0.4, "d", "Sex.")]
SILENT = "clip is missing, empty or damaged, and counts as silence"


def write(folder, release="6.1", train=TRAIN, dev=DEV, test=TEST):
    """Write a language with the lists and columns of a release, and return its folder."""
    for split, rows in {"train": train, "dev": dev, "test": test}.items():
        write_list(folder / f"{split}.tsv", rows, release)
        write_clips(folder, rows)
    write_list(folder / "validated.tsv", [*train, *dev, *test], release)
    return folder


def read(root, split="train", languages=("sv-SE",), **options):
    tally = Tally()
    return list(CommonVoice(root, list(languages), **options).read(split, tally)), tally


def ids(utterances):
    return [utterance.id.removeprefix("common_voice_sv-SE_") for utterance in utterances]


def replace(path, old, new):
    content = path.read_bytes()
    assert old in content
    path.write_bytes(content.replace(old, new))


@pytest.mark.parametrize("release", COLUMNS)
def test_every_release_is_read_by_the_names_of_its_columns(tmp_path, release):
    write(tmp_path / f"cv-corpus-{release}-2020-01-01" / "sv-SE", release)
    utterances, tally = read(tmp_path)
    assert [(one.id, one.duration_s, one.speaker, one.transcript) for one in utterances] == [
        (clip.removesuffix(".mp3"), *rest) for clip, *rest in TRAIN
    ]
    assert {(one.source_language, one.corpus, one.sampling_rate) for one in utterances} == {
        ("sv-SE", "commonvoice", 48_000)
    }
    assert tally == Tally()
    assert CommonVoice(tmp_path, ["sv-SE"]).version == release


def test_releases_are_told_by_their_folders(tmp_path):
    folder = write(tmp_path / "cv-corpus-17.0-2024-03-15/sv-SE")
    inside = folder.parent
    (tmp_path / "link").symlink_to(inside)
    for root in (tmp_path, inside, folder, tmp_path / "link"):
        assert CommonVoice(root, ["sv-SE"]).version == "17.0"
        assert ids(read(root)[0]) == ["1", "2", "3"]
    write(tmp_path / "cv-corpus-11.0-delta-2022-09-21/sv-SE")
    assert CommonVoice(tmp_path / "cv-corpus-11.0-delta-2022-09-21", ["sv-SE"]).version == "11.0-delta"
    assert ids(read(tmp_path)[0]) == ["1", "2", "3"]
    write(tmp_path / "cv-corpus-4-2019-12-10/sv-SE")
    with pytest.raises(UserError, match=r"'sv-SE' several times in .*cv-corpus-17\.0.*Give `root` the folder of one"):
        read(tmp_path)
    folder.rename(tmp_path / "sv-SE")
    assert CommonVoice(tmp_path / "sv-SE", ["sv-SE"]).version == "unknown"


def test_very_old_lists_leave_the_suffix_out_and_copies_add_folders(tmp_path):
    names = ["d9" * 64, "clips/common_voice_sv-SE_2.mp3", "common_voice_sv-SE_3.mp3"]
    write(tmp_path / "sv-SE", "4")
    write_clips(tmp_path / "sv-SE", [(names[0], 0.2)])
    write_list(tmp_path / "sv-SE/train.tsv", [(name, 0.0, "a", name) for name in names], "4")
    utterances, tally = read(tmp_path)
    assert ids(utterances) == ["d9" * 64, "2", "3"]
    assert [one.duration_s for one in utterances] == [0.2, 0.4, 0.5]
    assert tally == Tally()


def test_listed_durations_save_opening_training_clips(tmp_path):
    folder = write(tmp_path / "sv-SE", "17.0")
    write_durations(folder, [(clip, 10 * duration_s) for clip, duration_s, *_ in [*TRAIN[:2], *DEV, *TEST]])
    for number in (1, 4):
        (folder / f"clips/common_voice_sv-SE_{number}.mp3").write_bytes(b"not opened")
    (folder / "clips/common_voice_sv-SE_6.mp3").unlink()
    assert [one.duration_s for one in read(tmp_path)[0]] == [3.0, 4.0, 0.5]
    assert [one.duration_s for one in read(tmp_path, "dev")[0]] == [3.0]
    measured, tally = read(tmp_path, "test")
    assert [one.duration_s for one in measured] == [0.3, 1 / 16_000]
    assert tally.changed == {SILENT: 1}
    assert folder / "clip_durations.tsv" in CommonVoice(tmp_path, ["sv-SE"]).files()


@pytest.mark.parametrize("row", ["", "x\t", "\tx", "{clip}\t", "{clip}\tnan", "{clip}\tinf", "{clip}\t-5", "{clip}\t0"])
def test_wrong_durations_are_measured_instead(tmp_path, row):
    folder = write(tmp_path / "sv-SE", "17.0")
    write_durations(folder, [], "filename")
    with (folder / "clip_durations.tsv").open("a", encoding="utf-8") as file:
        file.write(f"{row.format(clip=TRAIN[0][0])}\n{TRAIN[1][0]}\t1250\n")
    assert [one.duration_s for one in read(tmp_path)[0]] == [0.3, 1.25, 0.5]


def test_the_last_duration_of_a_list_that_is_cut_off_is_measured_instead(tmp_path):
    folder = write(tmp_path / "sv-SE", "17.0")
    write_durations(folder, [(TRAIN[1][0], 1.25), (TRAIN[0][0], 9.0)])
    path = folder / "clip_durations.tsv"
    path.write_bytes(path.read_bytes()[:-2])
    assert [one.duration_s for one in read(tmp_path)[0]] == [0.3, 1.25, 0.5]


@pytest.mark.parametrize(
    ("sentence", "transcript"),
    [
        ('"""Good-bye,"" said the boy."', '"Good-bye," said the boy.'),
        ('"Probier\'s mal!"', "Probier's mal!"),
        ('""', ""),
        ('"Ja", sagte er, "nein"', '"Ja", sagte er, "nein"'),
        ('"open', '"open'),
        ('"', '"'),
        ("„Ja“", "„Ja“"),
        ("", ""),
    ],
)
def test_quotes_that_an_export_put_around_sentences_come_off(sentence, transcript):
    assert quotes(sentence) == transcript


def test_transcripts_are_cleaned_or_verbatim(tmp_path):
    quoted = [(clip, duration_s, speaker, f'"{text}"') for clip, duration_s, speaker, text in TEST]
    write(tmp_path / "sv-SE", test=quoted)
    utterances, tally = read(tmp_path, "test")
    assert [one.transcript for one in utterances] == ["Fem.", "Sex."]
    assert tally.changed == {"transcript cleaned": 2}
    utterances, tally = read(tmp_path, "test", clean_transcripts=[])
    assert [one.transcript for one in utterances] == ['"Fem."', '"Sex."']
    assert tally == Tally()


def test_validated_trains_on_nothing_that_is_scored(tmp_path):
    folder = write(tmp_path / "sv-SE")
    more = [
        ("common_voice_sv-SE_7.mp3", 0.3, "b", "Hej."),
        ("common_voice_sv-SE_8.mp3", 0.3, "c", "Av en som hörs i dev."),
        ("common_voice_sv-SE_9.mp3", 0.3, "", "Fem."),
        ("common_voice_sv-SE_10.mp3", 0.3, "", "Utan talare."),
    ]
    write_list(folder / "validated.tsv", [*TRAIN, *DEV, *TEST, *more], "6.1")
    write_clips(folder, more)
    utterances, tally = read(tmp_path, train_split="validated")
    assert ids(utterances) == ["1", "2", "3", "7", "10"]
    assert tally.rejected == {
        "validated, but its clip is in dev or test": 3,
        "validated, but its speaker is in dev or test": 1,
        "validated, but its sentence is in dev or test": 1,
    }
    assert ids(read(tmp_path, "dev", train_split="validated")[0]) == ["4"]
    assert ids(read(tmp_path)[0]) == ["1", "2", "3"]


def test_training_leaves_out_what_cannot_be_used(tmp_path):
    wrong = [
        ("common_voice_sv-SE_20.mp3", 0.3, "x", '""'),
        TRAIN[0],
        ("common_voice_sv-SE_21.mp3", 0.3, "x", "Tom."),
    ]
    folder = write(tmp_path / "sv-SE", train=[*TRAIN, *wrong])
    (folder / "clips/common_voice_sv-SE_21.mp3").write_bytes(b"")
    utterances, tally = read(tmp_path)
    assert ids(utterances) == ["1", "2", "3"]
    assert tally.rejected == {"no sentence": 1, "the same clip again": 1, "clip is missing, empty or damaged": 1}


def test_test_rows_all_stay(tmp_path):
    wrong = [("common_voice_sv-SE_20.mp3", 0.3, "x", '""'), TEST[0], ("common_voice_sv-SE_21.mp3", 0.3, "x", "Tom.")]
    folder = write(tmp_path / "sv-SE", test=[*TEST, *wrong])
    (folder / "clips/common_voice_sv-SE_21.mp3").write_bytes(b"")
    (folder / "clips/common_voice_sv-SE_6.mp3").unlink()
    utterances, tally = read(tmp_path, "test")
    assert ids(utterances) == ["5", "6", "20", "5-2", "21"]
    assert [round(16_000 * one.duration_s) for one in utterances] == [4_800, 1, 4_800, 4_800, 1]
    assert tally.changed == {
        SILENT: 2,
        "transcript cleaned": 1,
        "the same clip again, with an id of its own": 1,
    }
    assert not tally.rejected


def test_rates_are_those_of_the_clips(tmp_path):
    fake = write_fake(tmp_path)
    utterances, _ = read(tmp_path, "test", fake.options["languages"])
    assert [one.sampling_rate for one in utterances] == [48_000, 48_000, 32_000]
    assert [len(read_audio(one.audio, 0.0, one.duration_s)) for one in utterances] == [11_200, 3_200, 4_800]
    assert [one.id for one in utterances] == [expected.id for expected in fake.splits["test"]]


def test_releases_without_splits_are_named(tmp_path):
    folder = write(tmp_path / "cv-corpus-13.0-2023-03-09/sv-SE")
    (folder / "test.tsv").unlink()
    with pytest.raises(
        UserError, match=r"sv-SE' has no test\.tsv; its lists: dev\.tsv, train\.tsv, validated\.tsv.*13\.0"
    ):
        CommonVoice(tmp_path, ["sv-SE"]).splits()
    write(tmp_path / "sv-SE")
    (tmp_path / "sv-SE/validated.tsv").unlink()
    assert CommonVoice(tmp_path / "sv-SE", ["sv-SE"]).splits() == ["train", "dev", "test"]
    with pytest.raises(UserError, match=r"has no validated\.tsv"):
        CommonVoice(tmp_path / "sv-SE", ["sv-SE"], "validated").splits()


def test_copies_call_dev_validation(tmp_path):
    folder = write(tmp_path / "sv-SE")
    (folder / "dev.tsv").rename(folder / "validation.tsv")
    assert CommonVoice(tmp_path, ["sv-SE"]).splits() == ["train", "dev", "test"]
    assert ids(read(tmp_path, "dev")[0]) == ["4"]


def test_wrong_options_and_roots_are_named(tmp_path):
    (tmp_path / "sv").mkdir()
    with pytest.raises(UserError, match=r"No Common Voice clips of 'sv-SE' in .*holds: sv\. Did you mean 'sv'\?"):
        CommonVoice(tmp_path, ["sv-SE"]).splits()
    with pytest.raises(UserError, match="No such folder"):
        CommonVoice(tmp_path / "absent", ["sv-SE"]).splits()
    with pytest.raises(UserError, match="at least one language, each once"):
        CommonVoice(tmp_path, ["de", "de"])
    with pytest.raises(UserError, match="unknown language 'xx'"):
        CommonVoice(tmp_path, ["xx"])
    with pytest.raises(UserError, match=r"Unknown `train_split` 'valid'. Did you mean 'validated'\?"):
        CommonVoice(tmp_path, ["de"], "valid")


def test_a_language_without_its_clips_is_an_error(tmp_path):
    folder = write(tmp_path / "sv-SE")
    for path in (folder / "clips").iterdir():
        path.unlink()
    for split, count in {"train": 3, "dev": 1, "test": 2}.items():
        with pytest.raises(UserError, match=f"None of the {count} clips of the split '{split}' exists"):
            read(tmp_path, split)


def test_selections_have_manifests_of_their_own(tmp_path):
    made = [
        CommonVoiceDataModule(str(tmp_path), **options).manifest_dir
        for options in ({}, {"languages": ["de", "en"]}, {"train_split": "validated"}, {"clean_transcripts": []})
    ]
    assert made[1] == tmp_path / "manifests/commonvoice_de-en"
    assert len(set(made)) == 4


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (b"Sex.", b"Se\tx.", r"test\.tsv, line 3: 11 fields for 10 columns. A test set must be whole"),
        (b"Sex.\t2\t\t\t\t\t\t\n", b"Se", r"test\.tsv, line 3: 3 fields for 10 columns"),
        (b"Sex.", b"Sex\xff.", r"test\.tsv, line 3: not UTF-8"),
        (b"sentence", b"text", r"test\.tsv' has no column sentence; its columns are: client_id, path, text"),
    ],
    ids=["tab", "truncated", "Latin-1", "column"],
)
def test_damaged_test_lists_stop_the_reading(tmp_path, old, new, message):
    replace(write(tmp_path / "sv-SE") / "test.tsv", old, new)
    with pytest.raises(UserError, match=message):
        read(tmp_path, "test")


@pytest.mark.parametrize("sentence", ['"open', "a\rb\u2028c\u0085d\x0be", "\x00", 'a "b" c', "\\"])
def test_odd_characters_stay_in_their_row(tmp_path, sentence):
    folder = write(tmp_path / "sv-SE")
    replace(folder / "test.tsv", b"Fem.", sentence.encode())
    utterances, tally = read(tmp_path, "test")
    assert [one.transcript for one in utterances] == [sentence, "Sex."]
    assert tally == Tally()


def test_damaged_rows_of_training_are_counted(tmp_path):
    folder = write(tmp_path / "sv-SE")
    replace(folder / "train.tsv", b"Hej.", b"H\tej.")
    with (folder / "train.tsv").open("ab") as file:
        file.write(b"a\tcommon_voi")
    utterances, tally = read(tmp_path)
    assert ids(utterances) == ["2", "3"]
    assert tally.rejected == {"11 fields for 10 columns": 1, "2 fields for 10 columns": 1}


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("name", ["train.tsv", "test.tsv", "clip_durations.tsv", "clips/common_voice_sv-SE_5.mp3"])
def test_random_damage_is_an_error_or_counted(tmp_path, name, seed):
    folder = write(tmp_path / "sv-SE")
    write_durations(folder, [row[:2] for row in TRAIN])
    check_damage(folder / name, seed, lambda split: read(tmp_path, split), {"train": 3, "dev": 1, "test": 2})


def test_batches_hold_the_fake_corpus(tmp_path):
    fake = write_fake(tmp_path)
    datamodule = CommonVoiceDataModule(**fake.options, num_workers=0)
    datamodule.prepare_data()
    (batch,) = datamodule.test_dataloader()
    held = zip(batch.ids, batch.audio_lengths.tolist(), batch.source_languages, batch.transcripts, strict=True)
    expected = [(one.id, one.samples, one.source_language, one.transcript) for one in fake.splits["test"]]
    assert sorted(held) == sorted(expected)
    assert len(VALID) == 2


def test_real_clips_of_common_voice(shared_data, tmp_path):
    names = ["common_voice_fr_17301936", "common_voice_fr_17767732"]
    folder = write(tmp_path / "fr", test=[(f"{name}.mp3", 0.3, "x", name) for name in names])
    lengths = []
    for name in names:
        source = shared_data / "fixtures_misc/audio" / f"{name}.mp3"
        (folder / f"clips/{name}.mp3").write_bytes(source.read_bytes())
        lengths.append(len(soundfile.read(source)[0]) / 48_000)
    utterances, tally = read(tmp_path, "test", ["fr"])
    assert [one.duration_s for one in utterances] == pytest.approx(lengths, abs=0.01)
    assert tally == Tally()
