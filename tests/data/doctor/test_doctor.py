"""The corpus doctor: each thing that may be wrong is found, nothing else is, and the right utterances are left out."""

import json
import math
from dataclasses import replace
from zlib import crc32

import numpy as np
import pytest
import soundfile

from speechllm.audio import AudioError, read_audio
from speechllm.audio_levels import measure_packed
from speechllm.data.doctor import audio as doctor_audio
from speechllm.data.doctor import report as doctor_report
from speechllm.data.doctor.check import check_corpus, check_utterances
from speechllm.data.doctor.rules import REASONS, Thresholds
from speechllm.data.exclusions import read_exclusions
from speechllm.data.manifest import manifest_path, write_manifests
from speechllm.data.utterance import Utterance
from speechllm.errors import UserError
from speechllm.report import display_width
from tests.corpora.must_c import tone
from tests.worker_jobs import measure_or_crash

RATE = 16_000
TEXT = "As many words as are spoken in two seconds."


@pytest.fixture
def clip(tmp_path):
    """Return a function that writes a clip of noise, unlike that of any other name, and returns its utterance."""

    def write(name="clip.wav", samples=None, duration_s=2.0, rate=RATE, **fields):
        if samples is None:
            samples = (
                np.random.default_rng(crc32(name.encode()))
                .uniform(-0.2, 0.2, round(duration_s * rate))
                .astype(np.float32)
            )
        options = {"subtype": "FLOAT"} if name.endswith("float.wav") else {}
        soundfile.write(tmp_path / name, samples, rate, **options)
        utterance = Utterance(name.split(".")[0], str(tmp_path / name), 0.0, len(samples) / rate, "en", TEXT)
        return replace(utterance, **{"sampling_rate": rate} | fields)

    return write


@pytest.fixture(autouse=True)
def undrawn(request, monkeypatch):
    """Leave the picture out, which takes most of the time, but for tests that ask for it by ``picture``."""
    if "picture" not in request.fixturenames:
        monkeypatch.setattr(doctor_report, "draw", lambda *_: None)
        monkeypatch.setattr(doctor_report, "save", lambda _, path: path.touch())


@pytest.fixture
def picture(tmp_path):
    """Return the path of the picture."""
    return tmp_path / "out" / "check.png"


@pytest.fixture
def check(tmp_path):
    """Return a function that checks splits of utterances in this process."""

    def run(workers=0, **splits):
        options = {name: splits.pop(name) for name in ("thresholds", "severities") if name in splits}
        return check_utterances(splits, tmp_path / "out", workers, **options)

    return run


@pytest.fixture
def findings(tmp_path):
    """Return a function that reads ``findings.tsv``: what was found of each id, or the details of a reason by id."""

    def read(reason=None):
        header, *rows = (tmp_path / "out" / "findings.tsv").read_text(encoding="utf-8").removesuffix("\n").split("\n")
        assert header == "split\tid\tseverity\treason\tdetail\taudio"
        fields = [row.split("\t") for row in rows]
        if reason:
            return {row[1]: row[4] for row in fields if row[3] == reason}
        return {name: {row[3] for row in fields if row[1] == name} for name in {row[1] for row in fields}}

    return read


def test_nothing_is_found_in_a_sound_corpus(check, clip, findings):
    texts = {"de": "So viele Wörter, wie in zwei Sekunden gesprochen werden."}
    train = [clip(f"clip{number}.wav", translations=texts, speaker=f"spk{number}") for number in range(3)]
    report = check(train=train, test=[clip("other.wav", transcript="Others.", translations=texts, speaker="other")])
    assert findings() == {}
    assert report.excluded == 0
    assert "Decoded 0.00 h of audio" in str(report)


def cut(path, share=0.5):
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])


NOISE = np.random.default_rng(7).uniform(-0.2, 0.2, 2 * RATE).astype(np.float32)
STEREO = np.stack([NOISE, np.zeros_like(NOISE)], axis=1)

AUDIO = {
    "missing file": ({}, {}, lambda path: path.unlink()),
    "empty file": ({}, {}, lambda path: path.write_bytes(b"")),
    "not decodable": ({}, {}, lambda path: path.write_bytes(b"no audio" * 99)),
    "truncated or damaged": ({}, {}, cut),
    "truncated or damaged, flac": ({"name": "clip.flac"}, {}, cut),
    "truncated or damaged, mp3": ({"name": "clip.mp3"}, {}, cut),
    "past the end": ({}, {"offset_s": 3.0}, None),
    "shorter than the manifest says": ({}, {"duration_s": 3.0}, None),
    "no such channel": ({}, {"channel": 1}, None),
    "not finite": ({"name": "float.wav", "samples": np.where(np.arange(2 * RATE) == 5, math.nan, NOISE)}, {}, None),
    "out of scale": ({"name": "float.wav", "samples": 1000 * NOISE}, {}, None),
    "rate cannot be resampled": ({"rate": 15_999}, {}, None),
    "too short": ({}, {"duration_s": 0.02}, None),
    "silent": ({"samples": 1e-3 * NOISE}, {}, None),
    "silent, channels cancel": ({"samples": np.stack([NOISE, -NOISE], axis=1)}, {}, None),
    "quiet": ({"samples": 0.02 * NOISE}, {}, None),
    "clipped": ({"samples": np.clip(8 * NOISE, -1, 1)}, {}, None),
    "over-long": ({"duration_s": 31.0}, {"transcript": 20 * TEXT}, None),
    "rate differs from the manifest": ({"rate": 8000}, {"sampling_rate": 16_000}, None),
    "one silent channel": ({"samples": STEREO}, {}, None),
    "DC offset": ({"samples": NOISE + 0.1}, {}, None),
}


@pytest.mark.parametrize("case", AUDIO)
def test_what_may_be_wrong_with_audio(case, check, clip, findings, tmp_path):
    options, fields, harm = AUDIO[case]
    utterance = replace(clip(**options), **fields)
    path = tmp_path / options.get("name", "clip.wav")
    if harm:
        harm(path)
    reason = case.split(", ")[0]
    check(train=[utterance])
    assert findings() == {utterance.id: {reason}}
    excluded = read_exclusions(tmp_path / "out" / "exclude.tsv")
    assert excluded == ({("train", utterance.id): reason} if REASONS[reason][0] == "exclude" else {})


@pytest.mark.parametrize("case", [case for case in AUDIO if not case.startswith(("too short", "silent", "no such"))])
def test_what_reading_for_training_refuses_is_excluded_and_no_more(case, check, clip, tmp_path):
    options, fields, harm = AUDIO[case]
    utterance = replace(clip(**options), **fields)
    if harm:
        harm(tmp_path / options.get("name", "clip.wav"))
    report = check(train=[utterance])
    try:
        samples = read_audio(utterance.audio, utterance.offset_s, utterance.duration_s)
        refused = len(samples) < RATE * (utterance.duration_s - 0.2)  # read_audio gives what is there
    except AudioError:
        refused = True
    # A wav file that was cut reads to its new end without a word: only its header tells.
    assert bool(report.excluded) == (refused or case == "truncated or damaged")


def test_only_stretches_at_the_end_of_a_cut_wav_file_are_lost(check, clip, findings, tmp_path):
    talk = clip(duration_s=8.0)
    cut(tmp_path / "clip.wav")
    check(train=[replace(talk, id=f"{start}", offset_s=start, duration_s=1.5) for start in (0.0, 1.5, 2.5, 4.5)])
    assert findings() == {"2.5": {"truncated or damaged"}, "4.5": {"past the end"}}
    assert findings("truncated or damaged") == {"2.5": "the file ends 4.00 s before its header says"}


def test_an_utterance_of_one_channel_is_judged_by_it(check, clip, findings):
    left = clip(samples=STEREO, channel=0)
    check(train=[left, replace(left, id="right", channel=1)])
    assert findings() == {"right": {"silent"}}
    assert findings("silent") == {"right": "RMS -120.0 dBFS, peak -120.0 dBFS"}


def test_details_say_how_much(check, clip, findings):
    check(
        train=[
            clip("short.wav", duration_s=0.01, transcript="A"),
            clip("rate.wav", rate=8000, sampling_rate=16_000),
            clip("mean.wav", samples=NOISE - 0.1 - NOISE.mean()),
            clip("channels.wav", samples=np.stack([NOISE, -NOISE], axis=1)),
        ]
    )
    assert findings("too short") == {"short": "10.0 ms"}
    assert findings("rate differs from the manifest") == {"rate": "8,000 Hz, not 16,000 Hz"}
    assert findings("DC offset")["mean"] == "-0.100"
    assert findings("silent")["channels"].endswith("the channels cancel each other")


TEXTS = {
    "no text": {"transcript": "  "},
    "no transcript": {"transcript": "", "translations": {"de": "Viele Wörter, die gesprochen werden."}},
    "no usable translation": {"translations": {"de": "REMOVE", "fr": " "}},
    "translation REMOVE or empty": {"translations": {"de": "REMOVE", "fr": "Autant de mots qu'en deux secondes."}},
    "translation copies the transcript": {"translations": {"de": f" {TEXT.upper()}"}},
    "wrong script": {"transcript": "Столько слов, сколько говорят"},
    "wrong script, zh": {"translations": {"zh-CN": "As many words as are in two seconds."}},
    "wrong script, ta": {"transcript": "As many words as are spoken", "source_language": "ta"},
    "control characters": {"transcript": "As many words\x00 as are spoken."},
    "control characters, line": {"translations": {"de": "So viele Wörter,\u2028 wie gesprochen werden."}},
    "replacement character": {"transcript": "As many w\ufffdrds as are spoken."},
    "garbled encoding": {"translations": {"de": "So viele WÃ¶rter, wie gesprochen werden."}},
    "markup": {"transcript": "As many <i>words</i> as are &quot;spoken&quot;."},
    "transcript too long for its audio": {"transcript": 3 * TEXT},
    "transcript too long for its audio, ja": {"transcript": 41 * "の", "source_language": "ja"},
    "transcript too short for its audio": {"duration_s": 2.0, "transcript": "."},
    "translation too long for its audio": {"transcript": "", "translations": {"de": 90 * "Ä "}},
}


@pytest.mark.parametrize("case", TEXTS)
def test_what_may_be_wrong_with_texts(case, check, clip, findings, tmp_path):
    utterance = clip(**TEXTS[case])
    reason = case.split(", ")[0]
    sound = clip(
        "sound.wav", transcript="Others are spoken.", translations=utterance.translations and {"nl": "Ja, ja."}
    )
    check(train=[utterance, sound], thresholds=Thresholds(min_chars_per_s=0.6))
    also = {"no transcript"} if reason.startswith("translation too long") else set()
    assert findings() == {"clip": {reason} | also}
    excluded = read_exclusions(tmp_path / "out" / "exclude.tsv")
    assert excluded == ({("train", "clip"): reason} if REASONS[reason][0] == "exclude" else {})


@pytest.mark.parametrize(
    "fields",
    [
        {"translations": {"de": "Microsoft Office"}},
        {"translations": {"en-GB": TEXT}},
        {"transcript": "OK.", "translations": {"de": "OK."}},
        {"transcript": "iPhone 12 Pro の話をします", "source_language": "ja"},
        {"transcript": "我用 Python 写程序", "source_language": "zh-CN"},
        {"transcript": "Ça a été très bien reçu à l'œuvre", "source_language": "fr"},
        {"transcript": "Tiếng Việt có nhiều dấu thanh", "source_language": "vi"},
        {"transcript": "می‌خواهم با شما صحبت کنم", "source_language": "fa"},
        {"transcript": "NÃO É ASSIM QUE SE FAZ", "source_language": "pt"},
        {"transcript": "1 < 2 & 3 > 2 is so"},
        {"transcript": "zo zaboju ne vedu", "source_language": "dsb"},
    ],
    ids=str,
)
def test_texts_that_are_as_they_should_be(fields, check, clip, findings):
    check(train=[clip(**fields)])
    assert findings() == {}


def test_a_corpus_without_transcripts_does_not_miss_them(check, clip, findings):
    check(
        train=[clip(transcript="", translations={"de": "Viele Wörter, die gesprochen werden."})],
        test=[clip("blind.wav", transcript="")],
    )
    assert findings() == {}


def spoken(clip, count):
    """Yield utterances of one file whose transcripts have about 8 characters a second."""
    talk = clip("talk.wav", duration_s=60.0)
    random = np.random.default_rng(0)
    for number in range(count):
        duration = float(random.uniform(1.0, 4.0))
        text = round(4 * duration * math.exp(random.normal(0, 0.15))) * "ab "
        yield replace(talk, id=f"u{number}", offset_s=0.01 * number, duration_s=duration, transcript=f"{text}{number}")


def test_outliers_are_far_from_the_median_of_their_language(check, clip, findings):
    train = list(spoken(clip, 300))
    slow, fast, other = (replace(train[0], id=name, offset_s=50.0 + number, duration_s=2.0)
                         for number, name in enumerate(("slow", "fast", "other")))  # fmt: skip
    slow.transcript, fast.transcript = 4 * "a", 56 * "b"  # 2 and 28 a second: within what can be
    other.transcript, other.source_language = 4 * "c", "de"  # alone of its language
    check(train=[*train, slow, fast, other])
    assert findings() == {
        "slow": {"transcript too short for its audio"},
        "fast": {"transcript too long for its audio"},
    }
    assert findings("transcript too short for its audio")["slow"].startswith("2.00 characters/s in en, median 9.2")


def test_lengths_of_translations_are_compared_with_their_transcripts(check, clip, findings):
    train = [replace(one, translations={"de": one.transcript + "ö"}) for one in spoken(clip, 200)]
    longest = max(train, key=lambda one: one.duration_s)
    longest.translations["de"] = longest.transcript[:15]
    check(train=train)
    reason = "translation unlike its transcript in length"
    assert findings(reason).keys() == {longest.id}
    assert findings(reason)[longest.id].endswith("of de for 1 of en, median 1.04")


def test_repetitions_within_a_split(check, clip, findings):
    first = clip("first.wav", translations={"de": "Viele Wörter, die gesprochen werden."})
    samples, _ = soundfile.read(first.audio, dtype="float32")
    again = clip("again.flac", samples=samples, translations=dict(first.translations))
    other_target = clip("target.flac", samples=samples, translations={"fr": "Autant de mots qu'en deux secondes."})
    check(train=[first, replace(first, transcript="Another text."), again, other_target])
    assert findings() == {
        "first": {"duplicate id", "same stretch twice"},
        "again": {"same audio in another file"},
    }
    assert findings("same audio in another file") == {"again": "as 'first' in train"}


def test_silence_is_like_no_other_silence(check, clip, findings):
    zeros = [clip(f"zeros{number}.wav", samples=np.zeros(RATE)) for number in range(2)]
    check(train=zeros[:1], test=zeros[1:])
    assert set(findings()["zeros0"]) == {"silent"}


def test_rates_of_few_others(check, clip, findings):
    train = [clip(f"clip{number}.wav", rate=8000, duration_s=1.0) for number in range(30)]
    check(train=[*train, clip("odd.wav", rate=11_025)])
    assert findings("rate unlike the rest") == {"odd": "11,025 Hz, as 3.2 % of all"}


def test_overlap_between_splits(check, clip, findings, tmp_path):
    leaked, talk, lone = (
        clip("leaked.wav", speaker="a"),
        clip("talk.wav", duration_s=4.0, speaker="b"),
        clip("lone.wav", speaker="unknown"),
    )
    samples, _ = soundfile.read(leaked.audio, dtype="float32")
    copy = clip("copy.flac", samples=samples, transcript="Another text.", speaker="")
    report = check(
        train=[
            leaked,
            clip("nobody.wav", speaker="Unknown"),
            replace(talk, id="talk0", duration_s=2.0, transcript="Said in train."),
        ],
        dev=[replace(talk, id="talk1", offset_s=2.0, duration_s=2.0, transcript="said in  TRAIN.")],
        test=[copy, replace(clip("new.wav"), speaker="a", transcript="New."), replace(lone, transcript="Lone.")],
    )
    assert findings() == {
        "leaked": {"audio is also in another split"},
        "talk1": {
            "recording is also in another split",
            "speaker is also in another split",
            "transcript is also in another split",
        },
        "new": {"speaker is also in another split"},
    }, "and not 'lone', whose speaker is not known"
    assert findings("audio is also in another split") == {"leaked": "as 'copy' in test"}
    assert findings("speaker is also in another split")["talk1"] == "as 'talk0' in train"
    assert list(read_exclusions(tmp_path / "out" / "exclude.tsv")) == [("train", "leaked")]
    assert report.splits["test"].concerned == {"exclude": 0, "warn": 1, "info": 0}


def test_test_sets_lose_nothing(check, clip, tmp_path):
    broken = [clip(f"{split}.wav", samples=np.zeros(RATE)) for split in ("train", "dev", "tst-COMMON")]
    report = check(train=broken[:1], dev=broken[1:2], **{"tst-COMMON": broken[2:]})
    assert list(read_exclusions(tmp_path / "out" / "exclude.tsv")) == [("train", "train")]
    severities = {
        split: [(found.reason, found.severity) for found in one.found] for split, one in report.splits.items()
    }
    assert severities == {
        "train": [("silent", "exclude")],
        "dev": [("silent", "warn"), ("transcript is also in another split", "info")],
        "tst-COMMON": [("silent", "warn"), ("transcript is also in another split", "info")],
    }


def test_severities_and_thresholds_can_be_chosen(check, clip, findings, tmp_path):
    loud = clip("loud.wav", samples=np.clip(8 * NOISE, -1, 1))
    quiet = clip("quiet.wav", samples=1e-3 * NOISE)
    check(
        train=[loud, quiet],
        severities={"clipped": "exclude"},
        thresholds=Thresholds(silent_rms_dbfs=-90.0, silent_peak_dbfs=-90.0),
    )
    assert findings() == {"loud": {"clipped"}, "quiet": {"quiet"}}
    assert list(read_exclusions(tmp_path / "out" / "exclude.tsv")) == [("train", "loud")]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"severities": {"cliped": "warn"}}, "Unknown reason 'cliped'. Did you mean 'clipped'"),
        ({"severities": {"clipped": "drop"}}, "'clipped' is 'drop', and must be one of: exclude, warn, info"),
        ({"workers": -1}, "`workers` is -1"),
    ],
)
def test_wrong_options(options, message, check):
    with pytest.raises(UserError, match=message):
        check(train=[], **options)


@pytest.mark.parametrize(("name", "value"), [("silent_rms_dbfs", 1.0), ("tolerance_s", -1.0), ("outlier_z", math.nan)])
def test_wrong_thresholds(name, value):
    with pytest.raises(UserError, match=f"`{name}` is"):
        Thresholds(**{name: value})


def test_files_of_a_check(check, clip, picture, tmp_path):
    odd = clip("odd.wav", id="tab\there", samples=np.zeros(RATE), transcript="a line\nend\ud800")
    report = check(train=[clip(), odd], dev=[])
    rows = (tmp_path / "out" / "findings.tsv").read_text(encoding="utf-8").split("\n")
    assert rows[1] == f"train\ttab\\there\texclude\tsilent\tRMS -120.0 dBFS, peak -120.0 dBFS\t{odd.audio}"
    assert rows[2].startswith("train\ttab\\there\twarn\tcontrol characters\ttranscript: U+000A, U+D800\t")
    assert report.excluded == 0, "an id that no list can hold is not on the list"
    content = json.loads((tmp_path / "out" / "check.json").read_text(encoding="utf-8"))
    assert content["splits"]["dev"] == {
        "utterances": 0,
        "hours": 0.0,
        "concerned": {"exclude": 0, "warn": 0, "info": 0},
        "found": {},
    }
    assert content["splits"]["train"]["concerned"] == {"exclude": 1, "warn": 0, "info": 0}
    assert content["splits"]["train"]["found"]["silent"] == {
        "severity": "exclude",
        "utterances": 1,
        "percent": 50.0,
        "meaning": "the level is below that of speech",
        "examples": ["tab\there"],
    }
    assert content["thresholds"]["silent_rms_dbfs"] == -65.0
    (limits,) = content["characters_per_second"]
    assert limits == {"text": "transcript", "language": "en", "texts": 1, "median": 17.5, "low": 0.5, "high": 40.0}
    assert picture.read_bytes()[:4] == b"\x89PNG"
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        "check.json",
        "check.png",
        "exclude.tsv",
        "findings.tsv",
        "measurements.bin",
    }


def test_the_table(check, clip):
    lines = str(check(train=[clip(), clip("zeros.wav", samples=np.zeros(RATE))], test=[clip("other.wav")])).split("\n")
    assert lines[2:4] == [
        "train           2   0.00        1     0     0",
        "test            1   0.00        0     0     1",
    ]
    assert lines[7].split() == ["train", "exclude", "silent", "1", "50.00", "zeros"]
    assert max(map(display_width, lines[:9])) < 120


class OneClip:
    """A corpus of one clip for each split."""

    name, version = "one_clip", "v1"

    def __init__(self, clip):
        self.clips = {split: clip(f"{split}.wav", transcript=f"Of {split}.") for split in ("train", "dev", "test")}

    def splits(self):
        return list(self.clips)

    def files(self):
        return []

    def options(self):
        return {}

    def read(self, split, tally):
        yield self.clips[split]


def test_manifests_are_checked_where_they_are(clip, tmp_path, capsys):
    write_manifests(OneClip(clip), tmp_path / "manifests")
    before = {path.name for path in (tmp_path / "manifests").iterdir()}
    report = check_corpus(tmp_path / "manifests", workers=0)
    assert {split: one.utterances for split, one in report.splits.items()} == {"train": 1, "dev": 1, "test": 1}
    assert report.out == tmp_path / "manifests" / "check"
    assert {path.name for path in (tmp_path / "manifests").iterdir()} == before | {"check"}
    assert "3/3" in capsys.readouterr().err


def test_splits_are_found_without_a_summary(clip, tmp_path):
    write_manifests(OneClip(clip), tmp_path / "manifests")
    (tmp_path / "manifests" / "corpus.json").unlink()
    assert list(check_corpus(tmp_path / "manifests", workers=0).splits) == ["train", "dev", "test"]


def test_no_manifests(tmp_path):
    with pytest.raises(UserError, match="No manifests in"):
        check_corpus(tmp_path)


def test_a_damaged_manifest_is_named(clip, tmp_path):
    write_manifests(OneClip(clip), tmp_path / "manifests")
    path = manifest_path(tmp_path / "manifests", "test")
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(UserError, match=r"test\.jsonl\.gz, "):
        check_corpus(tmp_path / "manifests", workers=0)


def test_a_folder_that_cannot_be_written(check, clip, tmp_path):
    (tmp_path / "out").write_text("a file")
    with pytest.raises(UserError, match="needs space in a folder"):
        check(train=[clip()])


@pytest.fixture
def measured(monkeypatch):
    """Return the paths of the files that are measured."""
    paths = []

    def counting(job):
        found = measure_packed(job)
        if len(found):
            paths.append(job.path.rsplit("/", 1)[1])
        return found

    monkeypatch.setattr(doctor_audio, "measure_packed", counting)
    return paths


def test_another_check_decodes_only_what_changed(check, clip, findings, measured, tmp_path):
    names = [f"clip{number}.wav" for number in range(4)]
    train = [clip(name) for name in names]
    first = check(train=train)
    assert (measured, first.decoded_s) == (names, 8.0)
    assert check(train=train, thresholds=Thresholds(quiet_rms_dbfs=-10.0)).decoded_s == 0.0
    assert findings() == {name.split(".")[0]: {"quiet"} for name in names}
    clip("clip2.wav", samples=np.zeros(RATE))
    (tmp_path / "clip0.wav").unlink()
    assert check(train=[*train, clip("new.wav")]).decoded_s == 1.0 + 2.0
    assert measured[4:] == ["clip0.wav", "clip2.wav", "new.wav"]
    assert findings()["clip0"] == {"missing file"}
    assert "silent" in findings()["clip2"] or "shorter than the manifest says" in findings()["clip2"]


@pytest.mark.parametrize("harm", ["torn", "foreign"])
def test_measurements_that_were_not_written_by_this_version_or_to_their_end(harm, check, clip, measured, tmp_path):
    train = [clip("a.wav"), clip("b.wav")]
    check(train=train)
    path = tmp_path / "out" / "measurements.bin"
    path.write_bytes(path.read_bytes()[:-3] if harm == "torn" else b"another format\n" + path.read_bytes())
    for _ in range(2):
        check(train=train)
    assert measured == ["a.wav", "b.wav", *(["b.wav"] if harm == "torn" else ["a.wav", "b.wav"])]


def test_an_interrupted_check_goes_on(check, clip, measured, tmp_path):
    train = [clip(f"clip{number}.wav") for number in range(4)]

    def interrupted():
        yield from train[:3]
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt, match=r"Interrupted after 2 utterances.*measurements\.bin.*goes on") as error:
        check(train=interrupted())
    assert error.value.__suppress_context__
    check(train=train)
    assert measured == [f"clip{number}.wav" for number in range(4)]


def test_processes_find_the_same(clip, tmp_path):
    train = [clip(f"clip{number}.wav", samples=NOISE * 10.0 ** -(number % 4)) for number in range(12)]
    reports = [check_utterances({"train": train}, tmp_path / f"out{workers}", workers) for workers in (0, 2)]
    assert reports[0].splits == reports[1].splits
    assert len((tmp_path / "out0" / "findings.tsv").read_bytes()) > 300
    for name in ("findings.tsv", "exclude.tsv", "check.json"):
        assert (tmp_path / "out0" / name).read_bytes() == (tmp_path / "out2" / name).read_bytes()


def test_a_file_that_crashes_the_decoder_is_reported_and_its_neighbours_are_not(check, clip, findings, monkeypatch):
    monkeypatch.setattr(doctor_audio, "measure_packed", measure_or_crash)
    talk = clip("talk.wav", duration_s=8.0)
    train = [
        replace(talk, id=f"u{number}", offset_s=2.0 * number, duration_s=0.25 if number == 1 else 2.0)
        for number in range(4)
    ]
    report = check(train=[clip("a.wav"), *train, clip("b.wav")], workers=1)
    assert findings() == {"u1": {"crashes the decoder"}}
    assert findings("crashes the decoder") == {"u1": "the process ended with signal 11 (SIGSEGV)"}
    assert report.decoded_s == 10.0


def test_neighbours_of_one_file_are_measured_at_once_and_all_are_measured(check, clip, measured, monkeypatch):
    monkeypatch.setattr(doctor_audio, "STRETCHES", 3)
    talk, other = clip("talk.wav", duration_s=9.0), clip("other.wav")
    parts = [replace(talk, id=f"u{number}", offset_s=float(number), duration_s=1.0) for number in range(8)]
    report = check(train=[*parts[:7], other, parts[7]])
    assert measured == ["talk.wav"] * 3 + ["other.wav", "talk.wav"]
    assert report.decoded_s == 10.0


def test_real_speech_is_sound(shared_data, tmp_path):
    """Nothing of AN4 is to be left out, though its texts fit their durations badly."""
    rows = [line.split("\t") for line in (shared_data / "an4/transcripts.tsv").read_text(encoding="utf-8").splitlines()]
    splits = {"train": [], "dev": []}
    for name, audio, duration, rate, speaker, language, text, _, _, split in rows[1::4]:
        path = str(shared_data / "an4" / audio)
        fields = {"speaker": speaker, "corpus": "an4", "sampling_rate": int(rate)}
        splits[split].append(Utterance(name, path, 0.0, float(duration), language, text, **fields))
    report = check_utterances(splits, tmp_path / "out", workers=2)
    assert [(split, one.concerned["exclude"], one.concerned["warn"]) for split, one in report.splits.items()] == [
        ("train", 0, 0),
        ("dev", 0, 0),
    ]
    total = sum(float(row[2]) for row in rows[1::4])
    assert report.decoded_s == pytest.approx(total, rel=1e-3)
    assert total > 600


def test_a_tone_at_full_scale_is_clipped(check, clip, findings):
    check(train=[clip(samples=2.0 * tone(2.0))])
    assert findings()["clip"] == {"clipped"}
