"""Augmentation: speed, reverberation and gain, and that what is drawn depends on the row alone."""

import math
import pickle

import numpy as np
import pytest
import soundfile
import torch
from jsonargparse import ArgumentParser
from torch.utils.data import DataLoader

from speechllm.data.augmentation.augment import Augmentation, Augmenter, change_speed, length_after_speed, speed_ratio
from speechllm.data.augmentation.noise import mean_power
from speechllm.data.augmentation.reverberation import MAX_RESPONSE_S, Reverberation, read_response, reverberate
from speechllm.data.augmentation.seeding import generator_for
from speechllm.data.augmentation.sound_bank import Stretch
from speechllm.errors import UserError

RATE = 16_000
SPEEDS = [0.5, 0.85, 0.9, 0.95, 1.0, 1.1, 1.25, 2.0]


def speech(seconds=1.0, level=0.2, hz=200):
    return torch.sin(torch.arange(round(seconds * RATE)) * (2 * math.pi * hz / RATE)) * level


def bursts():
    """Return 1 s of short bursts at irregular times, between which it is still."""
    audio = torch.zeros(RATE)
    for start in (1000, 2500, 7100, 12_000):
        audio[start : start + 200] = torch.randn(200) * 0.2
    return audio


@pytest.fixture
def rooms(tmp_path):
    """Two impulse responses whose direct sound arrives late: in stereo at 8 kHz, and with an echo after 0.1 s."""
    folder = tmp_path / "rirs"
    folder.mkdir()
    generator = np.random.default_rng(0)
    decay = np.exp(-np.arange(4000) / 800)[:, None] * generator.standard_normal((4000, 2)) * 0.2
    decay[300] = [0.9, -0.9]
    soundfile.write(folder / "room.wav", decay, 8000)
    echo = np.zeros(3000)
    echo[[400, 2000]] = [0.8, 0.4]
    soundfile.write(folder / "echo.wav", echo, RATE)
    return folder


@pytest.fixture
def noises(tmp_path):
    folder = tmp_path / "noise"
    folder.mkdir()
    for number in range(3):
        samples = np.random.default_rng(number).standard_normal(RATE * (1 + 3 * number)) * 0.05
        soundfile.write(folder / f"{number}.wav", samples, RATE)
    return folder


def everything(rooms, noises, **options):
    return Augmentation(
        **{
            "reverberation": str(rooms),
            "reverberation_probability": 0.5,
            "noise": [str(noises), "white"],
            "noise_probability": 0.7,
            "gain_db": (-6.0, 6.0),
            **options,
        }
    )


@pytest.mark.parametrize("speed", SPEEDS)
@pytest.mark.parametrize("samples", [1, 2, 399, 400, 16_000, 12_345, 100_001])
def test_speed_changes_the_length_as_the_sampler_is_told(samples, speed):
    changed = change_speed(torch.randn(samples) * 0.1, speed)
    assert len(changed) == length_after_speed(samples, speed) == math.ceil(round(samples / speed, 6))
    assert changed.dtype == torch.float32


@pytest.mark.parametrize("speed", SPEEDS)
def test_speed_changes_pitch_and_keeps_the_level(speed):
    changed = change_speed(speech(2.0, 0.3, hz=400), speed)
    spectrum = torch.fft.rfft(changed * torch.hann_window(len(changed))).abs()
    heard_hz = float(spectrum.argmax()) * RATE / len(changed)
    assert heard_hz == pytest.approx(400 * speed, abs=1)
    assert mean_power(changed) == pytest.approx(0.045, rel=0.01)


def test_a_speed_of_one_is_nothing_and_nothing_stays_nothing():
    audio = speech()
    assert change_speed(audio, 1.0) is audio
    assert change_speed(torch.zeros(0), 0.9).shape == (0,)
    assert change_speed(torch.ones(4000).sign(), 0.9).abs().max() <= 1


@pytest.mark.parametrize("speed", [0.4, 2.1, 0, -1, 0.9001, 0.333, math.nan, True, "0.9", None])
def test_wrong_speeds(speed):
    with pytest.raises(UserError, match=r"from 0\.5 to 2 with at most two decimals, but is"):
        speed_ratio(speed)


def test_reverberation_equals_a_plain_convolution():
    audio, generator = torch.randn(5000) * 0.1, torch.Generator().manual_seed(1)
    for length in (1, 2, 3, 255, 256, 257, 4000, 7001):
        response = torch.randn(length, generator=generator) * 0.1
        direct = length // 3
        response[direct] = 1.5
        expected = np.convolve(audio.double().numpy(), response.double().numpy())[direct : direct + 5000]
        expected *= np.sqrt(mean_power(audio) / np.mean(expected**2))
        wet = reverberate(audio, response)
        assert wet.shape == audio.shape
        np.testing.assert_allclose(wet.numpy(), expected, rtol=0, atol=2e-5)


def test_the_direct_sound_is_not_delayed_and_power_stays():
    audio = bursts()
    response = torch.zeros(9000)
    response[700], response[4000] = 0.5, -0.25
    wet = reverberate(audio, response)
    assert mean_power(wet) == pytest.approx(mean_power(audio), rel=1e-4)
    loudness = wet[1000:1200].norm() / audio[1000:1200].norm()
    torch.testing.assert_close(wet[1000:1200], audio[1000:1200] * loudness, rtol=0, atol=1e-5)
    torch.testing.assert_close(wet[4300:4500], audio[1000:1200] * loudness * -0.5, rtol=0, atol=1e-5)
    assert wet[:999].abs().max() < 1e-6


def test_silence_and_a_response_alone():
    silence = torch.zeros(100)
    assert reverberate(silence, torch.ones(3)) is silence
    audio = bursts()
    torch.testing.assert_close(reverberate(audio, torch.tensor([0.3])), audio)


def test_responses_are_read_one_channel_at_a_time(rooms, tmp_path):
    left, right = (read_response(Stretch(str(rooms / "room.wav")), part) for part in (0.2, 0.9))
    assert len(left) == len(right) == 8000
    assert int(left.abs().argmax()) == int(right.abs().argmax()) == 600
    assert left[600] == pytest.approx(0.5, abs=0.1)
    assert right[600] == pytest.approx(-0.5, abs=0.1)
    soundfile.write(tmp_path / "long.wav", np.ones(10 * 8000) * 0.1, 8000)
    assert len(read_response(Stretch(str(tmp_path / "long.wav")), 0.0)) == MAX_RESPONSE_S * RATE
    assert len(read_response(Stretch(str(tmp_path / "long.wav"), 9.5), 0.0)) == RATE // 2
    soundfile.write(tmp_path / "silent.wav", np.zeros(800), 8000)
    assert read_response(Stretch(str(tmp_path / "silent.wav")), 0.0) is None
    assert read_response(Stretch(str(tmp_path / "long.wav"), 99.0), 0.0) is None


def test_responses_above_full_scale_are_not_clipped(tmp_path):
    response = np.array([0.0, 3.0, 1.5], dtype=np.float32)
    soundfile.write(tmp_path / "loud.wav", response, RATE, subtype="FLOAT")
    assert read_response(Stretch(str(tmp_path / "loud.wav")), 0.0).tolist() == [0.0, 0.5, 0.25]
    soundfile.write(tmp_path / "nan.wav", response * np.nan, RATE, subtype="FLOAT")
    assert read_response(Stretch(str(tmp_path / "nan.wav")), 0.0) is None


def test_rooms_that_vanish_are_logged_and_speech_stays(rooms, caplog):
    reverberation = Reverberation(str(rooms))
    audio = bursts()
    assert not torch.equal(reverberation.add(audio, generator_for(1)), audio)
    (rooms / "room.wav").write_bytes(b"")
    (rooms / "echo.wav").unlink()
    assert reverberation.add(audio, generator_for(1)) is audio
    assert caplog.text.count("A file of `reverberation: ") == 2


def test_without_options_nothing_is_done():
    audio = speech()
    assert Augmenter(Augmentation())(audio, 1) is audio


def test_the_same_key_gives_the_same_audio(rooms, noises):
    """In any order, and whatever was augmented before."""
    audio = bursts()
    before = audio.clone()
    first, second = Augmenter(everything(rooms, noises)), Augmenter(everything(rooms, noises))
    keys = [(42, epoch, f"u{row}") for epoch in range(2) for row in range(15)]
    results = {key: first(audio, *key) for key in keys}
    assert all(torch.equal(second(audio, *key), results[key]) for key in reversed(keys))
    assert torch.equal(audio, before)
    distinct = {result.numpy().tobytes() for result in results.values()}
    assert len(distinct) == len(keys)


class Rows(torch.utils.data.Dataset):
    def __init__(self, augmenter):
        self.augmenter = augmenter

    def __len__(self):
        return 12

    def __getitem__(self, row):
        return self.augmenter(speech(), 42, 3, row)


def test_workers_draw_what_the_main_process_draws(rooms, noises):
    rows = Rows(Augmenter(everything(rooms, noises)))
    loader = DataLoader(rows, batch_size=None, num_workers=2)
    for row, audio in enumerate(loader):
        # A worker has one thread, and sums in another order than several.
        torch.testing.assert_close(rows[row], audio, rtol=0, atol=1e-5)
    sent = pickle.loads(pickle.dumps(rows))  # as workers get it where there is no fork
    assert all(torch.equal(rows[row], sent[row]) for row in range(len(rows)))


def test_each_step_has_random_numbers_of_its_own(noises, rooms):
    """Noise stays the same when gain comes before it is looked at, and whether or not there is reverberation."""
    audio = bursts() * 0.1
    noisy = Augmenter(Augmentation(noise=str(noises), noise_probability=1.0))
    louder = Augmenter(Augmentation(noise=str(noises), noise_probability=1.0, gain_db=(6.0, 6.0)))
    wet = Augmenter(
        Augmentation(noise=str(noises), noise_probability=1.0, reverberation=str(rooms), reverberation_probability=1.0)
    )
    dry = Reverberation(str(rooms))
    for key in range(5):
        noise = noisy(audio, key) - audio
        torch.testing.assert_close(louder(audio, key), (audio + noise) * 10**0.3, rtol=0, atol=1e-6)
        generator = generator_for(key, "reverberation")
        generator.random()
        torch.testing.assert_close(wet(audio, key) - dry.add(audio, generator), noise, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("snr", [(0.0, 0.0), (5.0, 20.0)])
def test_shares_and_ratios_are_as_asked_for(noises, snr):
    audio = speech(0.25, 0.01)
    augmenter = Augmenter(Augmentation(noise=str(noises), noise_probability=0.4, noise_snr_db=snr))
    ratios = []
    for row in range(400):
        result = augmenter(audio, 1, row)
        if result is not audio:
            ratios.append(10 * math.log10(mean_power(audio) / mean_power(result - audio)))
    assert 130 < len(ratios) < 190
    assert min(ratios) == pytest.approx(snr[0], abs=0.3)
    assert max(ratios) == pytest.approx(snr[1], abs=0.3)
    assert sum(ratios) / len(ratios) == pytest.approx(sum(snr) / 2, abs=1.0)


def test_reverberation_has_its_share(rooms):
    augmenter = Augmenter(Augmentation(reverberation=str(rooms), reverberation_probability=0.25))
    audio = speech(0.05)
    changed = sum(augmenter(audio, row) is not audio for row in range(400))
    assert 70 < changed < 130


def test_rows_with_noise_are_not_those_with_reverberation(rooms):
    augmenter = Augmenter(
        Augmentation(reverberation=str(rooms), reverberation_probability=0.5, noise="white", noise_probability=0.5)
    )
    audio = speech(0.05)
    unchanged = sum(augmenter(audio, row) is audio for row in range(400))
    assert 70 < unchanged < 130  # a quarter, and not half


def test_gain_is_in_its_range_and_never_clips():
    augmenter = Augmenter(Augmentation(gain_db=(-6.0, 6.0)))
    gains = [20 * math.log10(float(augmenter(speech(0.1), row).max()) / 0.2) for row in range(200)]
    assert -6 <= min(gains) < -5.5
    assert 5.5 < max(gains) <= 6
    loud = [augmenter(speech(0.1, 0.9), row) for row in range(50)]
    peaks = [float(audio.abs().max()) for audio in loud]
    assert max(peaks) == 1.0
    assert min(peaks) < 0.6
    for audio, peak in zip(loud, peaks, strict=True):
        torch.testing.assert_close(audio, speech(0.1, 0.9) * (peak / 0.9), rtol=1e-3, atol=1e-4)


def test_files_are_looked_at_only_where_they_are_used(tmp_path):
    missing = str(tmp_path / "nowhere")
    options = Augmentation(noise=missing, noise_probability=0.0, reverberation=missing, reverberation_probability=0.0)
    assert Augmenter(options)(torch.zeros(0), 1).shape == (0,)
    with pytest.raises(UserError, match=r"`augment\.noise: .*nowhere` does not exist"):
        Augmenter(Augmentation(noise=missing))
    with pytest.raises(UserError, match=r"`augment\.reverberation: .*nowhere` does not exist"):
        Augmenter(Augmentation(reverberation=missing))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"speeds": [0.9, 3]}, "A speed must be a number from 0.5 to 2 with at most two decimals, but is 3"),
        ({"speeds": []}, r"`speeds` must be a list such as \[0.9, 1.0, 1.1\], but is \[\]"),
        ({"speeds": 0.9}, "`speeds` must be a list"),
        ({"noise_snr_db": [20, 5]}, r"`noise_snr_db` must be the lowest and highest .* but is \[20, 5\]"),
        ({"noise_snr_db": [5]}, "`noise_snr_db` must be the lowest and highest"),
        ({"noise_snr_db": [5, math.inf]}, "`noise_snr_db` .* from -30 to 60"),
        ({"gain_db": [-6, 600]}, "`gain_db` .* from -40 to 40, but is"),
        ({"noise_probability": 50}, r"`noise_probability` must be in \[0, 1\], but is 50"),
        ({"reverberation_probability": True}, r"`reverberation_probability` must be in \[0, 1\], but is True"),
        ({"noise": ["white", None]}, "`noise` must be a path, `white`, `babble:…` or a list of these, but is"),
        ({"noise": ""}, "`noise` must be a path"),
        ({"reverberation": ["a", "b"]}, "`reverberation` must be a path, but is"),
        ({"gain_db": [1, 0], "noise_probability": -1}, "`gain_db` .*; `noise_probability`"),
    ],
)
def test_wrong_options(options, message):
    with pytest.raises(UserError, match=message):
        Augmentation(**options)


def test_recipes_give_it_as_plain_data(capsys):
    """As it stands in YAML, with flags on top; its documentation is the help."""
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--augment", type=Augmentation | None, default=None)
    given = '{"noise": ["a", "white"], "noise_snr_db": [5, 20], "gain_db": [-6, 6], "speeds": [0.9, 1, 1.1]}'
    config = parser.parse_args(["--augment", given, "--augment.noise_probability", "0.8"])
    augmentation = parser.instantiate(config).augment
    assert augmentation == Augmentation(
        speeds=(0.9, 1.0, 1.1), noise=["a", "white"], noise_probability=0.8, gain_db=(-6.0, 6.0)
    )
    assert augmentation.noise_sources == ["a", "white"]
    assert parser.instantiate(parser.parse_args(["--augment.noise", "white"])).augment.noise_sources == ["white"]
    with pytest.raises(Exception, match="nois"):
        parser.parse_args(["--augment", '{"nois": "a"}'])
    with pytest.raises(SystemExit):
        parser.parse_args(["--augment.help"])
    assert "Lowest and highest ratio of speech to noise in dB" in " ".join(capsys.readouterr().out.split())
