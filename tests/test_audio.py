"""Audio in: every kind of file and array, and every way in which they fail."""

import csv
import io
import struct

import numpy as np
import pytest
import soundfile
import torch

import speechllm.audio
from speechllm.audio import AudioError, audio_info, decode_audio, prepare_samples, read_audio
from tests.corpora.must_c import tone


def frequency_hz(audio):
    spectrum = torch.fft.rfft(audio * torch.hann_window(len(audio)))
    return float(spectrum.abs().argmax()) * 16_000 / len(audio)


@pytest.mark.parametrize(
    ("kind", "subtype", "rate"),
    [
        ("WAV", "PCM_16", 16_000),
        ("WAV", "FLOAT", 44_100),
        ("WAV", "PCM_U8", 8_000),
        ("FLAC", "PCM_16", 22_050),
        ("MP3", "MPEG_LAYER_III", 48_000),
        ("MP3", "MPEG_LAYER_III", 32_000),
        ("OGG", "VORBIS", 44_100),
        ("OGG", "OPUS", 48_000),
    ],
)
def test_any_format_and_rate_becomes_16_khz_mono(tmp_path, kind, subtype, rate):
    path = tmp_path / f"clip.{kind.lower()}"
    stereo = np.stack([tone(1.0, 1000.0, rate), np.zeros(rate, np.float32)], axis=1)
    soundfile.write(path, stereo, rate, format=kind, subtype=subtype)

    audio = read_audio(path)

    assert audio.dtype == torch.float32
    assert audio.ndim == 1
    assert len(audio) == pytest.approx(16_000, abs=16_000 * 0.06)  # mp3 and opus may pad
    assert frequency_hz(audio) == pytest.approx(1000.0, abs=3.0)
    assert float(audio[4_000:12_000].abs().max()) == pytest.approx(0.25, abs=0.03)  # the mean of both channels


def test_segment_is_exactly_those_samples(tmp_path):
    samples = np.random.default_rng(0).uniform(-0.5, 0.5, 32_000).astype(np.float32)
    soundfile.write(tmp_path / "talk.wav", samples, 16_000, subtype="FLOAT")

    audio = read_audio(tmp_path / "talk.wav", offset_s=0.5, duration_s=0.25)

    np.testing.assert_array_equal(audio.numpy(), samples[8_000:12_000])


def test_segment_past_the_end_gives_what_is_there(tmp_path):
    soundfile.write(tmp_path / "talk.wav", tone(1.0), 16_000)
    assert len(read_audio(tmp_path / "talk.wav", offset_s=0.75, duration_s=9.0)) == 4_000


def test_long_files_are_read_whole(tmp_path):
    samples = tone(130.0, rate=1_000)
    soundfile.write(tmp_path / "talk.wav", samples, 1_000)
    assert len(read_audio(tmp_path / "talk.wav")) == 130 * 16_000


def test_info_reads_the_header(tmp_path):
    soundfile.write(tmp_path / "a.flac", np.stack([tone(0.5, rate=8_000)] * 2, axis=1), 8_000)
    info = audio_info(tmp_path / "a.flac")
    assert (info.sampling_rate, info.duration_s, info.channels) == (8_000, 0.5, 2)


def test_bad_files_are_named_with_what_to_do(tmp_path):
    (tmp_path / "empty.mp3").touch()
    (tmp_path / "text.wav").write_text("not audio")
    (tmp_path / "folder.wav").mkdir()
    soundfile.write(tmp_path / "none.wav", np.zeros(0, np.float32), 16_000)
    soundfile.write(tmp_path / "nan.wav", np.array([0.0, np.nan], np.float32), 16_000, subtype="FLOAT")
    soundfile.write(tmp_path / "loud.wav", np.array([0.0, 30_000.0], np.float32), 16_000, subtype="FLOAT")
    expected = {
        "absent.wav": "does not exist",
        "empty.mp3": "0 bytes",
        "text.wav": "cannot be decoded",
        "folder.wav": "is a folder",
        f"{'long' * 100}.wav": "does not exist",
        "nul\0.wav": "does not exist",
        "none.wav": "no samples",
        "nan.wav": "NaN or infinite",
        "loud.wav": "reach 30000",
    }
    for name, message in expected.items():
        with pytest.raises(AudioError, match=message) as error:
            read_audio(tmp_path / name)
        assert str(tmp_path / name) in str(error.value)


def test_file_shorter_than_its_header_is_refused(tmp_path):
    buffer = io.BytesIO()
    soundfile.write(buffer, np.random.default_rng(0).uniform(-1, 1, 64_000), 16_000, format="FLAC")
    (tmp_path / "cut.flac").write_bytes(buffer.getvalue()[:40_000])
    with pytest.raises(AudioError, match=r"cut\.flac.*(damaged|can be decoded)"):
        read_audio(tmp_path / "cut.flac")


def wav_of(claimed, content):
    """Return a 16-bit mono wav file whose header claims another number of samples."""
    start = content.index(b"data") + 4
    return content[:start] + struct.pack("<I", 2 * claimed) + content[start + 4 :]


@pytest.mark.parametrize(
    ("claimed", "left", "message"),
    [
        (64_000, 40_000, "ends 1.500 s before the end that its header names"),
        (128_000, 64_000, "ends 4.000 s before"),
        (16_000, 64_000, r"goes on for 3.00\d s after the end that its header names"),
    ],
)
def test_a_wav_file_that_does_not_end_where_its_header_says_is_refused_there(tmp_path, claimed, left, message):
    buffer = io.BytesIO()
    soundfile.write(buffer, tone(4.0), 16_000, format="WAV")
    path = tmp_path / "lie.wav"
    path.write_bytes(wav_of(claimed, buffer.getvalue())[: 44 + 2 * left])
    with pytest.raises(AudioError, match=rf"lie\.wav' {message}"):
        read_audio(path)
    with pytest.raises(AudioError, match=message):
        read_audio(path, offset_s=0.5, duration_s=60.0)
    np.testing.assert_allclose(read_audio(path, offset_s=0.25, duration_s=0.25), tone(4.0)[4_000:8_000], atol=1e-4)


@pytest.mark.parametrize(
    ("claimed", "tail"),
    [
        (0x7FFFFFFF, b""),
        (64_000, b"LIST" + struct.pack("<I", 20_000) + b"INFO" + bytes(19_996)),
        (64_000, b"mine" + struct.pack("<I", 20_000) + bytes(20_000)),
        (64_000, bytes(20_000)),
        (64_000, b"rubbish"),
        (60_900, b""),
        (67_100, b""),
    ],
    ids=["pipe", "metadata", "unknown chunk", "zeros", "rubbish", "a bit too short", "a bit too long"],
)
def test_what_may_stand_behind_the_samples_of_a_wav_file(tmp_path, claimed, tail):
    buffer = io.BytesIO()
    soundfile.write(buffer, tone(4.0), 16_000, format="WAV")
    (tmp_path / "a.wav").write_bytes(wav_of(claimed, buffer.getvalue()) + tail)
    assert len(read_audio(tmp_path / "a.wav")) == min(claimed, 64_000)


def test_header_that_claims_terabytes_allocates_nothing(tmp_path):
    """A flac header has 36 bits for the number of samples; here it claims 68 billion of them."""
    soundfile.write(tmp_path / "lie.flac", tone(0.5), 16_000)
    content = bytearray((tmp_path / "lie.flac").read_bytes())
    word = struct.unpack(">Q", content[18:26])[0]
    content[18:26] = struct.pack(">Q", word | 0xF_FFFF_FFFF)
    (tmp_path / "lie.flac").write_bytes(bytes(content))
    with pytest.raises(AudioError, match=r"lie\.flac"):
        read_audio(tmp_path / "lie.flac")


def test_segment_beyond_the_end_is_refused(tmp_path):
    soundfile.write(tmp_path / "a.wav", tone(1.0), 16_000)
    with pytest.raises(AudioError, match=r"1\.000 s long, and a segment of it begins at 1\.500 s"):
        read_audio(tmp_path / "a.wav", offset_s=1.5, duration_s=1.0)
    with pytest.raises(AudioError, match="start of at least 0 s"):
        read_audio(tmp_path / "a.wav", offset_s=-1.0)
    with pytest.raises(AudioError, match="duration above 0 s"):
        read_audio(tmp_path / "a.wav", duration_s=0.0)


@pytest.mark.parametrize(
    ("samples", "expected"),
    [
        (np.array([-32_768, 0, 16_384], np.int16), [-1.0, 0.0, 0.5]),
        (np.array([-(2**31), 2**30], np.int32), [-1.0, 0.5]),
        (np.array([0, 128, 192], np.uint8), [-1.0, 0.0, 0.5]),
        (np.array([-128, 64], np.int8), [-1.0, 0.5]),
        (np.array([[0.5, 0.25, 0.0], [0.0, 0.25, 0.5]]), [0.25, 0.25, 0.25]),
        (torch.tensor([0.5, -1.5]), [0.5, -1.0]),
        (np.array([[16_384] * 3, [-32_768] * 3], np.int16), [-0.25, -0.25, -0.25]),
    ],
)
def test_arrays_are_scaled_and_averaged(samples, expected):
    audio = prepare_samples(samples, 16_000)
    assert audio.dtype == torch.float32
    assert audio.tolist() == expected


def test_arrays_are_resampled():
    assert len(prepare_samples(tone(1.0, rate=44_100), 44_100)) == 16_000
    assert len(prepare_samples(np.zeros(3, np.float32), 8_000)) == 6
    assert frequency_hz(prepare_samples(tone(1.0, 500.0, 8_000), 8_000)) == pytest.approx(500.0, abs=2.0)


@pytest.mark.parametrize(
    ("samples", "rate", "message"),
    [
        (np.zeros(0, np.float32), 16_000, "T of at least 1"),
        (np.zeros((1, 1, 4), np.float32), 16_000, "need the shape"),
        (np.zeros((400, 2), np.float32), 16_000, "Transpose"),
        (np.array([1.0, np.inf]), 16_000, "infinite"),
        (np.zeros(4, np.int64), 16_000, "int64"),
        (np.zeros(4, bool), 16_000, "bool"),
        (np.zeros(4, np.float32), 0, "0 Hz"),
        (np.zeros(4, np.float32), 15_999, "15999 Hz"),
    ],
)
def test_arrays_that_cannot_be_audio(samples, rate, message):
    with pytest.raises(AudioError, match=message):
        prepare_samples(samples, rate)


@pytest.mark.parametrize("corpus", ["fixtures_misc", "fsdd"])
def test_real_clips_have_the_duration_of_their_list(shared_data, corpus):
    with (shared_data / corpus / "transcripts.tsv").open(encoding="utf-8", newline="\n") as lines:
        rows = list(csv.DictReader(lines, delimiter="\t", quoting=csv.QUOTE_NONE))
    rows = rows[:: max(1, len(rows) // 60)]
    assert len(rows) >= 50
    for row in rows:
        path = shared_data / corpus / row["audio"]
        assert audio_info(path).sampling_rate == int(row["sample_rate"]), path
        assert len(read_audio(path)) / 16_000 == pytest.approx(float(row["duration"]), abs=0.06), path


def test_a_channel_can_be_chosen(tmp_path):
    left, right = tone(0.2), tone(0.2, frequency_hz=880.0)
    soundfile.write(tmp_path / "two.wav", np.stack([left, right], axis=1), 16_000, subtype="FLOAT")
    np.testing.assert_array_equal(read_audio(tmp_path / "two.wav", channel=1).numpy(), right)
    np.testing.assert_allclose(read_audio(tmp_path / "two.wav").numpy(), (left + right) / 2, atol=1e-7)
    with pytest.raises(AudioError, match="has 2 channels, and channel 2 was asked for"):
        read_audio(tmp_path / "two.wav", channel=2)


def test_mixing_down_is_said_once(tmp_path, caplog, monkeypatch):
    monkeypatch.setattr(speechllm.audio, "_said_mixed_down", False)
    soundfile.write(tmp_path / "two.wav", np.stack([tone(0.2)] * 2, axis=1), 16_000)
    for _ in range(3):
        read_audio(tmp_path / "two.wav")
    assert caplog.text.count("two.wav' has 2 channels, of which the mean is taken") == 1


def test_audio_in_memory_is_that_on_disk(tmp_path):
    soundfile.write(tmp_path / "a.flac", tone(0.3, rate=22_050), 22_050)
    content = (tmp_path / "a.flac").read_bytes()
    torch.testing.assert_close(decode_audio(content, "a"), read_audio(tmp_path / "a.flac"), rtol=0, atol=0)
    for broken in (b"", b"x" * 100, content[:200]):
        with pytest.raises(AudioError, match="'member'"):
            decode_audio(broken, "member")


def test_a_file_that_is_called_raw(tmp_path):
    (tmp_path / "a.raw").write_bytes(b"\0" * 1000)
    with pytest.raises(AudioError, match="cannot be decoded"):
        read_audio(tmp_path / "a.raw")
