"""Clips are cut where the utterance lies, and what cannot be played is counted by its reason."""

import numpy as np
import pytest
import soundfile

from speechllm.evaluation.page.clips import NO_FILE, NOT_FOUND, UNREADABLE, Clip, copy_clips, link_clips
from tests.evaluation.page.systems import RATE, write_talk
from tests.evaluation.predicted import predicted


def test_links_lead_from_the_page_to_the_file(tmp_path):
    write_talk(tmp_path / "a #1 ü.wav")
    page = tmp_path / "runs" / "page"
    clips = link_clips(page, [predicted(0, recording=str(tmp_path / "a #1 ü.wav"), offset_s=2.12345)])
    assert clips.found == [Clip("../../a%20%231%20%C3%BC.wav", 2.123)]
    assert not clips.missing


def test_relative_recordings_are_those_of_the_working_directory(tmp_path, monkeypatch):
    (tmp_path / "data").mkdir()
    write_talk(tmp_path / "data" / "talk.wav")
    monkeypatch.chdir(tmp_path)
    clips = link_clips(tmp_path / "out", [predicted(0, recording="data/talk.wav")])
    assert clips.found == [Clip("../data/talk.wav", 0.0)]


def test_says_why_there_is_nothing_to_play(tmp_path):
    write_talk(tmp_path / "talk.wav")
    talk = str(tmp_path / "talk.wav")
    predictions = [
        predicted(0, recording=""),
        predicted(1, recording=str(tmp_path / "gone.wav")),
        predicted(2, recording=talk, readable=False),
        predicted(3, recording="https://example.org/a.wav"),
        predicted(4, recording=talk),
    ]
    for clips in (link_clips(tmp_path, predictions), copy_clips(tmp_path, predictions)):
        assert clips.found[:4] == [NO_FILE, NOT_FOUND, UNREADABLE, NOT_FOUND]
        assert isinstance(clips.found[4], Clip)
        assert clips.missing == {NO_FILE: 1, NOT_FOUND: 2, UNREADABLE: 1}


def test_cuts_the_stretch_of_the_utterance(tmp_path):
    write_talk(tmp_path / "talk.wav")
    talk = str(tmp_path / "talk.wav")
    predictions = [
        predicted(0, recording=talk, offset_s=3.0, duration_s=1.0),
        predicted(1, recording=talk, offset_s=3.5, duration_s=1.0),
        predicted(2, recording=talk, offset_s=3.0, duration_s=1.0, id="../../same\nstretch"),
        predicted(3, recording=talk, offset_s=9.5, duration_s=2.0, id="ünï/code"),
    ]
    clips = copy_clips(tmp_path, predictions)
    assert clips.found[0] == clips.found[2], "one file for one stretch"
    assert clips.found[3] == Clip("clips/000003__n_code.flac", 0.0)
    assert sorted(path.name for path in (tmp_path / "clips").iterdir()) == [
        "000001_u0.flac",
        "000002_u1.flac",
        "000003__n_code.flac",
    ]
    samples, rate = soundfile.read(tmp_path / clips.found[0].source)
    assert (rate, len(samples)) == (RATE, RATE)
    assert samples == pytest.approx(np.full(RATE, 0.15), abs=1e-4)
    samples, _ = soundfile.read(tmp_path / clips.found[1].source)
    assert samples == pytest.approx(np.repeat([0.15, 0.2], RATE // 2), abs=1e-4)
    samples, _ = soundfile.read(tmp_path / clips.found[3].source)
    assert len(samples) == RATE // 2, "the talk ends before the utterance does"


def test_keeps_sampling_rate_and_channels(tmp_path):
    soundfile.write(tmp_path / "stereo.ogg", np.zeros((44_100, 2)), 44_100)
    clips = copy_clips(tmp_path, [predicted(0, recording=str(tmp_path / "stereo.ogg"), offset_s=0.2, duration_s=0.5)])
    info = soundfile.info(tmp_path / clips.found[0].source)
    assert (info.samplerate, info.channels, info.frames) == (44_100, 2, 22_050)


def test_audio_that_cannot_be_cut_is_counted(tmp_path):
    write_talk(tmp_path / "talk.wav")
    (tmp_path / "text.wav").write_text("no audio")
    (tmp_path / "bytes.raw").write_bytes(bytes(100))
    predictions = [
        predicted(0, recording=str(tmp_path / "text.wav")),
        predicted(1, recording=str(tmp_path / "bytes.raw")),
        predicted(2, recording=str(tmp_path / "talk.wav"), offset_s=11.0),
        predicted(3, recording=str(tmp_path / "talk.wav"), duration_s=0.0),
    ]
    clips = copy_clips(tmp_path, predictions)
    assert clips.found == [UNREADABLE] * 4
    assert clips.missing == {UNREADABLE: 4}
