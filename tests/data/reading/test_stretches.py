"""Stretches of audio files: rows of the same one joined, and files looked up once and in order."""

import pytest
import soundfile

import speechllm.data.reading.stretches
from speechllm.audio import AudioInfo
from speechllm.data.manifest import Tally
from speechllm.data.reading.stretches import Stretch, Stretches, with_audio
from speechllm.data.utterance import Utterance
from speechllm.errors import UserError
from tests.corpora.must_c import tone


def stretch(audio, offset_s=0.0, duration_s=None, name="x", transcript="t", file=None, channel=None, **translations):
    utterance = Utterance(name, str(audio), offset_s, 0.0, "en", transcript, translations, channel=channel)
    return Stretch(f"list, line {name}", utterance, duration_s, file)


@pytest.fixture
def clip(tmp_path):
    """A clip of half a second at 8 kHz."""
    soundfile.write(tmp_path / "clip.wav", tone(0.5, rate=8_000), 8_000)
    return tmp_path / "clip.wav"


def test_stretches_come_in_order_however_their_files_repeat(tmp_path, clip, monkeypatch):
    monkeypatch.setattr(speechllm.data.reading.stretches, "_KEPT_FILES", 100)
    files = [tmp_path / f"{number}.wav" for number in range(700)]
    for number, file in enumerate(files):
        if number % 7:
            file.symlink_to(clip)
    listed = [file for number, file in enumerate(files) for file in (file, files[number // 2], clip)]
    tally = Tally()
    rows = (stretch(file, name=str(number)) for number, file in enumerate(listed))
    found = list(with_audio(rows, "test", tally, ""))
    assert [(utterance.id, utterance.audio) for utterance in found] == [
        (str(number), str(file)) for number, file in enumerate(listed)
    ]
    silent = [utterance.duration_s == 1 / 16_000 for utterance in found]
    assert silent == [file != clip and int(file.stem) % 7 == 0 for file in listed]
    assert tally.changed == {"audio is missing, empty or damaged, and counts as silence": sum(silent)}
    assert {utterance.duration_s for utterance in found} == {0.5, 1 / 16_000}


def test_a_file_of_many_stretches_is_looked_up_once(clip, monkeypatch):
    read = []
    header = speechllm.data.reading.stretches.read_header
    monkeypatch.setattr(speechllm.data.reading.stretches, "read_header", lambda path: read.append(path) or header(path))
    rows = [stretch(clip, number / 100, 0.01, str(number)) for number in range(50)]
    assert len(list(with_audio(rows, "train", Tally(), ""))) == 50
    assert read == [str(clip)]


def test_a_header_is_not_read_where_the_list_knows_the_file(clip, monkeypatch):
    monkeypatch.setattr(
        speechllm.data.reading.stretches, "read_header", lambda path: pytest.fail("the header was read")
    )
    known = AudioInfo(44_100, 9.0, 1)
    (utterance,) = with_audio([stretch(clip, 1.0, 2.0, file=known)], "train", Tally(), "")
    assert (utterance.duration_s, utterance.sampling_rate, utterance.recording_duration_s) == (2.0, 44_100, 9.0)


def test_small_overruns_are_cut_without_a_word(clip):
    tally = Tally()
    rows = [stretch(clip, 0.25, duration_s, str(duration_s)) for duration_s in (0.2, 0.255, 0.27)]
    assert [utterance.duration_s for utterance in with_audio(rows, "train", tally, "")] == [0.2, 0.25, 0.25]
    assert tally.changed == {"cut at the end of the audio": 1}


def test_nothing_there_is_an_error_after_all_rows(tmp_path):
    rows = with_audio([stretch(tmp_path / "a.wav"), stretch(tmp_path / "b.wav")], "test", Tally(), "See there.")
    with pytest.raises(UserError, match=r"'test' exists \(2 utterances\); .*a\.wav' \(list, line x\). See there\."):
        list(rows)


def test_texts_of_one_stretch_are_joined_and_conflicts_left_out():
    tally = Tally()
    joined = Stretches("train", tally)
    for row in (
        stretch("a", transcript="", de="Eins"),
        stretch("a", transcript="One"),
        stretch("a", transcript="One", fr="Un"),
        stretch("a", transcript="Other", es="Uno"),
        stretch("a", transcript="One", de="Zwei"),
        stretch("a", transcript="", de="Eins"),
    ):
        joined.add(row)
    (found,) = joined
    assert (found.utterance.transcript, found.utterance.translations) == ("One", {"de": "Eins", "fr": "Un"})
    assert tally.rejected == {"another transcript of the same audio": 1, "the same audio and target again": 2}


def test_ids_of_other_audio_are_errors_or_get_numbers():
    rows = [("a", 0.0, 1.0), ("b", 0.0, 1.0), ("a", 0.5, 1.0), ("b", 0.0, 1.0), ("a", 0.0, 2.0)]
    tally = Tally()
    numbered = Stretches("train", tally, number_clashes=True)
    numbered.add(stretch("taken", name="x_2"))
    for audio, offset_s, duration_s in rows:
        numbered.add(stretch(audio, offset_s, duration_s))
    numbered.add(stretch("a", 0.0, 1.0, channel=1))
    assert [(one.utterance.id, *one.span()) for one in numbered] == [
        ("x_2", "taken", 0.0, None, None),
        ("x", "a", 0.0, 1.0, None),
        ("x_3", "b", 0.0, 1.0, None),
        ("x_4", "a", 0.5, 1.0, None),
        ("x_5", "a", 0.0, 2.0, None),
        ("x_6", "a", 0.0, 1.0, 1),
    ]
    assert tally.changed == {"the id is that of other audio, and got a number": 4}
    assert tally.rejected == {"the same audio and target again": 1}
    plain = Stretches("train", Tally())
    plain.add(stretch("a"))
    with pytest.raises(UserError, match="the id 'x' is already that of list, line x, which is other audio"):
        plain.add(stretch("b"))
