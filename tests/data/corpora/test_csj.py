"""CSJ as the recipes of others read it, quirk by quirk; nothing of the corpus itself is here."""

import pytest
from lhotse.recipes.csj import CSJSDBParser

from speechllm.data.corpora.csj import CSJ, EXCLUDED, SPLITS, CSJDataModule
from speechllm.data.manifest import Tally
from speechllm.data.reading.csj_tags import TagError, TagResolver
from speechllm.errors import UserError
from tests.corpora.csj import TALKS, sdb_lines, write_fake, write_talk

TRAIN, EVAL = "A02F0001", "A01M0110"


def read(root, split="train", **options):
    tally = Tally()
    return list(CSJ(root, **options).read(split, tally)), tally


def resolve(text, fluent=False):
    resolver = TagResolver(fluent)
    _, kept = resolver.resolve(text)
    resolver.finish()
    return kept


TAGGED = [
    ("それ", "それ", "それ"),
    ("(F えー)", "えー", ""),
    ("(F_えー)", "えー", ""),
    ("(D こ)これ", "ここれ", "これ"),
    ("(D2 が)を", "がを", "を"),
    ("(? あれ)", "あれ", "あれ"),
    ("(? あれ,これ,それ)", "あれ", "あれ"),
    ("(?)", "", ""),
    ("(F)はい", "はい", "はい"),
    ("(W ギーツ;ギジュツ)", "ギジュツ", "ギジュツ"),
    ("(W (? クーレリットル);クールエディット)", "クールエディット", "クールエディット"),
    ("(B シブタイ;ジュータイ)", "シブタイ", "シブタイ"),
    ("(A エーティーアール;ＡＴＲ)", "ＡＴＲ", "ＡＴＲ"),
    ("(A 二十;２０)日", "二十日", "二十日"),
    ("(A ゼロ;０)", "ゼロ", "ゼロ"),
    ("(A ゼット;Ｚ)", "Ｚ", "Ｚ"),
    ("(A (K 二;は);３)円", "３円", "３円"),
    ("(A (W さん;三);３)円", "三円", "三円"),
    ("(K たち(F えー)ばな;橘)", "橘", "橘"),
    ("(M (F うーん)それ)", "うーんそれ", "それ"),
    ("(F (? えっ))", "えっ", ""),
    ("(笑 (F え)はい)", "えはい", "はい"),
    ("(あくび はい)", "はい", "はい"),
    ("(R ×××)さん", "×××さん", "×××さん"),
    ("は<H>い<笑><P:00453.373-00454.013>", "はい", "はい"),
    ("<雑音>", "", ""),
    ("(O ザッツ ファイン)", "ザッツファイン", "ザッツファイン"),
    ("あ,い;う", "あ,い;う", "あ,い;う"),
    ("(F あ,い)", "あ,い", ""),
]


@pytest.mark.parametrize(("text", "disfluent", "fluent"), TAGGED)
def test_tags_are_resolved(text, disfluent, fluent):
    assert (resolve(text), resolve(text, fluent=True)) == (disfluent, fluent)


LHOTSE_DIFFERS = ("(あくび", "(A ゼロ", "(F)", "<", ",", "(?)")
"""Tags that lhotse does not know, or reads in another place."""


@pytest.mark.parametrize("text", [text for text, *_ in TAGGED if not any(part in text for part in LHOTSE_DIFFERS)])
def test_tags_are_resolved_as_lhotse_does(text):
    assert CSJSDBParser().parse(text.replace(" ", "_")) == resolve(text)


def test_tags_reach_over_pieces():
    resolver = TagResolver(fluent=True)
    assert [resolver.resolve(piece) for piece in ("(F あ", "の", "ー)", "(A 二", "千;２", "０)", "はい")] == [
        ("あ", ""),
        ("の", ""),
        ("ー", ""),
        ("二", "二"),
        ("千", "千"),
        ("", ""),
        ("はい", "はい"),
    ]
    resolver.finish()


def test_tags_must_close_and_open():
    with pytest.raises(TagError, match=r"a tag is closed in 'い\)' that was not opened"):
        resolve("い)")
    with pytest.raises(TagError, match=r"the tag '\(F' in '\(F え' is never closed"):
        resolve("(F え")


def test_unknown_tags_keep_their_words_and_are_counted(tmp_path):
    write_talk(tmp_path, TRAIN, [(0.0, 1.0, "L", ["(Z えー)", "(はい)", "(Z (F あ)の)"])])
    utterances, tally = read(tmp_path)
    assert [utterance.transcript for utterance in utterances] == ["えーはいあの"]
    assert tally.changed == {
        "words in a tag that is not known, (Z …), kept": 2,
        "words in a tag that is not known, ( …), kept": 1,
    }


def test_fillers_and_fragments_may_be_left_out(tmp_path):
    write_fake(tmp_path)
    texts = {utterance.id: utterance.transcript for utterance in read(tmp_path, text="fluent")[0]}
    assert texts["A01F0055_0000100_0001500"] == "それでこれは一"
    assert texts["D01F0002-L_0000000_0001500"] == "そうです"
    assert read(tmp_path, "eval2", text="fluent")[0][0].transcript == "ウォーとを"


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, [(0.0, 3.0), (3.6, 4.0)]),
        ({"max_gap_s": 0.7}, [(0.0, 4.0)]),
        ({"max_gap_s": 0.1}, [(0.0, 1.0), (1.5, 2.0), (2.25, 3.0), (3.6, 4.0)]),
        ({"max_gap_s": None}, [(0.0, 1.0), (1.5, 2.0), (2.25, 3.0), (3.6, 4.0)]),
        ({"max_utterance_s": 1.5}, [(0.0, 2.0), (2.25, 3.0), (3.6, 4.0)]),
        ({"max_utterance_s": 0.0}, [(0.0, 1.0), (1.5, 2.0), (2.25, 3.0), (3.6, 4.0)]),
    ],
)
def test_segments_are_joined_over_short_pauses(tmp_path, options, expected):
    segments = [(0.0, 1.0, "L", ["一"]), (1.5, 2.0, "L", ["二"]), (2.25, 3.0, "L", ["三"]), (3.6, 4.0, "L", ["四"])]
    write_talk(tmp_path, TRAIN, segments, seconds=4.0)
    utterances, _ = read(tmp_path, **options)
    assert [(one.offset_s, round(one.offset_s + one.duration_s, 3)) for one in utterances] == expected
    assert "".join(utterance.transcript for utterance in utterances) == "一二三四"


def test_a_segment_without_words_does_not_bridge_a_pause(tmp_path):
    write_talk(tmp_path, TRAIN, [(0.0, 0.5, "L", ["一"]), (0.8, 1.0, "L", ["<咳>", "(?)"]), (1.3, 1.5, "L", ["二"])])
    assert [utterance.transcript for utterance in read(tmp_path)[0]] == ["一", "二"]


def test_published_counts_are_those_of_the_same_segmentation(tmp_path):
    assert CSJ(tmp_path).published() == {"eval1": 1_272, "eval2": 1_292, "eval3": 1_385}
    assert CSJ(tmp_path, max_gap_s=None).published() == {}


def test_talks_are_in_the_split_of_their_list_and_no_two(tmp_path):
    write_fake(tmp_path)
    corpus = CSJ(tmp_path)
    assert corpus.splits() == ["train", "dev", "eval1", "eval2", "eval3"]
    speakers = {split: {utterance.speaker for utterance in read(tmp_path, split)[0]} for split in corpus.splits()}
    assert speakers == {
        "train": {"A01F0055", "D01F0002-L", "D01F0002-R"},
        "dev": {"A01M0264"},
        "eval1": {"A01M0110"},
        "eval2": {"A01M0056"},
        "eval3": {"S00M0112"},
    }
    assert "S05M0613" in EXCLUDED
    assert "S05M0613" in TALKS
    listed = [talk for talks in SPLITS.values() for talk in talks.split()] + list(EXCLUDED)
    assert [len(talks.split()) for talks in SPLITS.values()] == [39, 10, 10, 10]
    assert len(set(listed)) == len(listed) == 75


@pytest.mark.parametrize(
    ("sdb", "wav"), [("SDB/core", "WAV"), ("MORPH/SDB/noncore", "WAV/noncore"), ("dvd3/A02F0001", "dvd3/A02F0001")]
)
def test_the_layouts_of_all_editions_are_found(tmp_path, sdb, wav):
    write_talk(tmp_path / "x", TRAIN, [(0.0, 1.0, "L", ["一"])])
    for folder, source in ((sdb, f"MORPH/SDB/core/{TRAIN}.sdb"), (wav, f"WAV/core/{TRAIN}.wav")):
        (tmp_path / folder).mkdir(parents=True, exist_ok=True)
        target = tmp_path / folder / source.rpartition("/")[2]
        (tmp_path / "x" / source).rename(target.with_suffix(".WAV") if target.suffix == ".wav" else target)
    (utterance,), _ = read(tmp_path)
    assert (utterance.id, utterance.duration_s) == ("A02F0001_0000000_0001000", 1.0)


def test_long_nasals_are_not_told_apart(tmp_path):
    write_talk(tmp_path, TRAIN, [(0.0, 1.0, "L", ["(F んー)", "うんーー", "パンー"])])
    assert read(tmp_path)[0][0].transcript == "んうんパン"


def test_hidden_names_are_left_out_of_training_and_taken_out_of_tests(tmp_path):
    segments = [(0.0, 0.5, "L", ["(R ××)", "です"]), (2.0, 2.5, "L", ["はい"])]
    write_talk(tmp_path, TRAIN, segments)
    write_talk(tmp_path, EVAL, segments)
    utterances, tally = read(tmp_path)
    assert [utterance.transcript for utterance in utterances] == ["はい"]
    assert tally.rejected == {"a name in it was made unrecognisable (×)": 1}
    utterances, tally = read(tmp_path, "eval1")
    assert [utterance.transcript for utterance in utterances] == ["です", "はい"]
    assert tally.changed == {"the mark of an unrecognisable name (×) taken out": 1}


def test_what_cannot_be_trained_on_is_counted_and_test_rows_stay(tmp_path):
    segments = [
        (0.0, 0.5, "L", ["(F えー)"]),
        (2.5, 5.0, "L", ["一"]),
        (7.0, 8.0, "L", ["二"]),
        (9.0, 9.0, "L", ["三"]),
    ]
    for talk in (TRAIN, EVAL, "A02F0002", "S00M0112"):
        write_talk(tmp_path, talk, segments)
    (tmp_path / "WAV/core/A02F0002.wav").unlink()
    utterances, tally = read(tmp_path, text="fluent")
    assert [(utterance.id, utterance.duration_s) for utterance in utterances] == [("A02F0001_0002500_0005000", 0.5)]
    assert tally.rejected == {
        "no words but fillers and fragments": 2,
        "stretch of no length, or past the end of the audio": 2,
        "audio is missing, empty or damaged": 3,
    }
    assert tally.changed == {"cut at the end of the audio": 1}
    utterances, tally = read(tmp_path, "eval1", text="fluent")
    assert [(one.transcript, round(one.duration_s * 16_000)) for one in utterances] == [
        ("", 8_000),
        ("一", 8_000),
        ("二", 1),
        ("三", 1),
    ]
    assert not tally.rejected
    (tmp_path / "WAV/core/S00M0112.wav").write_bytes(b"")
    utterances, tally = read(tmp_path, "eval3")
    assert [round(one.duration_s * 16_000) for one in utterances] == [1, 1, 1, 1]
    assert tally.changed == {"audio is missing, empty or damaged, and counts as silence": 4}


GOOD = sdb_lines(TRAIN, [(0.0, 1.0, "L", ["一"])])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (GOOD.encode("utf-8"), r"A02F0001\.sdb, line 1: not Shift-JIS.*cp932"),
        (GOOD.encode("cp932")[:-7] + b"\x81", r"A02F0001\.sdb, line 1: not Shift-JIS.*cp932"),
        (GOOD.replace("\t", " ").encode("cp932"), r"A02F0001\.sdb, line 1: needs tab-separated fields"),
        ((GOOD + GOOD[:20]).encode("cp932"), "line 2: needs tab-separated fields, the fourth like '0001"),
        (GOOD.replace("L:", "M:").encode("cp932"), "line 1: needs tab-separated fields"),
        ((GOOD + GOOD.replace("一", "い)")).encode("cp932"), "line 2: a tag is closed in 'い"),
        ((GOOD + GOOD.replace("一", "(F い")).encode("cp932"), r"line 2: the tag '\(F' in '\(F い' is never closed"),
        (b"\0\0\0", "line 1: needs tab-separated fields"),
    ],
)
def test_mistakes_are_named_with_their_place(tmp_path, content, message):
    write_talk(tmp_path, TRAIN, [])
    (tmp_path / f"MORPH/SDB/core/{TRAIN}.sdb").write_bytes(content)
    with pytest.raises(UserError, match=message):
        read(tmp_path)


def test_talks_without_words_or_without_a_transcription_are_counted_in_train_and_named_in_a_test_set(tmp_path):
    write_fake(tmp_path)
    sdb = tmp_path / "MORPH/SDB"
    (sdb / "core/A01F0055.sdb").write_bytes(b"")
    (sdb / "noncore/D01F0002.sdb").unlink()
    (sdb / "noncore/S05M0613.sdb").unlink()
    utterances, tally = read(tmp_path)
    assert not utterances
    assert tally.rejected == {"transcription without a word": 1, "recording without a transcription": 2}
    (sdb / "core/A01M0110.sdb").write_bytes(b"\n")
    with pytest.raises(UserError, match=r"A01M0110\.sdb: transcription without a word\. A test set must be whole"):
        read(tmp_path, "eval1")
    (sdb / "core/A01M0056.sdb").unlink()
    with pytest.raises(UserError, match=r"A01M0056\.wav: recording without a transcription\. A test set must be"):
        read(tmp_path, "eval2")


def test_lines_without_a_word_and_transcriptions_that_nothing_ends_are_counted(tmp_path):
    write_fake(tmp_path)
    path = tmp_path / "MORPH/SDB/core/A01F0055.sdb"
    lines = path.read_bytes().decode("cp932").split("\n")
    fields = lines[1].split("\t")
    fields[5] = ""
    path.write_bytes("\n".join([lines[0], "\t".join(fields), *lines[2:]])[:-5].encode("cp932"))
    assert read(tmp_path)[1].changed == {
        "line without a word": 1,
        "no line feed ends a transcription, which may be cut off": 1,
    }


def test_line_ends_and_empty_lines_are_passed_over(tmp_path):
    write_talk(tmp_path, TRAIN, [])
    (tmp_path / f"MORPH/SDB/core/{TRAIN}.sdb").write_bytes(
        ("\r\n" + GOOD.replace("\n", "\r\n") + "\r\n").encode("cp932")
    )
    assert [utterance.transcript for utterance in read(tmp_path)[0]] == ["一"]


def test_a_corpus_that_is_not_there_is_named(tmp_path):
    with pytest.raises(UserError, match=r"No CSJ in .*no \.sdb file is in it. Give `root`"):
        CSJ(tmp_path).splits()
    with pytest.raises(UserError, match=r"No CSJ in .*no such folder"):
        CSJ(tmp_path / "none").splits()
    for part in ("core", "noncore"):
        write_talk(tmp_path, TRAIN, [(0.0, 1.0, "L", ["一"])], part)
    with pytest.raises(UserError, match=r"The talk A02F0001 is in .*core.*Keep one of the two"):
        CSJ(tmp_path).files()
    (tmp_path / f"MORPH/SDB/core/{TRAIN}.sdb").unlink()
    for path in (tmp_path / "WAV").rglob("*.wav"):
        path.unlink()
    with pytest.raises(UserError, match=r"None of the audio .*WAV/A02F0001\.wav.*Give `root` the folder"):
        read(tmp_path)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"text": "fluency"}, r"Unknown `text` 'fluency'. Did you mean 'fluent'\?"),
        ({"max_gap_s": -1.0}, "must be at least 0, but are -1.0"),
        ({"max_utterance_s": float("nan")}, "must be at least 0, but are 0.5 and nan"),
        (
            {"test_splits": ["eval4"]},
            r"Unknown CSJ test set 'eval4'. Did you mean 'eval\d'\? Known: eval1, eval2, eval3",
        ),
    ],
)
def test_options_are_checked(tmp_path, options, message):
    with pytest.raises(UserError, match=message):
        CSJDataModule(str(tmp_path), **options)


def test_selections_do_not_share_manifests(tmp_path):
    options = write_fake(tmp_path).options
    folders = {
        CSJDataModule(**options | changes).manifest_dir
        for changes in ({}, {"text": "fluent"}, {"max_gap_s": None}, {"max_utterance_s": 20.0})
    }
    assert len(folders) == 4
