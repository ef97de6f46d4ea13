"""Stretches of audio files: what decodes, and how loud it is."""

import math
import os
import struct
import subprocess
import sys

import numpy as np
import pytest
import soundfile

from speechllm.audio_levels import BLOCK, FileState, Job, Measurement, Outcome, Stretch, measure
from tests.corpora.must_c import tone

RATE = 16_000


def one(path, offset_s=0.0, duration_s=60.0, channel=None):
    (row,) = measure(Job(str(path), (Stretch(offset_s, duration_s, channel),))).tolist()
    return Measurement(*row)


@pytest.fixture
def wav(tmp_path):
    """Return a function that writes samples and returns the path."""

    def write(samples, rate=RATE, name="clip.wav", **options):
        soundfile.write(tmp_path / name, samples, rate, **options)
        return tmp_path / name

    return write


def test_levels_of_a_tone(wav):
    found = one(wav(tone(1.0) + 0.1, subtype="FLOAT"))
    assert (found.outcome, found.rate, found.channels, found.frames, found.decoded) == (0, RATE, 1, RATE, RATE)
    assert found.peak == pytest.approx(0.6, abs=1e-4)
    assert found.rms == pytest.approx(math.sqrt(0.5**2 / 2 + 0.1**2), rel=1e-4)
    assert found.mean == pytest.approx(0.1, abs=1e-4)
    assert found.clipped == 0
    assert found.loudest == found.quietest == pytest.approx(found.rms)


def test_clipped_samples_are_counted(wav):
    samples = np.zeros(1000, dtype=np.float32)
    samples[:7], samples[7:10] = 1.0, -1.0
    assert one(wav(samples)).clipped == 10


def test_stretches_are_those_samples_in_any_order(wav):
    path = wav(np.repeat(np.array([0.1, 0.2, 0.3, 0.4], dtype=np.float32), 4000), subtype="FLOAT")
    job = Job(str(path), (Stretch(0.5, 0.25, None), Stretch(0.0, 0.25, None), Stretch(0.25, 0.5, None)))
    found = [Measurement(*row) for row in measure(job).tolist()]
    assert [(row.start, row.wanted, row.decoded) for row in found] == [
        (8000, 4000, 4000),
        (0, 4000, 4000),
        (4000, 8000, 8000),
    ]
    assert [row.mean for row in found] == pytest.approx([0.3, 0.1, 0.25], abs=1e-6)


def test_sums_run_over_blocks(wav):
    frames = 2 * BLOCK + 1001
    samples = np.random.default_rng(0).uniform(-0.5, 0.5, frames).astype(np.float32)
    samples[-1] = 0.75
    found = one(wav(samples, subtype="FLOAT"))
    assert (found.decoded, found.peak) == (frames, 0.75)
    assert found.rms == pytest.approx(float(np.sqrt((samples.astype(np.float64) ** 2).mean())), rel=1e-4)


@pytest.mark.parametrize(
    ("channel", "rms"), [(None, 0.25 / math.sqrt(2)), (0, 0.5 / math.sqrt(2)), (1, 0.0)], ids=["mean", "left", "right"]
)
def test_levels_are_those_of_the_channel_asked_for(wav, channel, rms):
    found = one(wav(np.stack([tone(1.0), np.zeros(RATE, np.float32)], axis=1)), channel=channel)
    assert found.rms == pytest.approx(rms, abs=1e-4)
    assert (found.loudest, found.quietest) == (pytest.approx(0.5 / math.sqrt(2), abs=1e-4), 0.0)


def test_content_is_the_same_in_any_lossless_file_and_differs_otherwise(wav):
    noise = np.random.default_rng(0).integers(-9000, 9000, RATE).astype(np.int16)
    louder = noise.copy()
    louder[::4] += 1
    contents = [
        one(wav(noise, name="a.wav")).content,
        one(wav(noise, name="b.flac")).content,
        one(wav(np.concatenate([noise, noise]), name="c.wav"), duration_s=1.0).content,
        one(wav(louder, name="d.wav")).content,
    ]
    assert contents[0] == contents[1] == contents[2] != contents[3]


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_samples_that_are_no_numbers_show_in_the_peak(wav, value):
    samples = tone(1.0)
    samples[500] = value
    samples[900] = 0.9
    found = one(wav(samples, subtype="FLOAT"))
    assert found.outcome == Outcome.READ
    assert not math.isfinite(found.peak)


def test_nothing_is_decoded_where_the_file_is_as_it_was(wav):
    path = wav(tone(0.1))
    state = FileState(path.stat().st_size, path.stat().st_mtime_ns)
    job = Job(str(path), (Stretch(0.0, 1.0, None),), state)
    assert len(measure(job)) == 0
    assert len(measure(job._replace(known=state._replace(mtime_ns=1)))) == 1


def truncated(path, share=0.5):
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])
    return path


def test_a_wav_file_that_was_cut_says_what_its_header_promised(wav):
    found = one(truncated(wav(tone(2.0))))
    assert found.outcome == Outcome.READ
    assert found.decoded == found.frames == pytest.approx(RATE, abs=30)
    assert found.lost == 2 * RATE - found.frames


def test_a_wav_file_written_to_a_pipe_has_lost_nothing(wav):
    path = wav(tone(1.0))
    content = bytearray(path.read_bytes())
    content[40:44] = struct.pack("<I", 0xFFFFFFFF)
    path.write_bytes(content)
    assert (one(path).decoded, one(path).lost) == (RATE, 0)


def test_a_flac_file_that_was_cut_is_broken_and_others_of_its_stretches_are_read(wav):
    noise = np.random.default_rng(0).uniform(-0.5, 0.5, 10 * RATE)
    path = truncated(wav(noise, name="clip.flac"))
    rows = measure(Job(str(path), (Stretch(0.0, 1.0, None), Stretch(8.0, 1.0, None), Stretch(8.5, 1.0, None))))
    assert rows["outcome"].tolist() == [Outcome.READ, Outcome.BROKEN, Outcome.BROKEN]
    assert rows["decoded"][0] == RATE
    assert all(rows["message"][1:])


def test_an_mp3_file_that_was_cut_decodes_to_less_than_it_says(wav):
    found = one(truncated(wav(tone(3.0, rate=48_000), 48_000, name="clip.mp3", format="MP3")), duration_s=3.0)
    assert found.outcome == Outcome.READ
    assert found.wanted == found.frames == 3 * 48_000
    assert 0.3 * found.frames < found.decoded < 0.6 * found.frames


def test_a_header_that_lies_allocates_nothing(wav):
    """A flac header may promise 2³⁶ samples."""
    path = wav(tone(1.0), name="clip.flac")
    content = bytearray(path.read_bytes())
    content[21] |= 0x0F
    content[22:26] = b"\xff" * 4
    path.write_bytes(content)
    found = one(path, duration_s=1e6)
    assert found.frames == 2**36 - 1
    assert found.outcome in (Outcome.READ, Outcome.BROKEN)
    assert found.decoded <= RATE


@pytest.mark.parametrize(
    ("name", "content", "outcome"),
    [
        ("none.wav", None, Outcome.MISSING),
        ("nul\0.wav", None, Outcome.MISSING),
        ("empty.mp3", b"", Outcome.EMPTY),
        ("text.wav", b"not audio" * 100, Outcome.UNDECODABLE),
        ("text.raw", b"not audio" * 100, Outcome.UNDECODABLE),
        ("zeros.flac", b"\0" * 4000, Outcome.UNDECODABLE),
    ],
)
def test_files_that_are_no_audio(tmp_path, name, content, outcome):
    if content is not None:
        (tmp_path / name).write_bytes(content)
    assert one(tmp_path / name).outcome == outcome


def test_a_wav_file_of_no_samples(wav):
    assert one(wav(np.zeros(0))).outcome == Outcome.UNDECODABLE


def test_pipes_and_folders_are_not_opened(tmp_path):
    os.mkfifo(tmp_path / "pipe.wav")
    assert one(tmp_path / "pipe.wav").outcome == one(tmp_path).outcome == Outcome.MISSING


def test_beyond_the_file(wav):
    path = wav(tone(1.0))
    assert one(path, offset_s=1.0).outcome == Outcome.PAST_END
    assert one(path, channel=1).outcome == Outcome.NO_CHANNEL
    found = one(path, offset_s=0.75, duration_s=1.0)
    assert (found.outcome, found.decoded, found.wanted) == (Outcome.READ, 4000, 16_000)


def test_a_worker_loads_no_large_library():
    code = "import sys, speechllm.audio_levels, speechllm.worker_pool; print({'torch', 'lhotse'} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "set()\n"
