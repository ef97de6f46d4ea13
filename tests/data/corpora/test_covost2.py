"""CoVoST 2 as it is on disk, quirk by quirk."""

import shutil

import pytest

from speechllm.data.corpora.covost2 import CoVoST2, CoVoST2DataModule, read_table
from speechllm.data.manifest import Tally
from speechllm.errors import UserError
from tests.corpora.covost2 import ROWS, write_covost2, write_table


def read(root, split="train", pairs=("en_de",)):
    tally = Tally()
    utterances = list(CoVoST2(root, list(pairs)).read(split, tally))
    return utterances, tally


TRAINED_ON = ["common_voice_en_1", "common_voice_en_2", "common_voice_en_6"]


@pytest.mark.parametrize(
    "form", [{}, {"sentences": ("train", "dev", "test")}, {"scripted": True}], ids=["validated", "splits", "scripted"]
)
def test_every_form_gives_the_same_utterances(tmp_path, form):
    utterances, tally = read(write_covost2(tmp_path, **form))
    assert [utterance.id for utterance in utterances] == TRAINED_ON
    assert [utterance.transcript for utterance in utterances] == ['He said "yes.', "N/A", "A back\\slash."]
    assert [utterance.translations["de"] for utterance in utterances] == ['Er sagte "ja.', "k. A.", 'Noch ein "Zitat.']
    assert {utterance.speaker for utterance in utterances} == {"speaker"}
    assert tally.rejected == {"translation is empty or REMOVE": 2, "clip is missing, empty or damaged": 1}


def test_durations_and_rates_are_those_of_the_clips(tmp_path):
    utterances, _ = read(write_covost2(tmp_path))
    assert utterances[0].duration_s == pytest.approx(0.4, abs=0.06)
    assert {utterance.sampling_rate for utterance in utterances} == {48_000}


def test_quotes_are_unescaped_in_scripted_files_only(tmp_path):
    path = tmp_path / "t.tsv"
    write_table(path, ("path", "sentence"), [("a", 'She said \\"no\\".'), ("b", 'one " alone')])
    assert [row["sentence"] for row in read_table(path, ("path",), Tally())] == ['She said \\"no\\".', 'one " alone']
    assert [row["sentence"] for row in read_table(path, (), Tally(), escaped=True)] == ['She said "no".', 'one " alone']


def test_columns_are_read_by_name_and_odd_rows_counted(tmp_path):
    path = tmp_path / "t.tsv"
    path.write_bytes("\ufeffsentence\tup_votes\tpath\r\nEins\t2\ta\r\nzu kurz\r\nZwei\t0\tb\r\n".encode())
    tally = Tally()
    assert [(row["path"], row["sentence"]) for row in read_table(path, ("path",), tally)] == [
        ("a", "Eins"),
        ("b", "Zwei"),
    ]
    assert tally.rejected == {"1 fields for 3 columns": 1}
    with pytest.raises(
        UserError, match=r"t\.tsv' has no column translation; its columns are: sentence, up_votes, path"
    ):
        list(read_table(path, ("path", "translation"), tally))


def test_test_rows_all_stay(tmp_path):
    utterances, tally = read(write_covost2(tmp_path), "test")
    assert [utterance.id[-2:].strip("_") for utterance in utterances] == ["8", "9", "10"]
    assert utterances[1].translations == {"de": "REMOVE"}
    assert not tally.rejected
    assert tally.changed == {"clip is empty or damaged, and counts as silence": 1}


def test_missing_test_clips_stop_the_preparation(tmp_path):
    root = write_covost2(tmp_path)
    (root / "en/clips/common_voice_en_10.mp3").unlink()
    with pytest.raises(UserError, match=r"1 of 3 test clips are missing.*common_voice_en_10\.mp3"):
        read(root, "test")
    (root / "en/clips/common_voice_en_1.mp3").unlink()
    assert read(root)[1].rejected["clip is missing, empty or damaged"] == 2


def test_join_rate_is_reported(tmp_path, caplog):
    root = write_covost2(tmp_path)
    write_table(root / "en/validated.tsv", ("path", "sentence"), [(f"{row[0]}.mp3", row[1]) for row in ROWS[:4]])
    utterances, tally = read(root)
    assert [utterance.id for utterance in utterances] == TRAINED_ON[:2]
    assert tally.rejected["no sentence in Common Voice"] == 2
    assert "4 of 6 rows (66.67 %)" in caplog.text


def test_pairs_of_one_language_share_their_clips(tmp_path):
    root = write_covost2(tmp_path, ("de", "zh-CN"))
    datamodule = CoVoST2DataModule(str(root), pairs=["en_de", "en_zh-CN"], tasks=["asr", "st"], num_workers=0)
    datamodule.prepare_data()
    rows = [(cut.id[-1], cut.custom["task"], cut.custom["target_language"]) for cut in datamodule.train_rows()]
    assert rows == [(clip[-1], *row) for clip in TRAINED_ON for row in [("asr", "en"), ("st", "de"), ("st", "zh-CN")]]
    texts = {}
    for batch in datamodule.train_dataloader():
        rows = zip(batch.ids, batch.tasks, batch.target_languages, strict=True)
        texts |= dict(zip(rows, batch.translations, strict=True))
    assert len(texts) == 9
    assert texts["common_voice_en_2", "st", "zh-CN"] == "zh-CN: k. A."
    assert texts["common_voice_en_2", "asr", "en"] == ""


def test_silent_test_clips_reach_the_batch_with_length_0(tmp_path):
    datamodule = CoVoST2DataModule(str(write_covost2(tmp_path)), num_workers=0)
    datamodule.prepare_data()
    (batch,) = datamodule.test_dataloader()
    lengths = dict(zip(batch.rows, batch.audio_lengths.tolist(), strict=True))
    assert lengths[1] == 0
    assert lengths[2] == pytest.approx(1.3 * 16_000, abs=1_000)
    assert lengths[0] == pytest.approx(1.1 * 16_000, abs=1_000)


def test_what_is_missing_is_named(tmp_path):
    root = write_covost2(tmp_path)
    with pytest.raises(UserError, match=r"No CoVoST 2 pair en_tr.*'covost_v2\.en_tr\.tsv'"):
        CoVoST2(root, ["en_tr"]).splits()
    with pytest.raises(UserError, match="such as 'en_de'"):
        CoVoST2(root, ["en-de"])
    with pytest.raises(UserError, match="language 'xx'"):
        CoVoST2(root, ["xx_en"])
    (root / "en/validated.tsv").unlink()
    with pytest.raises(UserError, match=r"No Common Voice sentences .*validated\.tsv"):
        read(root)
    shutil.rmtree(root / "en")
    with pytest.raises(UserError, match="No CoVoST 2 pair en_de"):
        CoVoST2(root, ["en_de"]).splits()
