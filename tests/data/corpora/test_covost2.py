"""CoVoST 2 as it is on disk, quirk by quirk."""

import shutil

import pytest

from speechllm.data.corpora.covost2 import SIZES_INTO_ENGLISH, CoVoST2, CoVoST2DataModule, is_translation
from speechllm.data.manifest import Tally
from speechllm.errors import UserError
from tests.corpora.commonvoice import write_durations
from tests.corpora.covost2 import ROWS, speaker, write_covost2, write_fake, write_table
from tests.data.damage import check_damage

TRAINED_ON = ["common_voice_en_1", "common_voice_en_2", "common_voice_en_6"]
SILENT = "clip is missing, empty or damaged, and counts as silence"


def read(root, split="train", pairs=("en_de",), **options):
    tally = Tally()
    utterances = list(CoVoST2(root, list(pairs), **options).read(split, tally))
    return utterances, tally


def ids(utterances):
    return [utterance.id for utterance in utterances]


def write_sentences(path, rows, split="train"):
    """Write a list of Common Voice from (clip, sentence)."""
    listed = [(speaker(split), f"{clip}.mp3", sentence) for clip, sentence in rows]
    write_table(path, ("client_id", "path", "sentence"), listed)


def write_translations(path, rows):
    """Write a list as released from (clip, translation, split)."""
    write_table(path, ("path", "translation", "split"), [(f"{clip}.mp3", *rest) for clip, *rest in rows])


FORMS = {"validated": {}, "splits": {"sentences": ("train", "dev", "test")}, "scripted": {"scripted": True}}


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
def test_every_form_gives_the_same_utterances(tmp_path, form):
    utterances, tally = read(write_covost2(tmp_path, **form))
    assert ids(utterances) == TRAINED_ON
    assert [utterance.transcript for utterance in utterances] == ['He said "yes.', "N/A", "A back\\slash."]
    assert [utterance.translations for utterance in utterances] == [
        {"de": 'Er sagte "ja.'},
        {"de": "k. A."},
        {"de": 'Noch ein "Zitat.'},
    ]
    assert {utterance.speaker for utterance in utterances} == {"speaker of train"}
    assert [utterance.duration_s for utterance in utterances] == [0.4, 0.5, 0.9]
    assert {utterance.sampling_rate for utterance in utterances} == {48_000}
    assert tally.rejected == {"translation is empty or REMOVE": 2, "clip is missing, empty or damaged": 1}
    assert tally.changed == {}


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
def test_test_rows_all_stay(tmp_path, form):
    root = write_covost2(tmp_path, **form)
    (root / "en/clips/common_voice_en_10.mp3").unlink()
    utterances, tally = read(root, "test")
    assert ids(utterances) == ["common_voice_en_8", "common_voice_en_9", "common_voice_en_10"]
    assert [utterance.translations["de"] for utterance in utterances] == ["Für test.", "REMOVE", "Ende."]
    assert [utterance.duration_s for utterance in utterances] == [1.1, 1 / 16_000, 1 / 16_000]
    assert (tally.rejected, tally.changed) == ({}, {SILENT: 2})


def test_rows_come_in_the_order_of_common_voice(tmp_path):
    root = write_covost2(tmp_path)
    write_sentences(root / "en/validated.tsv", [row[:2] for row in reversed(ROWS)])
    assert ids(read(root)[0]) == TRAINED_ON[::-1]


def test_quotes_of_exports_come_off_transcripts_alone(tmp_path):
    root = write_covost2(tmp_path)
    write_sentences(root / "en/validated.tsv", [("common_voice_en_8", '"""Good-bye,"" said the boy."')])
    write_translations(root / "en/covost_v2.en_de.tsv", [("common_voice_en_8", '"""Leb wohl"""', "test")])
    (utterance,), tally = read(root, "test")
    assert (utterance.transcript, utterance.translations["de"]) == ('"Good-bye," said the boy.', '"""Leb wohl"""')
    assert tally.changed == {"transcript cleaned": 1}
    (utterance,), tally = read(root, "test", clean_transcripts=[])
    assert utterance.transcript == '"""Good-bye,"" said the boy."'
    assert tally.changed == {}


@pytest.mark.parametrize("form", [{}, {"scripted": True}], ids=["released", "scripted"])
def test_copies_call_dev_validation(tmp_path, form):
    root = write_covost2(tmp_path, **form)
    if form:
        (root / "en/covost_v2.en_de.dev.tsv").rename(root / "en/covost_v2.en_de.validation.tsv")
    else:
        write_translations(root / "en/covost_v2.en_de.tsv", [("common_voice_en_7", "Für dev.", "validation")])
    assert CoVoST2(root, ["en_de"]).splits() == ["train", "dev", "test"]
    assert ids(read(root, "dev")[0]) == ["common_voice_en_7"]


def test_lists_of_the_script_count_where_all_are_there(tmp_path):
    root = write_covost2(tmp_path)
    header = ("path", "sentence", "translation", "client_id")
    for split in ("train", "dev", "test"):
        assert ids(read(root, "test")[0])[0] == "common_voice_en_8"
        row = ("common_voice_en_1.mp3", "Scripted.", "Geskriptet.", "x")
        write_table(root / f"en/covost_v2.en_de.{split}.tsv", header, [row])
    assert ids(read(root, "test")[0]) == ["common_voice_en_1"]


def test_version_1_has_its_own_lists_and_splits(tmp_path):
    root = write_covost2(tmp_path)
    lists = [
        ("common_voice_en_1", "eins", "train"),
        ("common_voice_en_2", "zwei", "train_covost"),
        ("common_voice_en_6", "sechs", "dev_covost"),
        ("common_voice_en_8", "acht", "test_covost"),
        ("common_voice_en_10", "zehn", "test"),
    ]
    (root / "en/covost_v2.en_de.tsv").unlink()
    write_translations(root / "en/covost.en_de.tsv", lists)
    with pytest.raises(UserError, match=r"looked for 'covost_v2\.en_de\.tsv'.* There are lists of v1: give `version`"):
        CoVoST2(root, ["en_de"]).splits()
    found = {split: ids(read(root, split, version="v1")[0]) for split in ("train", "dev", "test")}
    assert {split: [one[15:] for one in these] for split, these in found.items()} == {
        "train": ["_1", "_2"],
        "dev": ["_6"],
        "test": ["_8", "_10"],
    }
    (root / "en/covost.en_de.tsv").rename(root / "en/covost_v2.en_de.tsv")
    train, tally = read(root)
    assert ids(train) == TRAINED_ON[:2]
    assert tally.rejected == {"the split is none of train, dev and test": 2}
    assert ids(read(root, "test")[0]) == ["common_voice_en_10"]


def test_join_rate_is_reported(tmp_path, caplog):
    root = write_covost2(tmp_path)
    write_sentences(root / "en/validated.tsv", [row[:2] for row in ROWS[:4]])
    utterances, tally = read(root)
    assert ids(utterances) == TRAINED_ON[:2]
    assert tally.rejected["no sentence in Common Voice"] == 2
    assert "4 of 6 rows (66.67 %) have a sentence in Common Voice" in caplog.text


def test_test_rows_stay_without_a_sentence(tmp_path, caplog):
    root = write_covost2(tmp_path)
    write_sentences(root / "en/validated.tsv", [("common_voice_en_10", "Last.")])
    write_sentences(root / "en/invalidated.tsv", [("common_voice_en_9", "Voted down."), ("common_voice_en_10", "No.")])
    utterances, tally = read(root, "test")
    assert [(one.id[15:], one.transcript, one.translations["de"]) for one in utterances] == [
        ("_10", "Last.", "Ende."),
        ("_9", "Voted down.", "REMOVE"),
        ("_8", "", "Für test."),
    ]
    assert utterances[2].duration_s == 1.1
    assert tally.changed["no sentence in Common Voice, and the transcript is empty"] == 1
    assert "2 of 3 rows (66.67 %)" in caplog.text


def test_another_common_voice_is_an_error(tmp_path):
    root = write_covost2(tmp_path)
    write_sentences(root / "en/validated.tsv", [("common_voice_en_1000", "Later.")])
    with pytest.raises(UserError, match=r"None of the 6 clips of '.*covost_v2\.en_de\.tsv' is in the lists of '.*en'"):
        read(root)


def test_later_releases_are_found_by_their_folders(tmp_path):
    root = write_covost2(tmp_path / "unpacked")
    release = root / "cv-corpus-17.0-2024-03-15"
    release.mkdir()
    (root / "en").rename(release / "en")
    assert ids(read(root)[0]) == TRAINED_ON
    (release / "en/covost_v2.en_de.tsv").rename(root / "covost_v2.en_de.tsv")
    assert ids(read(root)[0]) == TRAINED_ON
    columns = ("client_id", "path", "sentence_id", "sentence", "sentence_domain")
    rows = [("x", f"{clip}.mp3", "0a1b", sentence, "") for clip, sentence, *_ in ROWS]
    write_table(release / "en/validated.tsv", columns, rows)
    write_durations(release / "en", [("common_voice_en_1.mp3", 0.333)])
    utterances, _ = read(root)
    assert [utterance.transcript for utterance in utterances] == ['He said "yes.', "N/A", "A back\\slash."]
    assert [utterance.duration_s for utterance in utterances] == [0.333, 0.5, 0.9]
    assert {path.name for path in CoVoST2(root, ["en_de"]).files()} == {
        "covost_v2.en_de.tsv",
        "validated.tsv",
        "clip_durations.tsv",
    }


@pytest.mark.parametrize("form", [{}, {"scripted": True}], ids=["released", "scripted"])
def test_training_clips_of_scored_speakers_are_counted(tmp_path, caplog, form):
    root = write_covost2(tmp_path, **form)
    utterances, tally = read(root)
    assert not tally.changed
    path = root / ("en/covost_v2.en_de.test.tsv" if form else "en/validated.tsv")
    path.write_text(path.read_text(encoding="utf-8").replace(speaker("test"), speaker("train")), encoding="utf-8")
    assert ids(read(root)[0]) == ids(utterances)
    assert read(root)[1].changed == {"the speaker is in dev or test too, and the clip is kept": 4}
    assert "CoVoST 2 en: 4 of 4 training clips are of 1 speakers who are in dev or test too" in caplog.text
    assert not read(root, "dev")[1].changed


def test_several_speakers_of_a_sentence_stay(tmp_path):
    root = write_covost2(tmp_path)
    clips = ["common_voice_en_1", "common_voice_en_2"]
    write_sentences(root / "en/validated.tsv", [(clip, "The same.") for clip in clips])
    write_translations(root / "en/covost_v2.en_de.tsv", [(clip, "Dasselbe.", "train") for clip in clips])
    assert [(one.id, one.transcript) for one in read(root)[0]] == [(clip, "The same.") for clip in clips]


@pytest.mark.parametrize(
    ("text", "right"),
    [("", False), (" ", False), ("REMOVE", False), (' "REMOVE." ', False), ('""', False), ("Remove it.", True)],
)
def test_what_is_a_translation(text, right):
    assert is_translation(text) == right


def test_one_language_may_lack_a_translation(tmp_path):
    root = write_covost2(tmp_path, ("de", "zh-CN"))
    rows = [("common_voice_en_1", "REMOVE"), ("common_voice_en_3", "删除"), ("common_voice_en_4", "")]
    write_translations(root / "en/covost_v2.en_zh-CN.tsv", [(*row, "train") for row in rows])
    utterances, tally = read(root, pairs=["en_de", "en_zh-CN"])
    assert {one.id[15:]: sorted(one.translations) for one in utterances} == {
        "_1": ["de"],
        "_2": ["de"],
        "_3": ["zh-CN"],
        "_6": ["de"],
    }
    assert tally.rejected["translation is empty or REMOVE"] == 1
    assert tally.changed == {"translation into one language is empty or REMOVE, and left out": 2}


def test_clips_that_are_listed_twice(tmp_path):
    root = write_covost2(tmp_path)
    rows = [("_1", "eins", "train"), ("_1", "eins!", "train"), ("_8", "acht", "test"), ("_8", "acht!", "test")]
    listed = [(f"common_voice_en{clip}", *rest) for clip, *rest in rows]
    write_translations(root / "en/covost_v2.en_de.tsv", listed)
    (utterance,), tally = read(root)
    assert utterance.translations == {"de": "eins"}
    assert tally.rejected == {"the same clip again": 1}
    utterances, tally = read(root, "test")
    assert [(one.id, one.translations["de"]) for one in utterances] == [
        ("common_voice_en_8", "acht"),
        ("common_voice_en_8-2", "acht!"),
    ]
    assert tally.changed == {"the same clip again, with an id of its own": 1}


def test_pairs_of_one_language_share_their_clips(tmp_path):
    root = write_covost2(tmp_path, ("de", "zh-CN"))
    datamodule = CoVoST2DataModule(str(root), pairs=["en_de", "en_zh-CN"], tasks=["asr", "st"], num_workers=0)
    datamodule.prepare_data()
    texts = {}
    for batch in datamodule.train_dataloader():
        rows = zip(batch.ids, batch.tasks, batch.target_languages, strict=True)
        texts |= dict(zip(rows, batch.translations, strict=True))
    wanted = [("asr", "en"), ("st", "de"), ("st", "zh-CN")]
    assert sorted(texts) == sorted((clip, *row) for clip in TRAINED_ON for row in wanted)
    assert texts["common_voice_en_2", "st", "zh-CN"] == "zh-CN: k. A."
    assert texts["common_voice_en_2", "asr", "en"] == ""


def test_silent_test_clips_reach_the_batch_with_length_0(tmp_path):
    datamodule = CoVoST2DataModule(str(write_covost2(tmp_path)), num_workers=0)
    datamodule.prepare_data()
    (batch,) = datamodule.test_dataloader()
    lengths = dict(zip(batch.rows, batch.audio_lengths.tolist(), strict=True))
    assert lengths == {0: 17_600, 1: 0, 2: 20_800}


def test_missing_test_clips_are_scored_too(tmp_path):
    root = write_covost2(tmp_path)
    (root / "en/clips/common_voice_en_10.mp3").unlink()
    datamodule = CoVoST2DataModule(str(root), num_workers=0)
    datamodule.prepare_data()
    batches = list(datamodule.test_dataloader())
    rows = [row for batch in batches for row in zip(batch.rows, batch.audio_lengths.tolist(), strict=True)]
    assert sorted(rows) == [(0, 17_600), (1, 0), (2, 0)]


@pytest.mark.parametrize(
    ("pairs", "sizes"),
    [
        (["en_de"], {"train": 289_430, "dev": 15_531, "test": 15_531}),
        (["en_de", "en_zh-CN", "fr_en"], {"train": 496_804, "dev": 30_291, "test": 30_291}),
        (["sv-SE_en"], {"train": 2_160, "dev": 1_349, "test": 1_595}),
        (["en_de", "de_fr"], {}),
        (["en_fr"], {}),
    ],
)
def test_published_sizes(tmp_path, pairs, sizes):
    assert CoVoST2(tmp_path, pairs).published() == sizes
    assert CoVoST2(tmp_path, pairs, version="v1").published() == {}


def test_selections_have_manifests_of_their_own(tmp_path):
    made = [
        CoVoST2DataModule(str(tmp_path), **options).manifest_dir
        for options in ({}, {"pairs": ["en_zh-CN"]}, {"version": "v1"}, {"clean_transcripts": []})
    ]
    assert made[0] == tmp_path / "manifests/en_de"
    assert len(set(made)) == 4
    many = CoVoST2DataModule(str(tmp_path), pairs=[*(f"{code}_en" for code in SIZES_INTO_ENGLISH), "en_de"])
    assert len(many.manifest_dir.name) < 100


def test_what_is_missing_is_named(tmp_path):
    root = write_covost2(tmp_path)
    with pytest.raises(UserError, match=r"No CoVoST 2 pair en_tr.*'covost_v2\.en_tr\.tsv'"):
        CoVoST2(root, ["en_tr"]).splits()
    with pytest.raises(UserError, match="such as 'en_de'"):
        CoVoST2(root, ["en-de"])
    with pytest.raises(UserError, match="language 'xx'"):
        CoVoST2(root, ["xx_en"])
    with pytest.raises(UserError, match="each once"):
        CoVoST2(root, ["en_de", "en_de"])
    with pytest.raises(UserError, match=r"Unknown CoVoST version 'v3'. Did you mean"):
        CoVoST2(root, ["en_de"], version="v3")
    (root / "en/validated.tsv").unlink()
    with pytest.raises(UserError, match=r"No Common Voice sentences .*validated\.tsv"):
        read(root)
    shutil.rmtree(root / "en/clips")
    with pytest.raises(UserError, match=r"No Common Voice clips of 'en' in .*looked for 'en/clips'.*holds: en\."):
        CoVoST2(root, ["en_de"]).splits()
    shutil.rmtree(root)
    with pytest.raises(UserError, match="No CoVoST 2 pair en_de"):
        CoVoST2(root, ["en_de"]).splits()


def test_pairs_must_have_the_same_splits(tmp_path):
    fake = write_fake(tmp_path)
    (tmp_path / "fr/covost_v2.fr_en.dev.tsv").unlink()
    assert CoVoST2(tmp_path, ["fr_en"]).splits() == ["train", "test"]
    with pytest.raises(UserError, match=r"fr_en in .* has no list for dev, which other pairs have"):
        CoVoST2(tmp_path, fake.options["pairs"]).splits()


TRANSLATIONS, SENTENCES, SCRIPTED = "covost_v2.en_de.tsv", "validated.tsv", "covost_v2.en_de.test.tsv"


def damage(root, name, old, new):
    """Write CoVoST 2 with a list in which ``old`` is ``new``."""
    path = write_covost2(root, scripted=name == SCRIPTED) / "en" / name
    assert old in path.read_bytes()
    path.write_bytes(path.read_bytes().replace(old, new))
    return root


@pytest.mark.parametrize(
    ("name", "old", "new", "message"),
    [
        (TRANSLATIONS, b"Ende.\ttest\n", b"En", r"covost_v2\.en_de\.tsv, line 11: 2 fields for 3 columns"),
        (TRANSLATIONS, b"Ende.\ttest\n", b"Ende.\tte", r"the split of 'common_voice_en_10\.mp3' is 'te', and must be"),
        (TRANSLATIONS, b"Ende.", b"En\tde.", r"line 11: 4 fields for 3 columns. A test set must be whole"),
        (TRANSLATIONS, b"Ende.", b"\xffEnde.", r"covost_v2\.en_de\.tsv, line 11: not UTF-8"),
        (TRANSLATIONS, b"path\ttranslation", b"file\ttext", "has no column path, translation; its columns are: file"),
        (SENTENCES, b"Last of test.", b"\xff", r"validated\.tsv, line 11: not UTF-8"),
        (SENTENCES, b"client_id\tpath", b"client_id\tclip", r"validated\.tsv' has no column path"),
        (SCRIPTED, b"\tspeaker of test", b"", r"covost_v2\.en_de\.test\.tsv, line 2: 3 fields for 4 columns"),
    ],
)
def test_damaged_lists_stop_the_reading_of_a_test_set(tmp_path, name, old, new, message):
    with pytest.raises(UserError, match=message):
        read(damage(tmp_path, name, old, new), "test")


@pytest.mark.parametrize(
    ("name", "old", "new", "last"),
    [
        (TRANSLATIONS, b"Ende.", b"En\rde\xe2\x80\xa8\x00.", ("_10", "Last of test.", "En\rde\u2028\x00.")),
        (TRANSLATIONS, b"Ende.", b'"Ende.', ("_10", "Last of test.", '"Ende.')),
        (TRANSLATIONS, b"Ende.", b'\\"Ende.', ("_10", "Last of test.", '\\"Ende.')),
        (TRANSLATIONS, b"_en_10.mp3", b"_en_\x00.mp3", ("_\x00", "", "Ende.")),
        (SENTENCES, b"Last of test.", b"Last\tof test.", ("_10", "", "Ende.")),
        (SENTENCES, b"Last of test.", b'"Last\rof test.', ("_10", '"Last\rof test.', "Ende.")),
        (SCRIPTED, b"Ende.", b'\\"Ende.', ("_10", "Last of test.", '"Ende.')),
    ],
)
def test_odd_characters_lose_no_row(tmp_path, name, old, new, last):
    utterances, _ = read(damage(tmp_path, name, old, new), "test")
    assert len(utterances) == 3
    one = utterances[-1]
    assert (one.id.removeprefix("common_voice_en"), one.transcript, one.translations["de"]) == last


def test_damaged_rows_of_training_are_counted(tmp_path):
    root = damage(tmp_path, TRANSLATIONS, b"k. A.\ttrain_covost", b"k. A.")
    path = root / "en/covost_v2.en_de.tsv"
    path.write_bytes(path.read_bytes().replace(b"Noch ein", b"Noch\tein"))
    utterances, tally = read(root)
    assert ids(utterances) == ["common_voice_en_1"]
    assert tally.rejected["2 fields for 3 columns"] == tally.rejected["4 fields for 3 columns"] == 1


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("name", [TRANSLATIONS, SENTENCES, "clips/common_voice_en_8.mp3"])
def test_random_damage_is_an_error_or_counted(tmp_path, name, seed):
    root = write_covost2(tmp_path)
    check_damage(root / "en" / name, seed, lambda split: read(root, split), {"train": 6, "dev": 1, "test": 3})
