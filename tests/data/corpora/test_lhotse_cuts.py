"""Manifests of lhotse, as lhotse itself writes them, quirk by quirk."""

import gzip
import json

import numpy as np
import pytest
import soundfile
from lhotse import CutSet, Features, MonoCut, MultiCut, Recording, load_manifest
from lhotse.audio import AudioSource

from speechllm.audio import read_audio
from speechllm.data.corpora.lhotse_cuts import LhotseCuts, LhotseCutsDataModule
from speechllm.data.manifest import Tally, read_manifest
from speechllm.errors import UserError
from tests.corpora.lhotse_cuts import recording, supervision, write_cuts, write_fake
from tests.corpora.must_c import tone


@pytest.fixture
def talk(tmp_path):
    """A recording of 2 s at 22,050 Hz."""
    soundfile.write(tmp_path / "talk.wav", tone(2.0, rate=22_050), 22_050)
    return recording(tmp_path / "talk.wav")


def cut_of(of, name="a", start=0.0, duration=None, channel=0, supervisions=None, **fields):
    """Return a cut of a recording, with one supervision of all of it where none is given."""
    duration = of.duration - start if duration is None else duration
    kind = MonoCut if isinstance(channel, int) else MultiCut
    default = [supervision(f"{name}-0", of.id, 0.0, duration, "t", channel=channel)]
    return kind(
        name, start, duration, channel, default if supervisions is None else supervisions, recording=of, **fields
    )


def read(root, cuts, split="train", source=None, target=None, name="list.jsonl", **options):
    """Write cuts, or the bytes of a file, as one manifest and read it; return its utterances and the tally."""
    path = root / name
    path.write_bytes(cuts) if isinstance(cuts, bytes) else write_cuts(path, cuts)
    tally = Tally()
    return list(LhotseCuts(root, {split: name}, source, target, **options).read(split, tally)), tally


def spans(utterances):
    return [(utterance.id, utterance.offset_s, utterance.duration_s) for utterance in utterances]


def test_every_supervision_of_a_cut_is_an_utterance(tmp_path, talk):
    cut = cut_of(
        talk,
        start=0.5,
        duration=1.0,
        supervisions=[
            supervision("x", "talk", 0.0, 0.25, "One"),
            supervision("y", "talk", 0.5, 0.5, "Two", speaker="anna", language="fr"),
            supervision("over the edge", "talk", 0.75, 0.5, "Three"),
            supervision("before it", "talk", -0.25, 0.5, "Zero"),
            supervision("before all", "talk", -0.75, 0.5, "Minus"),
        ],
    )
    utterances, tally = read(tmp_path, [cut])
    assert spans(utterances) == [
        ("x", 0.5, 0.25),
        ("y", 1.0, 0.5),
        ("over the edge", 1.25, 0.5),
        ("before it", 0.25, 0.5),
        ("before all", 0.0, 0.25),
    ]
    assert [(utterance.transcript, utterance.speaker, utterance.source_language) for utterance in utterances[:2]] == [
        ("One", "s", "en"),
        ("Two", "anna", "fr"),
    ]
    assert {(utterance.sampling_rate, utterance.recording_duration_s) for utterance in utterances} == {(22_050, 2.0)}
    assert {utterance.corpus for utterance in utterances} == {"lhotse_cuts"}
    assert not tally.rejected


def test_windows_of_one_supervision_are_one_utterance(tmp_path, talk):
    cuts = CutSet.from_cuts([cut_of(talk)]).cut_into_windows(0.7).to_eager()
    utterances, tally = read(tmp_path, list(cuts))
    assert spans(utterances) == [("a-0", 0.0, 2.0)]
    assert tally.rejected == {"the same audio and target again": 2}


def test_recordings_and_supervisions_say_the_same_as_their_cuts(tmp_path):
    options = write_fake(tmp_path).options
    corpus = LhotseCuts(tmp_path, {}, "en")
    pair = list(corpus.read("train", Tally()))
    cuts = CutSet.from_manifests(
        recordings=load_manifest(tmp_path / "my_recordings_train.jsonl.gz"),
        supervisions=load_manifest(tmp_path / "my_supervisions_train.jsonl.gz"),
    )
    write_cuts(tmp_path / "train.jsonl.gz", list(cuts))
    assert list(LhotseCuts(tmp_path, {}, "en").read("train", Tally())) == pair
    names = {"train": ["my_supervisions_train.jsonl.gz", "my_recordings_train.jsonl.gz"]}
    assert list(LhotseCuts(tmp_path, names, "en").read("train", Tally())) == pair
    assert [path.name for path in LhotseCuts(tmp_path, names).files()][:2] == names["train"]
    assert options["source"] == "en"


def test_our_own_manifests_are_read_again(tmp_path):
    first = LhotseCutsDataModule(**write_fake(tmp_path / "first").options)
    first.prepare_data()
    own = first.manifest_dir
    second = LhotseCuts(own, {})
    for split in ("train", "dev", "test"):
        expected = list(read_manifest(own, split))
        if split == "train":
            assert list(second.read(split, Tally())) == expected
        else:
            assert spans(second.read(split, Tally())) == spans(expected)


def test_channels_become_those_of_the_file(tmp_path):
    left, right = tone(1.0, 200.0), tone(1.0, 400.0)
    soundfile.write(tmp_path / "two.wav", np.stack([left, right], axis=1), 16_000)
    for name, samples in (("l", left), ("r", right)):
        soundfile.write(tmp_path / f"{name}.wav", samples, 16_000)
    two = recording(tmp_path / "two.wav")
    files = [AudioSource("file", [channel + 4], str(tmp_path / f"{name}.wav")) for channel, name in enumerate("lr")]
    apart = Recording("apart", files, 16_000, 16_000, 1.0)
    cuts = [
        cut_of(two, "left", channel=0),
        cut_of(two, "right", channel=1),
        cut_of(two, "both", channel=[0, 1]),
        cut_of(two, "its own", channel=[0, 1], supervisions=[supervision("o", "two", 0.0, 1.0, "t", channel=1)]),
        cut_of(apart, "apart", channel=5),
    ]
    utterances, tally = read(tmp_path, cuts)
    assert [(utterance.audio[-7:], utterance.channel) for utterance in utterances] == [
        ("two.wav", 0),
        ("two.wav", 1),
        ("two.wav", None),
        ("two.wav", 1),
        ("0/r.wav", None),
    ]
    assert not tally.rejected
    assert read(tmp_path, [cut_of(apart, channel=5), cut_of(apart, "b", channel=[4, 5])])[1].rejected == {
        "its channels are in several files": 1
    }
    three = Recording("three", [AudioSource("file", [0, 1, 2], str(tmp_path / "two.wav"))], 16_000, 16_000, 1.0)
    assert read(tmp_path, [cut_of(two), cut_of(three, "b", channel=[0, 2])])[1].rejected == {
        "some of the channels of a file": 1
    }


@pytest.mark.parametrize(
    ("custom", "expected"),
    [
        ({"translation": {"de": "Eins", "zh-CN": "一"}}, {"de": "Eins", "zh-CN": "一"}),
        ({"translated_text": {"German": "Eins"}}, {"de": "Eins"}),
        ({"translation": None, "other": [1]}, {}),
        (None, {}),
    ],
)
def test_translations_stand_in_custom_fields(tmp_path, talk, custom, expected):
    cut = cut_of(talk, supervisions=[supervision("x", "talk", 0.0, 1.0, "One", custom=custom)])
    assert read(tmp_path, [cut])[0][0].translations == expected


def test_the_text_may_be_the_translation_as_in_lhotses_must_c(tmp_path, talk):
    german = cut_of(talk, "de", supervisions=[supervision("talk-seg-0", "talk", 0.0, 1.0, "Eins", language="de")])
    french = cut_of(talk, "fr", supervisions=[supervision("talk-seg-0", "talk", 0.0, 1.0, "Un", language="fr")])
    other = cut_of(talk, "ru", supervisions=[supervision("talk-seg-0", "talk", 0.0, 1.5, "Раз", language=None)])
    options = {"source": "en", "target": "ru", "text": "translation"}
    utterances, tally = read(tmp_path, [german, french, other], **options)
    assert [(each.id, each.source_language, each.transcript, each.translations) for each in utterances] == [
        ("talk-seg-0", "en", "", {"de": "Eins", "fr": "Un"}),
        ("talk-seg-0_2", "en", "", {"ru": "Раз"}),
    ]
    assert tally.changed == {"the id is that of other audio, and got a number": 1}
    with pytest.raises(UserError, match="`source` must say which language is spoken"):
        read(tmp_path, [german], text="translation")
    with pytest.raises(UserError, match=r"line 1: the supervision has no `language`. Give the option `target`"):
        read(tmp_path, [other], source="en", text="translation")
    with pytest.raises(UserError, match=r"Unknown `text` 'translated'. Did you mean 'translation'"):
        LhotseCuts(tmp_path, {}, text="translated")


@pytest.mark.parametrize(
    ("language", "code"),
    [
        ("en", "en"),
        ("English", "en"),
        ("Mandarin", "zh"),
        ("Singaporean English", "en"),
        ("sv-SE", "sv-SE"),
        (None, "nl"),
    ],
)
def test_languages_are_codes_or_names(tmp_path, talk, language, code):
    cut = cut_of(talk, supervisions=[supervision("x", "talk", 0.0, 1.0, "One", language=language)])
    assert read(tmp_path, [cut], source="nl")[0][0].source_language == code


def of_type(talk, kind, source="x"):
    return Recording("other", [AudioSource(kind, [0], source)], talk.sampling_rate, talk.num_samples, talk.duration)


FEATURES = Features(
    type="fbank",
    num_frames=200,
    num_features=80,
    frame_shift=0.01,
    sampling_rate=22_050,
    start=0.0,
    duration=2.0,
    storage_type="lilcom_files",
    storage_path="feats",
    storage_key="a.llc",
    channels=0,
)
UNUSABLE = {
    "the audio is the output of a command, which is never run": lambda talk: cut_of(
        of_type(talk, "command", "touch ran")
    ),
    "the audio is at a URL": lambda talk: cut_of(of_type(talk, "url", "https://a/b.wav")),
    "the audio is in a Shar archive": lambda talk: cut_of(of_type(talk, "shar", "")),
    "the audio stands in the manifest": lambda talk: cut_of(of_type(talk, "memory", "UklGRg==")),
    "lhotse changes the recording (Speed)": lambda talk: cut_of(talk).perturb_speed(1.1),
    "lhotse changes the recording (Tempo)": lambda talk: cut_of(talk).perturb_tempo(1.1),
    "lhotse changes the recording (Volume)": lambda talk: cut_of(talk).perturb_volume(2.0),
    "lhotse changes the recording (ReverbWithImpulseResponse)": lambda talk: cut_of(talk).reverb_rir(),
    "a mixed or padded cut": lambda talk: cut_of(talk).pad(3.0),
    "features without audio": lambda talk: cut_of(talk, features=FEATURES).drop_recording(),
    "no recording": lambda talk: MonoCut("a", 0.0, 1.0, 0, [supervision("x", "talk", 0.0, 1.0, "t")]),
    "no supervision": lambda talk: cut_of(talk, supervisions=[]),
    "no source has its channel": lambda talk: cut_of(talk, channel=3),
    "neither transcript nor translation": lambda talk: cut_of(
        talk, supervisions=[supervision("x", "talk", 0.0, 1.0, None, custom={"translation": {"de": " "}})]
    ),
}
"""Cuts that are left out of training, by the reason."""

KEPT_IN_TEST = ("no supervision", "neither transcript nor translation")


@pytest.mark.parametrize("reason", UNUSABLE)
def test_what_cannot_be_read_is_left_out_with_its_reason(tmp_path, talk, reason, monkeypatch):
    monkeypatch.chdir(tmp_path)
    utterances, tally = read(tmp_path, [cut_of(talk, "good"), UNUSABLE[reason](talk)])
    assert [utterance.id for utterance in utterances] == ["good-0"]
    assert tally.rejected == {reason: 1}
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("reason", [reason for reason in UNUSABLE if reason not in KEPT_IN_TEST])
def test_a_test_set_that_cannot_be_read_whole_is_refused(tmp_path, talk, reason):
    with pytest.raises(UserError, match=r"list\.jsonl, line 2: .*A test set must be whole") as caught:
        read(tmp_path, [cut_of(talk, "good"), UNUSABLE[reason](talk)], "test")
    assert reason in str(caught.value)


def test_nothing_that_can_be_read_is_an_error(tmp_path, talk):
    cuts = [cut_of(of_type(talk, "url")), cut_of(talk, "b").perturb_speed(0.9)]
    with pytest.raises(
        UserError, match=r"No utterance of 'train' can be read .*: the audio is at a URL: 1; lhotse changes"
    ):
        read(tmp_path, cuts)


def test_resampled_recordings_are_read_from_their_file(tmp_path, talk):
    (utterance,), tally = read(tmp_path, [cut_of(talk).resample(16_000).resample(8_000)])
    assert (utterance.sampling_rate, utterance.duration_s, utterance.recording_duration_s) == (22_050, 2.0, 2.0)
    assert len(read_audio(utterance.audio, utterance.offset_s, utterance.duration_s)) == 32_000
    assert not tally.rejected


def test_test_rows_all_stay(tmp_path, talk):
    (tmp_path / "empty.wav").touch()
    gone = Recording("gone", [AudioSource("file", [0], str(tmp_path / "gone.wav"))], 16_000, 16_000, 1.0)
    cuts = [
        cut_of(talk, "a", supervisions=[]),
        cut_of(gone, "b"),
        cut_of(talk, "c", supervisions=[supervision("c", "talk", 0.0, 0.0, "t")]),
        cut_of(talk, "d", supervisions=[supervision("d", "talk", 1.5, 9.0, None)]),
    ]
    utterances, tally = read(tmp_path, cuts, "test", source="en")
    assert spans(utterances) == [("a", 0.0, 2.0), ("b-0", 0.0, 1 / 16_000), ("c", 0.0, 1 / 22_050), ("d", 1.5, 0.5)]
    assert tally.changed == {
        "audio is missing, empty or damaged, and counts as silence": 1,
        "stretch of no length, or past the end of the audio, and is one sample": 1,
        "cut at the end of the audio": 1,
    }


def test_relative_paths_are_named_from_the_audio_root(tmp_path, talk):
    talk.sources[0].source = "audio/talk.wav"
    (tmp_path / "corpus/audio").mkdir(parents=True)
    (tmp_path / "talk.wav").rename(tmp_path / "corpus/audio/talk.wav")
    (utterance,), _ = read(tmp_path, [cut_of(talk)], audio_root="corpus")
    assert utterance.audio == str(tmp_path / "corpus/audio/talk.wav")
    with pytest.raises(UserError, match=r"None of the audio files .*audio/talk\.wav.*Say what .*`audio_root`"):
        read(tmp_path, [cut_of(talk)])


def good(talk):
    return cut_of(talk).to_dict()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda row: row.pop("start"), "line 1: not a cut, .*: no 'start'"),
        (lambda row: row["recording"].pop("sources"), "no 'sources'"),
        (lambda row: row["recording"].update(sources=None), "not a cut, .*not iterable"),
        (lambda row: row["recording"].update(duration=0), "a recording of 0.0 s at 22050 Hz"),
        (lambda row: row["recording"].update(sampling_rate="fast"), "invalid literal for int"),
        (lambda row: row["recording"].update(sampling_rate=10**30), "a recording of 2.0 s at 10{30} Hz"),
        (lambda row: row["recording"].update(transforms=["x"]), "string indices must be integers"),
        (lambda row: row.update(supervisions=["x"]), "not a cut"),
        (lambda row: row["supervisions"][0].update(start=float("nan")), "a supervision of .* s from nan s on"),
        (lambda row: row["supervisions"][0].update(duration=1e400), "a supervision of inf s"),
        (
            lambda row: row["supervisions"][0].update(text=["x"]),
            r"line 1: `text` must be a text or a number, but is \['x'\]",
        ),
        (lambda row: row["supervisions"][0].update(language="Klingon"), "line 1: unknown language 'Klingon'"),
        (lambda row: row["supervisions"][0].update(language=None), "line 1: the supervision has no `language`"),
        (lambda row: row["supervisions"][0].update(custom="x"), "not a cut"),
        (lambda row: row["supervisions"][0].update(custom={"translation": {"xx": "x"}}), "unknown language 'xx'"),
        (lambda row: [row.pop(key) for key in ("type", "supervisions", "recording")], "neither a cut nor a recording"),
    ],
)
def test_mistakes_are_named_with_their_place(tmp_path, talk, change, message):
    row = good(talk)
    change(row)
    with pytest.raises(UserError, match=message):
        read(tmp_path, f"{json.dumps(row)}\n".encode())


def test_damaged_files_are_named_with_their_place(tmp_path, talk):
    content = f"{json.dumps(good(talk))}\n".encode()
    with pytest.raises(UserError, match="line 2: not JSON"):
        read(tmp_path, content + content[:100])
    packed = gzip.compress(b"".join(json.dumps(cut_of(talk, str(n)).to_dict()).encode() + b"\n" for n in range(200)))
    with pytest.raises(UserError, match=r"list\.jsonl\.gz' cannot be read, after line \d+: Compressed file ended"):
        read(tmp_path, packed[:-200], name="list.jsonl.gz")
    with pytest.raises(UserError, match=r"list\.jsonl\.gz' cannot be read: Not a gzipped file"):
        read(tmp_path, content, name="list.jsonl.gz")
    with pytest.raises(UserError, match=r"list\.json' is not JSON lines. Convert it: lhotse copy list\.json"):
        read(tmp_path, content, name="list.json")
    with pytest.raises(UserError, match=r"No utterance of 'train' can be read .*: no recording: 1"):
        read(tmp_path, f"{json.dumps(good(talk)['supervisions'][0])}\n".encode())


def test_manifests_are_found_or_named(tmp_path, talk):
    with pytest.raises(UserError, match=r"No cut manifest in .*\*cuts_<split>\.jsonl\.gz.*It holds: talk\.wav"):
        LhotseCuts(tmp_path, {}).splits()
    with pytest.raises(UserError, match=r"The cut manifest of `dev`, .*none\.jsonl', does not exist"):
        LhotseCuts(tmp_path, {"dev": "none.jsonl"}).splits()
    write_cuts(tmp_path / "a_cuts_train.jsonl", [cut_of(talk)])
    write_cuts(tmp_path / "b_cuts_train.jsonl.gz", [cut_of(talk)])
    with pytest.raises(UserError, match=r"several cut manifests of the split train: .*Say which: `train`"):
        LhotseCuts(tmp_path, {}).splits()
    both = LhotseCuts(tmp_path, {"train": ["a_cuts_train.jsonl", "b_cuts_train.jsonl.gz"]})
    tally = Tally()
    assert len(list(both.read("train", tally))) == 1
    assert tally.rejected == {"the same audio and target again": 1}


def test_selections_do_not_share_manifests(tmp_path):
    options = write_fake(tmp_path).options
    datamodule = LhotseCutsDataModule(**options)
    assert datamodule.manifest_dir != LhotseCutsDataModule(**options | {"text": "translation"}).manifest_dir
    assert datamodule.manifest_dir != LhotseCutsDataModule(**options | {"audio_root": "x"}).manifest_dir
