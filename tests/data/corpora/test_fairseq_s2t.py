"""fairseq S2T tables, quirk by quirk."""

import csv

import numpy as np
import pytest
import soundfile

from speechllm.data.corpora.fairseq_s2t import FairseqS2T, FairseqS2TDataModule
from speechllm.data.manifest import Tally
from speechllm.errors import UserError
from tests.corpora.fairseq_s2t import write_fake, write_table
from tests.corpora.must_c import tone

PAST_THE_END = "stretch of no length, or past the end of the audio"


@pytest.fixture
def root(tmp_path):
    """A folder with a talk of 2 s at 8 kHz and a clip of 0.5 s at 16 kHz."""
    soundfile.write(tmp_path / "talk.wav", tone(2.0, rate=8_000), 8_000)
    soundfile.write(tmp_path / "clip.wav", tone(0.5), 16_000)
    return tmp_path


def read(root, rows, split="train", source="en", target="de", **options):
    """Write rows, or the bytes of a file, as one table and read it; return its utterances and the tally."""
    path = root / "list.tsv"
    path.write_bytes(rows) if isinstance(rows, bytes) else write_table(path, rows)
    tally = Tally()
    return list(FairseqS2T(root, {split: "list.tsv"}, source, target, **options).read(split, tally)), tally


def row(name="a", audio="clip.wav", text="t", **fields):
    return {"id": name, "audio": audio, "n_frames": "50", "tgt_text": text, **fields}


@pytest.mark.parametrize(
    "text",
    ['one " alone', '"quoted"', "back\\slash", "\\", '\\"', "a\tb", "line\u2028\x85", "N/A", "'", "caf\u00e9 \x00"],
)
def test_texts_come_back_as_fairseq_wrote_them(root, text):
    utterances, tally = read(root, [row("a", text=text, src_text="x\\"), row("b"), row("c")])
    assert [utterance.translations["de"] for utterance in utterances] == [text, "t", "t"]
    assert utterances[0].transcript == "x\\"
    assert not tally.rejected


def test_a_backslash_that_escapes_nothing_stays(root):
    content = b'id\taudio\ttgt_text\tspeaker\na\tclip.wav\tC:\\new \\"x\\"\tspk\\\nb\tclip.wav\tt\ts\n'
    utterances, _ = read(root, content)
    assert [(utterance.translations["de"], utterance.speaker) for utterance in utterances] == [
        ('C:\\new "x"', "spk\\"),
        ("t", "s"),
    ]


def test_fields_are_those_that_pythons_own_reader_gives(root):
    texts = ['a "b" \\ c', "\\\\", 'x\t"', "plain"]
    path = write_table(root / "list.tsv", [row(str(number), text=text) for number, text in enumerate(texts)])
    with path.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE, escapechar="\\"))
    assert [line["tgt_text"] for line in rows] == texts
    assert [utterance.translations["de"] for utterance in read(root, path.read_bytes())[0]] == texts


def test_marks_line_ends_and_empty_lines_are_passed_over(root):
    content = "\ufeffid\taudio\ttgt_text\r\na\tclip.wav\tone\rtwo\r\n\r\nb\tclip.wav\tthree".encode()
    assert [utterance.translations["de"] for utterance in read(root, content)[0]] == ["one\rtwo", "three"]


def test_slices_are_in_samples_of_their_file(root):
    rows = [
        row("a", "talk.wav:4000:8000"),
        row("b", "talk.wav:0:16000"),
        row("c", "talk.wav"),
        row("d", "clip.wav:0:8000"),
    ]
    utterances, tally = read(root, rows)
    assert [(utterance.offset_s, utterance.duration_s, utterance.sampling_rate) for utterance in utterances] == [
        (0.5, 1.0, 8_000),
        (0.0, 2.0, 8_000),
        (0.0, 2.0, 8_000),
        (0.0, 0.5, 16_000),
    ]
    assert {utterance.audio for utterance in utterances[:3]} == {str(root / "talk.wav")}
    assert not tally.changed


@pytest.mark.parametrize(
    ("columns", "options", "expected"),
    [
        ({}, ("en", "de"), ("en", "", {"de": "t"})),
        ({"src_text": "s"}, ("en", "de"), ("en", "s", {"de": "t"})),
        ({"src_text": "s"}, ("en", None), ("en", "t", {})),
        ({"src_text": "s", "src_lang": "fr", "tgt_lang": "en"}, ("en", "de"), ("fr", "s", {"en": "t"})),
        ({"src_text": "s", "src_lang": "fr", "tgt_lang": "fr"}, ("en", "de"), ("fr", "t", {})),
        ({"src_text": "s", "src_lang": "", "tgt_lang": ""}, ("en", "de"), ("en", "s", {"de": "t"})),
    ],
)
def test_languages_are_the_rows_own_or_the_default(root, columns, options, expected):
    (utterance,), _ = read(root, [row(**columns)], source=options[0], target=options[1])
    assert (utterance.source_language, utterance.transcript, utterance.translations) == expected


def test_the_same_ids_in_two_languages_need_not_be_the_same_stretches(root):
    write_table(root / "de.tsv", [row("ted_1_0", "talk.wav:0:800", "Eins", src_text="One", tgt_lang="de")])
    write_table(
        root / "fr.tsv",
        [
            row("ted_1_0", "talk.wav:0:1600", "Un", src_text="One", tgt_lang="fr"),
            row("ted_1_1", "talk.wav:1600:800", "Deux", src_text="Two", tgt_lang="fr"),
        ],
    )
    tally = Tally()
    utterances = list(FairseqS2T(root, {"train": ["de.tsv", "fr.tsv"]}, "en").read("train", tally))
    assert [(utterance.id, utterance.translations) for utterance in utterances] == [
        ("ted_1_0", {"de": "Eins"}),
        ("ted_1_0_2", {"fr": "Un"}),
        ("ted_1_1", {"fr": "Deux"}),
    ]
    assert tally.changed == {"the id is that of other audio, and got a number": 1}


def test_features_are_refused_and_audio_in_an_archive_is_told_apart(root):
    np.save(root / "a.npy", np.zeros((3, 80)))
    (root / "fbank80.zip").write_bytes(b"PK..name" + (root / "a.npy").read_bytes())
    (root / "flac.zip").write_bytes(b"PK..name" + b"fLaC....")
    for audio in ("fbank80.zip:8:100", "a.npy", "none.zip:8:100", f"fbank80.zip:{10**30}:1"):
        with pytest.raises(UserError, match=r"list\.tsv, line 2: .* holds features .*the corpus itself"):
            read(root, [row(audio=audio)])
    with pytest.raises(UserError, match=r"line 2: the audio stands in the archive .*flac\.zip'. Unpack it"):
        read(root, [row(audio="flac.zip:8:8")])


def test_audio_is_named_from_its_own_root(root):
    (root / "lists").mkdir()
    write_table(root / "lists/a.tsv", [row()])
    for options in ({"audio_root": "."}, {"audio_root": str(root)}):
        corpus = FairseqS2T(root, {"train": "lists/a.tsv"}, "en", "de", **options)
        assert [utterance.duration_s for utterance in corpus.read("train", Tally())] == [0.5]
    corpus = FairseqS2T(root, {"train": "lists/a.tsv"}, "en", "de", audio_root="lists")
    with pytest.raises(UserError, match=r"None of the audio files .*lists/clip\.wav.*`audio_root`"):
        list(corpus.read("train", Tally()))


BAD = [
    row("long", "talk.wav:8000:80000"),
    row("past", "talk.wav:16000:800"),
    row("none", "talk.wav:800:0"),
    row("empty", "empty.wav:0:100"),
    row("gone", "gone.wav"),
]


def test_what_cannot_be_trained_on_is_counted(root):
    (root / "empty.wav").touch()
    content = write_table(root / "list.tsv", [*BAD, row("e", text=" "), row("f", audio=""), row("g")]).read_bytes()
    utterances, tally = read(root, content + b"h\tclip.wav\n")
    assert [(utterance.id, utterance.duration_s) for utterance in utterances] == [("long", 1.0), ("g", 0.5)]
    assert tally.changed == {"cut at the end of the audio": 1}
    assert tally.rejected == {
        PAST_THE_END: 2,
        "audio is missing, empty or damaged": 2,
        "tgt_text is empty": 1,
        "no audio is named": 1,
        "2 fields for 8 columns": 1,
    }


def test_test_rows_all_stay(root):
    (root / "empty.wav").touch()
    utterances, tally = read(root, [*BAD, row("e", text="")], "test")
    assert [(utterance.id, round(utterance.duration_s * utterance.sampling_rate)) for utterance in utterances] == [
        ("long", 8_000),
        ("past", 1),
        ("none", 1),
        ("empty", 1),
        ("gone", 1),
        ("e", 8_000),
    ]
    assert utterances[5].translations == {"de": ""}
    assert not tally.rejected
    assert sum(tally.changed.values()) == 5


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            b"id\taudio\tspeaker\ttgt\n",
            r"list\.tsv' has no column tgt_text. Did you mean 'tgt'\? .*: id, audio, speaker",
        ),
        (b"", "has no column id, audio, tgt_text"),
        (b"id,audio,tgt_text\n", "has no column id, audio, tgt_text"),
        (b"id\taudio\ttgt_text\na\tclip.wav\tcaf\xe9\n", r"list\.tsv' is not UTF-8 in line 2: .*utf-8"),
        (b"id\taudio\ttgt_text\ttgt_lang\na\tclip.wav\tt\tger\n", "line 2: unknown language 'ger'"),
    ],
)
def test_mistakes_are_named_with_their_place(root, content, message):
    with pytest.raises(UserError, match=message):
        read(root, content)
    with pytest.raises(UserError, match=r"line 2: no source language. Add a column `src_lang`"):
        read(root, [row()], source=None)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("b\tclip.wav", "line 3: 2 fields for 3 columns. A test set must be whole"),
        ("b\t\tt", "line 3: no audio is named"),
        ("a\tclip.wav\tt", "line 3: the same audio and target again as .*line 2"),
    ],
)
def test_a_test_row_is_never_left_out_in_silence(root, line, message):
    with pytest.raises(UserError, match=message):
        read(root, f"id\taudio\ttgt_text\na\tclip.wav\tt\n{line}\n".encode(), "test")


def test_slices_of_any_size_are_read(root):
    slices = [f"clip.wav:0:{'9' * 400}", f"clip.wav:{'9' * 400}:1"]
    utterances, tally = read(root, [row("long", slices[0]), row("past", slices[1])], "test")
    assert utterances[0].duration_s == utterances[0].recording_duration_s
    assert utterances[1].duration_s == 1 / 16_000
    assert sum(tally.changed.values()) == 2


def test_a_table_that_nothing_ends_is_counted(root):
    cut = {"no line feed ends list.tsv, which may be cut off": 1}
    assert read(root, b"id\taudio\ttgt_text\na\tclip.wav\tcut of")[1].changed == cut
    assert read(root, b"id\taudio\ttgt_text")[1].changed == cut


def test_tables_are_found_or_named(root):
    with pytest.raises(UserError, match=r"No table in .*<split>\.tsv.*Name the tables"):
        FairseqS2T(root, {}).splits()
    with pytest.raises(UserError, match=r"The table of `test`, .*tst-COMMON_st\.tsv', does not exist"):
        FairseqS2T(root, {"test": "tst-COMMON_st.tsv"}).splits()


def test_selections_do_not_share_manifests(tmp_path):
    options = write_fake(tmp_path).options
    datamodule = FairseqS2TDataModule(**options)
    assert datamodule.manifest_dir != FairseqS2TDataModule(**options | {"audio_root": "."}).manifest_dir
    assert datamodule.manifest_dir != FairseqS2TDataModule(**options | {"target": "fr"}).manifest_dir
