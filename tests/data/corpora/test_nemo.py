"""NeMo manifests, quirk by quirk."""

import json

import pytest
import soundfile

from speechllm.data.corpora.nemo import NeMo, NeMoDataModule
from speechllm.data.manifest import Tally
from speechllm.errors import UserError
from tests.corpora.must_c import tone
from tests.corpora.nemo import ASR, AST, write_fake, write_manifest

PAST_THE_END = "stretch of no length, or past the end of the audio"


@pytest.fixture
def root(tmp_path):
    """A folder with a recording of 2 s at 16 kHz and a clip of 0.5 s at 8 kHz."""
    soundfile.write(tmp_path / "talk.wav", tone(2.0), 16_000)
    soundfile.write(tmp_path / "clip.wav", tone(0.5, rate=8_000), 8_000)
    return tmp_path


def read(root, rows, split="train", source=None, target=None):
    """Write rows, or the bytes of a file, as one manifest and read it; return its utterances and the tally."""
    path = root / "list.json"
    path.write_bytes(rows) if isinstance(rows, bytes) else write_manifest(path, rows)
    tally = Tally()
    return list(NeMo(root, {split: "list.json"}, source, target).read(split, tally)), tally


def texts(utterances):
    return [(utterance.source_language, utterance.transcript, utterance.translations) for utterance in utterances]


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"taskname": "asr", "source_lang": "en", "target_lang": "en"}, ("en", "t", {})),
        ({"task": "ast", "source_lang": "en", "target_lang": "de"}, ("en", "", {"de": "t"})),
        ({"taskname": "s2t_translation", "source_lang": "de", "target_lang": "en"}, ("de", "", {"en": "t"})),
        ({"task": "<|translate|>", "source_lang": "<|de|>", "target_lang": "<|en|>"}, ("de", "", {"en": "t"})),
        ({"source_lang": "en", "target_lang": "fr"}, ("en", "", {"fr": "t"})),
        ({"source_lang": "fr", "target_lang": "fr"}, ("fr", "t", {})),
        ({"source_lang": "fr"}, ("fr", "t", {})),
        ({"source_lang": "en", "lang": "es"}, ("en", "", {"es": "t"})),
        ({"lang": "es"}, ("es", "t", {})),
        ({"source_lang": "sv-SE", "target_lang": "zh-CN"}, ("sv-SE", "", {"zh-CN": "t"})),
    ],
)
def test_the_task_is_named_or_that_of_the_languages(root, fields, expected):
    utterances, tally = read(root, [{"audio_filepath": "talk.wav", "duration": 2.0, "text": "t", **fields}])
    assert texts(utterances) == [expected]
    assert not tally.rejected


def test_options_stand_in_for_languages_that_rows_do_not_name(root):
    row = {"audio_filepath": "talk.wav", "duration": 2.0, "text": "t"}
    assert texts(read(root, [row], source="en")[0]) == [("en", "t", {})]
    assert texts(read(root, [row], source="en", target="de")[0]) == [("en", "", {"de": "t"})]
    assert texts(read(root, [row | {"taskname": "asr"}], source="en", target="de")[0]) == [("en", "t", {})]
    assert texts(read(root, [row | {"taskname": "ast", "lang": "de"}], source="en")[0]) == [("en", "", {"de": "t"})]
    assert texts(read(root, [row | {"source_lang": "fr"}], source="en", target="de")[0]) == [("fr", "", {"de": "t"})]


def test_recognition_and_translation_of_one_stretch_are_one_utterance(root):
    stretch = {"audio_filepath": "talk.wav", "offset": 0.5, "duration": 1.0}
    rows = [
        {**stretch, "text": "Eins", **AST},
        {**stretch, "text": "One", **ASR},
        {**stretch, "text": "Un", **AST, "target_lang": "fr"},
        {**stretch, "offset": 0.75, "text": "Zwei", **AST},
        {"audio_filepath": "talk.wav", "text": "All", "duration": 2.0, **ASR},
    ]
    utterances, tally = read(root, rows)
    assert texts(utterances) == [
        ("en", "One", {"de": "Eins", "fr": "Un"}),
        ("en", "", {"de": "Zwei"}),
        ("en", "All", {}),
    ]
    assert [(utterance.id, utterance.offset_s, utterance.duration_s) for utterance in utterances] == [
        ("talk.wav:0.500+1.000", 0.5, 1.0),
        ("talk.wav:0.750+1.000", 0.75, 1.0),
        ("talk.wav", 0.0, 2.0),
    ]
    assert not tally.rejected


def test_the_same_clip_with_and_without_punctuation_is_kept_once(root):
    row = {"audio_filepath": "clip.wav", "duration": 0.5}
    utterances, tally = read(root, [{**row, "text": "Yes.", **ASR}, {**row, "text": "yes", **ASR, "pnc": "no"}])
    assert texts(utterances) == [("en", "Yes.", {})]
    assert tally.rejected == {"another transcript of the same audio": 1}


def test_paths_are_relative_to_the_manifest(root):
    write_manifest(root / "lists/train.json", [{"audio_filepath": "../clip.wav", "duration": 0.5, "text": "t", **ASR}])
    (utterance,) = NeMo(root, {"train": "lists/train.json"}).read("train", Tally())
    assert utterance.id == "../clip.wav"
    assert (utterance.duration_s, utterance.sampling_rate) == (0.5, 8_000)


def test_without_an_offset_a_row_is_the_whole_file(root):
    rows = [
        {"audio_filepath": "clip.wav", "duration": 9.0, "text": "t", **ASR},
        {"audio_filepath": "talk.wav", "duration": 0.5, "text": "t", **ASR},
    ]
    assert [utterance.duration_s for utterance in read(root, rows)[0]] == [0.5, 2.0]


@pytest.mark.parametrize(("key", "value"), [("audio_filepath", "clip.wav"), ("audio_file", "clip.wav")])
def test_older_names_of_the_path_are_known(root, key, value):
    assert len(read(root, [{key: value, "duration": 0.5, "text": "t", **ASR}])[0]) == 1


def test_answers_stand_in_for_texts_and_na_is_none(root):
    row = {"audio_filepath": "clip.wav", "duration": 0.5, **ASR}
    assert read(root, [row | {"answer": "Yes."}])[0][0].transcript == "Yes."
    assert read(root, [row | {"answer": "na"}])[1].rejected == {"no text": 1}
    assert read(root, [row | {"text": None}])[1].rejected == {"no text": 1}
    assert texts(read(root, [row | {"answer": "na"}], "test")[0]) == [("en", "", {})]
    assert texts(read(root, [row | AST], "test")[0]) == [("en", "", {"de": ""})]


def test_what_cannot_be_trained_on_is_counted(root):
    (root / "empty.wav").touch()
    rows = [
        {"audio_filepath": "talk.wav", "offset": 0.5, "duration": 1.0, "text": "t", **ASR},
        {"audio_filepath": "talk.wav", "offset": 1.0, "duration": 5.0, "text": "t", **ASR},
        {"audio_filepath": "talk.wav", "offset": 2.5, "duration": 1.0, "text": "t", **ASR},
        {"audio_filepath": "talk.wav", "offset": 0.5, "duration": 0.0, "text": "t", **ASR},
        {"audio_filepath": "empty.wav", "duration": 1.0, "text": "t", **ASR},
        {"audio_filepath": "none.wav", "duration": 1.0, "text": "t", **ASR},
        {"audio_filepath": "s3://bucket/a.wav", "duration": 1.0, "text": "t", **ASR},
        {"audio_filepath": "clip.wav", "duration": 0.5, "text": "t", **ASR, "_skipme": True},
        {"audio_filepath": "clip.wav", "duration": 0.5, "text": "t", **AST, "target_lang": "en"},
        {"audio_filepath": "clip.wav", "duration": 0.5, "text": "t", **ASR, "target_lang": "de"},
    ]
    utterances, tally = read(root, rows)
    assert [(utterance.offset_s, utterance.duration_s) for utterance in utterances] == [(0.5, 1.0), (1.0, 1.0)]
    assert tally.changed == {"cut at the end of the audio": 1}
    assert tally.rejected == {
        PAST_THE_END: 2,
        "audio is missing, empty or damaged": 2,
        "audio is not a file of this machine": 1,
        "marked as _skipme": 1,
        "translation into the language that is spoken": 1,
        "recognition in another language than the one that is spoken": 1,
    }


def test_test_rows_all_stay(root):
    (root / "empty.wav").touch()
    rows = [
        {"audio_filepath": "talk.wav", "offset": 2.5, "duration": 1.0, "text": "a", **ASR},
        {"audio_filepath": "empty.wav", "duration": 1.0, "text": "b", **ASR},
        {"audio_filepath": "none.wav", "duration": 1.0, "text": "c", **ASR},
        {"audio_filepath": "talk.wav", "offset": 1.0, "duration": 5.0, "text": "d", **ASR},
    ]
    utterances, tally = read(root, rows, "test")
    assert [(utterance.transcript, utterance.duration_s) for utterance in utterances] == [
        ("a", 1 / 16_000),
        ("b", 1 / 16_000),
        ("c", 1 / 16_000),
        ("d", 1.0),
    ]
    assert not tally.rejected
    assert tally.changed == {
        f"{PAST_THE_END}, and is one sample": 1,
        "audio is missing, empty or damaged, and counts as silence": 2,
        "cut at the end of the audio": 1,
    }


def test_stretches_that_differ_by_less_than_a_millisecond_get_ids_of_their_own(root):
    row = {"audio_filepath": "talk.wav", "duration": 0.5, "text": "t", **ASR}
    utterances, tally = read(root, [row | {"offset": 0.1}, row | {"offset": 0.1001}], "test")
    assert [utterance.id for utterance in utterances] == ["talk.wav:0.100+0.500", "talk.wav:0.100+0.500_2"]
    assert tally.changed == {"the id is that of other audio, and got a number": 1}


@pytest.mark.parametrize("manifest", ["sharded/manifest__OP_0..127_CL_.json", "manifest_{0..3}.json"])
def test_tarred_data_sets_are_refused_by_the_name_of_their_shards(root, manifest):
    with pytest.raises(UserError, match=r"names the shards of a tarred NeMo data set.*Unpack the archives"):
        NeMo(root, {"train": manifest})


def test_tarred_data_sets_are_refused_by_their_rows_unless_unpacked(root):
    row = {"audio_filepath": "a.wav", "duration": 1.0, "text": "t", **ASR, "shard_id": 0}
    with pytest.raises(UserError, match=r"list\.json, line 1: `shard_id` shows .* tarred NeMo data set"):
        read(root, [row])
    assert len(read(root, [row | {"audio_filepath": "clip.wav"}])[0]) == 1


GOOD = {"audio_filepath": "clip.wav", "duration": 0.5, "text": "t", **ASR}


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"audio_path": "clip.wav"}, r"line 2: no 'audio_filepath'. Did you mean 'audio_path'\?"),
        ({"audio_filepath": ["a.wav", "b.wav"]}, r"line 2: `audio_filepath` must be the path of one file, but is \['a"),
        (GOOD | {"taskname": "astt"}, "line 2: unknown task 'astt'. Did you mean 'ast'"),
        (GOOD | {"source_lang": "eng"}, "line 2: unknown language 'eng'. Did you mean 'en'"),
        (GOOD | {"offset": "1:30"}, "line 2: `offset` is '1:30', and must be a number of seconds from 0 on"),
        (GOOD | {"offset": -1}, "line 2: `offset` is -1"),
        (GOOD | {"offset": 0.0, "duration": float("nan")}, "line 2: `duration` is nan"),
        (GOOD | {"offset": True}, "line 2: `offset` is True"),
        (GOOD | {"text": {"en": "t"}}, "line 2: `text` must be a text or a number"),
        ({"audio_filepath": "clip.wav", "text": "t"}, "line 2: no source language. Add a field `source_lang`"),
    ],
)
def test_mistakes_are_named_with_their_place(root, row, message):
    with pytest.raises(UserError, match=message):
        read(root, [GOOD, row])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (json.dumps(GOOD).encode() + b'\n{"audio_filepath": "cl', "line 2: not JSON: .* Each line must be one object"),
        (b'{"audio_filepath": "a.wav", "text": "caf\xe9"}', "line 1: not JSON: .*utf-8"),
        (b'{"audio_filepath": "a.wav",\r"text": "t"}\n[1]\n', "line 1: no source language"),
        (b"[]\n", "line 1: not a JSON object, but list"),
        (b"", "' holds no row. Fetch or write it anew"),
        (b"\n\n", "' holds no row"),
        (b'\x00\x00{"audio_filepath": "a.wav"}\n', "line 1: not JSON"),
        (b"[\n" + json.dumps(GOOD).encode() + b"\n]\n", "line 1: not JSON"),
    ],
)
def test_damaged_files_are_named_with_their_place(root, content, message):
    with pytest.raises(UserError, match=message):
        read(root, content)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"taskname": "ast"}, "line 2: translation into the language that is spoken. A test set must be whole"),
        ({"text": "u"}, "line 2: another transcript of the same audio as .*line 1. A test set must be whole"),
        ({}, "line 2: the same audio and target again as .*line 1. A test set must be whole"),
        ({"audio_filepath": "http://a/b.wav"}, "line 2: audio is not a file of this machine"),
    ],
)
def test_a_test_row_is_never_left_out_in_silence(root, changes, message):
    with pytest.raises(UserError, match=message):
        read(root, [GOOD, GOOD | changes], "test")


def test_a_split_without_any_audio_is_an_error(root):
    for split in ("train", "test"):
        with pytest.raises(
            UserError, match=r"None of the audio files of the split .*relative to the manifest's folder"
        ):
            read(root, [GOOD | {"audio_filepath": "x/a.wav"}, GOOD | {"audio_filepath": "x/b.wav"}], split)


def test_manifests_are_found_or_named(root):
    with pytest.raises(UserError, match=r"No manifest in .*<split>_manifest\.json.*It holds: clip\.wav, talk\.wav"):
        NeMo(root, {}).splits()
    write_manifest(root / "train_manifest.json", [GOOD])
    write_manifest(root / "test.jsonl", [GOOD])
    assert NeMo(root, {}).splits() == ["train", "test"]
    assert [path.name for path in NeMo(root, {}).files()] == ["train_manifest.json", "test.jsonl"]
    with pytest.raises(UserError, match=r"The manifest of `dev`, .*my\.json', does not exist"):
        NeMo(root, {"dev": ["test.jsonl", "my.json"]}).splits()
    write_manifest(root / "train.json", [GOOD])
    with pytest.raises(UserError, match=r"several manifests of the split train: .*Say which: `train`"):
        NeMo(root, {}).splits()


def test_selections_do_not_share_manifests(tmp_path):
    options = write_fake(tmp_path).options
    datamodule = NeMoDataModule(**options)
    assert datamodule.manifest_dir != NeMoDataModule(**options | {"source": "en"}).manifest_dir
    assert datamodule.manifest_dir != NeMoDataModule(**options | {"train": "lists/asr.json"}).manifest_dir
