"""ReazonSpeech as it is on disk, quirk by quirk."""

import pytest
import soundfile

from speechllm.data.corpora.reazonspeech import ReazonSpeech, ReazonSpeechDataModule
from speechllm.data.manifest import Tally
from speechllm.data.reading.text import japanese
from speechllm.errors import UserError
from tests.corpora.must_c import tone
from tests.corpora.reazonspeech import ROWS, write_fake, write_table


@pytest.fixture
def root(tmp_path):
    """The fake: two rows of dev, two of test, three to train on."""
    write_fake(tmp_path)
    return tmp_path


def read(root, split="train", dev_rows=2, test_rows=2, **options):
    tally = Tally()
    corpus = ReazonSpeech(root, dev_rows=dev_rows, test_rows=test_rows, **options)
    return list(corpus.read(split, tally)), tally


def test_the_first_rows_are_dev_and_the_next_test(root):
    names = [clip for clip, *_ in ROWS]
    found = {split: [utterance.id for utterance in read(root, split)[0]] for split in ("dev", "test", "train")}
    assert found == {"dev": names[:2], "test": names[2:4], "train": names[4:]}
    assert [utterance.id for utterance in read(root, "test", dev_rows=0, test_rows=3)[0]] == names[:3]
    assert ReazonSpeech(root, dev_rows=0, test_rows=0).splits() == ["train"]
    assert ReazonSpeech(root, dev_rows=1, test_rows=5).splits() == ["train", "dev", "test"]


def test_the_rows_are_those_of_espnet_and_lhotse_where_not_said():
    corpus = ReazonSpeech("none")
    assert (corpus.dev_rows, corpus.test_rows) == (1_000, 100)


def test_too_few_rows_are_an_error(root):
    with pytest.raises(
        UserError, match=r"small\.tsv' has 7 rows, .* after 1000 rows of dev and 100 of test. Set `dev_"
    ):
        ReazonSpeech(root).splits()
    with pytest.raises(UserError, match="must be at least 0, but are -1 and 2"):
        ReazonSpeech(root, dev_rows=-1, test_rows=2)


@pytest.mark.parametrize("table", ["small.tsv", "tsv/small.tsv", "tsv/small-v2.tsv", "small-v2.tsv"])
@pytest.mark.parametrize("audio", [".", "data", "audio"])
def test_tables_and_archives_are_found_where_they_are_unpacked(tmp_path, table, audio):
    write_table(tmp_path / table, [("0ff/a.flac", "一"), ("100/b.flac", "二")])
    for clip in ("0ff/a.flac", "100/b.flac"):
        (tmp_path / audio / clip).parent.mkdir(parents=True)
        soundfile.write(tmp_path / audio / clip, tone(0.5), 16_000)
    utterances, tally = read(tmp_path, dev_rows=0, test_rows=0)
    assert [(utterance.transcript, utterance.duration_s) for utterance in utterances] == [("一", 0.5), ("二", 0.5)]
    assert not tally.rejected


def test_texts_are_verbatim_where_not_said(root):
    assert [utterance.transcript for utterance in read(root)[0]] == [text for *_, text in ROWS[4:]]
    assert read(root, "test")[0][0].transcript == 'タブは\t一つ目だけ。"'


def test_normalized_texts_are_counted(root):
    utterances, tally = read(root, clean_transcripts=["japanese"])
    assert [utterance.transcript for utterance in utterances] == [
        "3.14とガイド",
        "えっ 本当ですか",
        "スーパーマーケット",
    ]
    assert tally.changed == {"transcript cleaned": 2}
    assert read(root, "dev", clean_transcripts=["japanese"])[0][1].transcript == "NHKの朝ドラは8時からです"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("ＡＢＣｘｙｚ０１９", "ABCxyz019"),
        ("ｶﾞｷﾞﾊﾟｰﾃｨｰｦ", "ガギパーティーヲ"),
        ("ガギパーティーヲ", "ガギパーティーヲ"),
        ("「はい」、『いいえ』。", "はいいいえ"),
        ("えっ！？ｗｈａｔ？", "えっwhat"),
        ("１，０００円、３．５％", "1000円3.5%"),
        ("終わり．", "終わり"),
        ("Ｗｉ－Ｆｉ", "WiFi"),
        ("（笑）♪～→【字幕】", "笑字幕"),
        ("全角\u3000空白  二つ ", "全角 空白 二つ"),
        ("ジョン・スミス", "ジョンスミス"),
        ("①人々は〇×ー㌔…", "①人々は〇×ー㌔"),
        ("。", ""),
        ("", ""),
    ],
)
def test_normalization(text, expected):
    assert japanese(text) == expected
    assert japanese(expected) == expected


def test_what_cannot_be_trained_on_is_counted(root):
    with (root / "tsv/small.tsv").open("a", encoding="utf-8", newline="\n") as file:
        file.write("001/none.flac\tない\n001/empty.flac\t空\n001/0107.flac\t \nno tab\n\n\tno clip\n")
        file.write(f"{'x' * 5000}\tlong\n001/\0.flac\tNUL\n001/00f6.flac\t改行\r\n")
    (root / "data/001/empty.flac").touch()
    utterances, tally = read(root)
    assert [utterance.transcript for utterance in utterances[3:]] == ["改行"]
    assert tally.rejected == {
        "audio is missing, empty or damaged": 4,
        "no text": 1,
        "no tab between clip and text": 1,
        "no clip": 2,
    }


def test_test_rows_all_stay(root):
    (root / "data/000/00c3.flac").unlink()
    (root / "data/000/00d4.flac").write_bytes(b"fLaC")
    write_table(
        root / "tsv/small.tsv", [(clip, "" if number == 1 else text) for number, (clip, _, text) in enumerate(ROWS)]
    )
    utterances, tally = read(root, "test", dev_rows=0, test_rows=4)
    assert [(utterance.id, round(utterance.duration_s * 16_000)) for utterance in utterances] == [
        ("000/00a1.flac", 8_000),
        ("000/00b2.flac", 12_000),
        ("000/00c3.flac", 1),
        ("000/00d4.flac", 1),
    ]
    assert tally.changed == {"audio is missing, empty or damaged, and counts as silence": 2}
    assert not tally.rejected


def test_no_clip_is_in_two_splits(root):
    table = root / "tsv/small.tsv"
    rows = [(clip, text) for clip, _, text in ROWS]
    write_table(table, [*rows, rows[0], rows[3]])
    utterances, tally = read(root)
    assert (len(utterances), tally.rejected) == (3, {"the clip is in dev or test": 2})
    write_table(table, [rows[0], *rows])
    for split in ("train", "dev", "test"):
        with pytest.raises(UserError, match=r"small\.tsv, line 2: the clip '000/00a1\.flac' is in line 1 already"):
            read(root, split)


def test_a_table_that_nothing_ends_is_counted(root):
    table = root / "tsv/small.tsv"
    table.write_bytes(table.read_bytes()[:-4])
    assert read(root)[1].changed == {"no line feed ends small.tsv, which may be cut off": 1}
    assert not read(root, "test")[1].changed


def test_mistakes_are_named_with_their_place(root):
    with pytest.raises(UserError, match=r"Unknown ReazonSpeech size 'smal'. Did you mean 'small'\?"):
        ReazonSpeech(root, size="smal")
    with pytest.raises(UserError, match="Unknown ReazonSpeech version 'v3'"):
        ReazonSpeech(root, version="v3")
    with pytest.raises(UserError, match=r"No table 'medium\.tsv' .*The folder holds: data, tsv. Set `size`"):
        ReazonSpeech(root, size="medium").splits()
    with pytest.raises(UserError, match="No such folder"):
        ReazonSpeech(root / "none").files()
    table = root / "tsv/small.tsv"
    table.write_bytes(table.read_bytes()[:-2] + b"\n")
    with pytest.raises(UserError, match=r"small\.tsv, line 7: not UTF-8"):
        read(root)
    write_table(table, [("000/00a1.flac", "一"), ("no tab", ""), ("000/00b2.flac", "二")])
    table.write_text(table.read_text().replace("no tab\t", "no tab"))
    with pytest.raises(UserError, match=r"small\.tsv, line 2: no tab between clip and text. A test set must be whole"):
        read(root, "test", dev_rows=1, test_rows=1)
    write_table(table, [(f"0aa/{number}.flac", "一") for number in range(9)])
    with pytest.raises(UserError, match=r"None of the audio .*0aa/4\.flac.*line 5.*Unpack the archives .*000, 001, "):
        read(root)


def test_selections_do_not_share_manifests(tmp_path):
    options = write_fake(tmp_path).options
    folders = {
        ReazonSpeechDataModule(**options | changes).manifest_dir
        for changes in (
            {},
            {"size": "medium"},
            {"version": "v1"},
            {"dev_rows": 3},
            {"test_rows": 3},
            {"clean_transcripts": ["japanese"]},
        )
    }
    assert len(folders) == 6
