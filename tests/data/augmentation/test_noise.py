"""Noise: where it comes from, how it is cut, and how loud it is."""

import copy
import gzip
import json
import math
import os

import numpy as np
import pytest
import soundfile
import torch

import speechllm.data.augmentation.noise as noise_module
from speechllm.data.augmentation.noise import CROSSFADE, Noise, limit_peak, loop, mean_power, mix
from speechllm.data.augmentation.seeding import generator_for
from speechllm.data.augmentation.sound_bank import CHECKED_FILES, SoundBank, Stretch, find_stretches
from speechllm.data.utterance import Utterance
from speechllm.errors import UserError

RATE = 16_000


def write(path, seconds=1.0, rate=RATE, level=0.1, channels=1, seed=0):
    """Write noise of a level and return the path as text."""
    path.parent.mkdir(parents=True, exist_ok=True)
    samples = np.random.default_rng(seed).standard_normal((round(seconds * rate), channels)) * level
    soundfile.write(path, samples, rate, subtype="FLOAT" if path.suffix == ".wav" else None)
    return str(path)


def speech(seconds=2.0, level=0.2):
    return torch.sin(torch.arange(round(seconds * RATE)) * 0.05) * level


def snr_db(clean, noisy):
    """Return the ratio of speech to noise that mixing left; the speech is not rescaled."""
    return 10 * math.log10(mean_power(clean) / mean_power(noisy - clean))


@pytest.fixture
def folder(tmp_path):
    """Three noises: one of 3 s, one of 0.3 s in stereo and one of a minute at 8 kHz, all below a folder."""
    write(tmp_path / "noise" / "free" / "rain.flac", 3.0, seed=1)
    write(tmp_path / "noise" / "click.wav", 0.3, rate=8000, channels=2, seed=2)
    write(tmp_path / "noise" / "long.wav", 60.0, rate=8000, seed=3)
    (tmp_path / "noise" / "README.txt").write_text("no audio")
    (tmp_path / "noise" / "._rain.wav").write_bytes(b"what a Mac leaves")
    return tmp_path / "noise"


@pytest.mark.parametrize("ratio", [-5.0, 0.0, 5.0, 20.0])
@pytest.mark.parametrize("level", [0.001, 1.0])
def test_mix_has_the_ratio_that_is_asked_for(ratio, level):
    clean, noise = speech(), torch.randn(2 * RATE) * level
    assert snr_db(clean, mix(clean, noise, ratio)) == pytest.approx(ratio, abs=0.01)


def test_the_ratio_is_that_of_the_whole_clip():
    """Half a clip of silence: the ratio while somebody speaks is 3 dB higher."""
    clean = torch.cat([speech(1.0), torch.zeros(RATE)])
    noisy = mix(clean, torch.randn(2 * RATE), 10.0)
    assert snr_db(clean[:RATE], noisy[:RATE]) == pytest.approx(13.0, abs=0.1)


def test_silence_has_no_ratio():
    silence = torch.zeros(RATE)
    assert mix(silence, torch.randn(RATE), 10.0) is silence
    assert mean_power(torch.tensor([1.0, -1.0])) == 1.0


def test_what_would_clip_is_scaled_as_a_whole():
    audio = torch.tensor([0.5, -2.0, 1.0])
    assert limit_peak(audio).tolist() == [0.25, -1.0, 0.5]
    quiet = torch.tensor([0.5, -1.0])
    assert limit_peak(quiet) is quiet


@pytest.mark.parametrize("source", ["white", "folder", "babble:folder"])
def test_add_has_the_ratio_and_depends_on_the_key_alone(source, folder):
    noise = Noise(source.replace("folder", str(folder)))
    clean = speech(2.0, 0.1)
    for key in range(8):
        noisy = noise.add(clean, 12.0, 42, f"utterance {key}")
        assert noisy.shape == clean.shape
        assert snr_db(clean, noisy) == pytest.approx(12.0, abs=0.02)
        again = Noise(noise.source).add(clean, 12.0, 42, f"utterance {key}")
        assert torch.equal(noisy, again)
        other = noise.add(clean, 12.0, 42, f"utterance {key} ")
        assert not torch.equal(noisy, other)


@pytest.mark.parametrize("source", ["white", "folder", "babble:folder"])
def test_the_noise_is_the_same_at_every_level(source, folder):
    noise = Noise(source.replace("folder", str(folder)))
    clean = speech(2.0, 0.05)
    quiet, loud = (noise.add(clean, ratio, 1, "u") - clean for ratio in (26.0, 6.0))
    torch.testing.assert_close(loud, quiet * 10, rtol=0, atol=1e-5)


def test_white_noise_is_white():
    noise = Noise("white").draw(64 * RATE, generator_for(1))
    power = torch.fft.rfft(noise.view(-1, 1600)).abs().square().mean(dim=0)[1:-1]
    assert (power / power.mean() - 1).abs().max() < 0.3
    assert noise.std() == pytest.approx(1.0, abs=0.01)


def test_babble_is_several_voices(tmp_path):
    """Each voice is a tone of its own: three to seven of them are heard, all equally loud."""
    for number in range(40):
        tone = np.sin(np.arange(1600) * 2 * np.pi * (500 + 100 * number) / RATE) * 0.01 * (number + 1)
        soundfile.write(tmp_path / f"{number:02d}.wav", tone, RATE, subtype="FLOAT")
    noise = Noise(f"babble:{tmp_path}")
    counts = set()
    for key in range(24):
        spectrum = torch.fft.rfft(noise.draw(1600, generator_for(key))).abs() / 800
        heard = spectrum[spectrum > 1.0]
        if (heard < 1.9).all():  # else a voice was drawn twice
            torch.testing.assert_close(heard, torch.full_like(heard, 2**0.5), rtol=0.01, atol=0.01)
            counts.add(len(heard))
    assert {3, 4, 5, 6, 7} == counts


def test_a_long_file_is_read_where_it_is_needed(folder, monkeypatch):
    read = []
    original = noise_module.read_audio

    def spy(path, offset_s, duration_s):
        read.append((offset_s, duration_s))
        return original(path, offset_s, duration_s)

    monkeypatch.setattr(noise_module, "read_audio", spy)
    noise = Noise(str(folder / "long.wav"))
    whole, rate = soundfile.read(folder / "long.wav", dtype="float32")
    for key in range(30):
        assert len(noise.draw(2 * RATE, generator_for(key))) == 2 * RATE
    starts = [offset_s for offset_s, _ in read]
    assert all(2.0 <= duration_s < 2.001 for _, duration_s in read)
    assert min(starts) >= 0
    assert max(starts) <= 58
    assert max(starts) - min(starts) > 40
    stretch = whole[round(starts[0] * rate) :][: 2 * rate]
    drawn = noise.draw(2 * RATE, generator_for(0))[::2]
    assert np.corrcoef(drawn[:15_000], stretch[:15_000])[0, 1] > 0.95


@pytest.mark.parametrize("rate", [4000, 8000, 11_025, 44_100])
def test_rounding_at_another_rate_leaves_no_sample_out(rate, tmp_path, monkeypatch):
    """A stretch that came short of a sample would be taken for a short noise, and joined."""
    lengths = []
    monkeypatch.setattr(noise_module, "loop", lambda noise, samples, part: lengths.append(len(noise)) or noise)
    noise = Noise(write(tmp_path / "noise.wav", 2.0, rate=rate))
    for samples in range(8000, 8100):
        noise.draw(samples, generator_for(samples))
        assert samples <= lengths[-1] <= samples + 8


@pytest.mark.parametrize("length", [1, 3, 5, 100, CROSSFADE * 4, 20_000])
@pytest.mark.parametrize("part", [0.0, 0.4, 0.999])
def test_a_short_noise_is_repeated_without_a_break(length, part):
    noise = torch.randn(length, generator=torch.Generator().manual_seed(0))
    looped = loop(noise, 50_000, part)
    assert len(looped) == 50_000
    period = length - min(CROSSFADE, length // 4)
    torch.testing.assert_close(looped[period:], looped[:-period])
    if length >= 100:
        whole = loop(noise, 50_000, 0.0)
        start = int(part * period)
        torch.testing.assert_close(looped[: 50_000 - start], whole[start:])
        joint = whole[period : period + length - period]
        assert mean_power(joint) == pytest.approx(mean_power(noise), rel=0.5 if length < 1000 else 0.15)


def test_a_loop_of_a_tone_has_no_click():
    """Beginning and end meet at other phases, and no step between two samples is larger than the tone's own."""
    tone = torch.sin(torch.arange(10_007) * 0.1)
    looped = loop(tone, 40_000, 0.0)
    assert looped.diff().abs().max() < 1.5 * tone.diff().abs().max()
    assert torch.cat([tone, tone]).diff().abs().max() > 3 * tone.diff().abs().max()


def test_longer_noise_is_cut():
    noise = torch.randn(100)
    assert torch.equal(loop(noise, 40, 0.9), noise[:40])


def test_find_stretches_in_a_folder(folder, tmp_path):
    names = [os.path.relpath(stretch.path, folder) for stretch in find_stretches(str(folder), "noise")]
    assert names == ["click.wav", "free/rain.flac", "long.wav"]
    (tmp_path / "linked").mkdir()
    (tmp_path / "linked" / "a").symlink_to(folder)
    (tmp_path / "linked" / "b").symlink_to(tmp_path / "linked")  # in a circle
    assert len(find_stretches(str(tmp_path / "linked"), "noise")) == 3


def test_find_stretches_in_lists_and_manifests(folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    long = str(folder / "long.wav")
    (folder / "list.txt").write_text(f"\ufeffclick.wav\r\n\n{long}\r\nnoise/free/rain.flac\n")
    utterance = Utterance("u", long, 5.0, 2.5, "en", "hello", recording_duration_s=60.0, sampling_rate=8000)
    recording = {"id": "r", "sources": [{"type": "file", "channels": [0], "source": long}], "duration": 60.0}
    nemo = [{"audio_filepath": "click.wav"}, {"audio_filepath": long, "offset": 1, "duration": 2.5}]
    rows = [utterance.to_row(), recording, *nemo]
    with gzip.open(folder / "cuts.jsonl.gz", "wt") as file:
        file.writelines(json.dumps(row) + "\n" for row in rows)
    assert find_stretches(str(folder / "list.txt"), "noise") == [
        Stretch(str(folder / "click.wav")),
        Stretch(long),
        Stretch("noise/free/rain.flac"),
    ]
    assert find_stretches(str(folder / "cuts.jsonl.gz"), "noise") == [
        Stretch(long, 5.0, 2.5),
        Stretch(long, 0.0, 60.0),
        Stretch(str(folder / "click.wav")),
        Stretch(long, 1.0, 2.5),
    ]
    assert find_stretches(long, "noise") == [Stretch(long)]


def test_a_cut_is_not_left(folder, tmp_path):
    """Noise from a cut of 2.5 s is that stretch, also where more is asked for than it has."""
    long = folder / "long.wav"
    samples, rate = soundfile.read(long, dtype="float32")
    samples[5 * rate : round(7.5 * rate)] = 0.5
    soundfile.write(long, samples, rate, subtype="FLOAT")
    utterance = Utterance("u", str(long), 5.0, 2.5, "en", "", recording_duration_s=60.0, sampling_rate=rate)
    (tmp_path / "one.jsonl").write_text(json.dumps(utterance.to_row()))
    noise = Noise(str(tmp_path / "one.jsonl"))
    for key in range(10):
        for seconds in (1.0, 6.0):
            inner = noise.draw(round(seconds * RATE), generator_for(key))[100:-100]
            assert inner.median() == pytest.approx(0.5, abs=1e-3)
            assert inner.min() > 0.3


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"audio_filepath": "x.wav"}\n{"id": 1}\n', "line 2: neither a cut with one recording"),
        ("not json\n", "line 1: Expecting value"),
        ("[" * 100_000 + "\n", "line 1: maximum recursion"),
        ("[1]\n", "line 1: neither a cut"),
        ('{"audio_filepath": "x.wav", "duration": 0}\n', "line 1: a duration of 0 s"),
        ('{"audio_filepath": "x.wav", "offset": -1}\n', "line 1: -1 is not a time"),
        ('{"audio_filepath": "x.wav", "offset": "1"}\n', "line 1: '1' is not a time"),
        ('{"tracks": [], "type": "MixedCut"}\n', "line 1: neither a cut"),
        ("\n\n", "names no audio file. Give a folder"),
        (b"\xff\xfe\n", "after line 0: 'utf-8' codec"),
    ],
)
def test_wrong_manifests(content, message, tmp_path):
    path = tmp_path / "cuts.jsonl"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(UserError, match=message):
        Noise(str(path))


@pytest.mark.parametrize("cut", [10, 40])
def test_a_damaged_manifest_is_an_error(cut, tmp_path):
    path = tmp_path / "cuts.jsonl.gz"
    path.write_bytes(gzip.compress(json.dumps({"audio_filepath": "x.wav"}).encode() * 50)[:-cut] + b"\x07" * (cut - 5))
    with pytest.raises(UserError, match="after line"):
        Noise(str(path))


def test_commands_of_a_manifest_are_not_run(tmp_path):
    source = {"type": "command", "channels": [0], "source": f"touch {tmp_path / 'ran'}"}
    (tmp_path / "r.jsonl").write_text(json.dumps({"id": "r", "sources": [source], "duration": 1.0}))
    with pytest.raises(UserError, match="line 1: its audio is of the type 'command', and only files are read"):
        Noise(str(tmp_path / "r.jsonl"))
    assert not (tmp_path / "ran").exists()


def test_sources_that_are_not_there(tmp_path):
    with pytest.raises(UserError, match=r"`noise: whit` does not exist. Did you mean 'white'\? Give `white`; or a"):
        Noise("whit")
    with pytest.raises(UserError, match=r"`x: babble:/no` does not exist"):
        Noise("babble:/no", "x")
    with pytest.raises(UserError, match=r"holds no audio file \(.aif, .aiff, .au, "):
        Noise(str(tmp_path))


def test_a_bank_of_which_nothing_can_be_read_is_an_error(tmp_path):
    for number in range(3):
        (tmp_path / f"{number}.wav").write_bytes(b"")
    with pytest.raises(UserError, match=r"None of the 3 audio files of `noise: .*` .* can be read. The first: .*empty"):
        SoundBank(str(tmp_path), "noise")
    (tmp_path / "list.txt").write_text("nowhere/a.wav\n")
    with pytest.raises(UserError, match=r"None of the 1 audio files .* 'nowhere/a.wav' does not exist"):
        SoundBank(str(tmp_path / "list.txt"), "noise")


def test_what_cannot_be_read_is_counted_and_left_out(tmp_path, caplog):
    write(tmp_path / "a.wav", 2.0)
    (tmp_path / "b.wav").write_bytes(b"RIFF")
    (tmp_path / "c.wav").write_bytes(b"")
    noise = Noise(str(tmp_path))
    assert "2 of 3 audio files" in caplog.text
    caplog.clear()
    for key in range(20):
        assert snr_db(speech(), noise.add(speech(), 10.0, key)) == pytest.approx(10.0, abs=0.01)
    assert caplog.text == ""


def test_files_that_vanish_are_logged_once_and_others_drawn(tmp_path, caplog):
    for name in ("a.wav", "b.wav"):
        write(tmp_path / name, 2.0, seed=ord(name[0]))
    noise, untouched = Noise(str(tmp_path)), Noise(str(tmp_path))
    before = [untouched.add(speech(), 10.0, key) for key in range(12)]
    (tmp_path / "a.wav").unlink()
    after = [noise.add(speech(), 10.0, key) for key in range(12)]
    assert caplog.text.count("is left out") == 1
    same = [torch.equal(*pair) for pair in zip(before, after, strict=True)]
    assert True in same
    assert False in same
    for key in range(12):  # a process that knows already draws as one that finds out
        assert torch.equal(copy.deepcopy(untouched).add(speech(), 10.0, key), noise.add(speech(), 10.0, key))
    (tmp_path / "b.wav").unlink()
    clean = speech()
    assert noise.add(clean, 10.0, "talk-7") is clean
    assert "No noise of" in caplog.text
    assert "talk-7" in caplog.text


def test_a_silent_stretch_is_drawn_anew(tmp_path):
    samples = np.zeros(20 * RATE, dtype=np.float32)
    samples[10 * RATE : 12 * RATE] = 0.1
    soundfile.write(tmp_path / "mostly_silent.wav", samples, RATE)
    noise = Noise(str(tmp_path))
    mixed = [noise.add(speech(1.0), 10.0, key) for key in range(30)]
    heard = [snr_db(speech(1.0), audio) for audio in mixed if not torch.equal(audio, speech(1.0))]
    assert len(heard) > 15
    assert heard == pytest.approx([10.0] * len(heard), abs=0.01)


def test_empty_audio_stays(folder):
    assert Noise(str(folder)).add(torch.zeros(0), 5.0, 1).shape == (0,)


def test_only_some_headers_are_read_at_the_start(tmp_path, monkeypatch):
    import speechllm.data.augmentation.sound_bank as sound_bank

    path = write(tmp_path / "a.wav")
    (tmp_path / "list.txt").write_text(f"{path}\n" * 5_000)
    seen = []
    monkeypatch.setattr(sound_bank, "read_headers", lambda paths: seen.extend(paths) or [True] * len(paths))
    assert len(SoundBank(str(tmp_path / "list.txt"), "noise")) == 5_000
    assert len(seen) == CHECKED_FILES


def test_generators_are_those_of_their_key():
    draws = {key: generator_for(*key).random() for key in [(1, 2), (1, 3), (12,), ("1", "2", ""), ("ä",), ("1,2",)]}
    assert len(set(draws.values())) == len(draws)
    assert generator_for(1, "a").random() == generator_for(1, "a").random()
    assert generator_for(42, 0, "utterance", "noise").random() == 0.2577130276299777  # on every machine
