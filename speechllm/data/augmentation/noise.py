"""Noise mixed into speech at a chosen ratio: recorded, white, or the babble of other voices."""

import logging
import math
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from speechllm.audio import audio_info, read_audio
from speechllm.batch import SAMPLE_RATE
from speechllm.data.augmentation.seeding import generator_for
from speechllm.data.augmentation.sound_bank import SoundBank, Stretch
from speechllm.errors import UserError, did_you_mean

WHITE = "white"
"""The source that is made here: Gaussian noise with the same power at all frequencies."""

BABBLE = "babble:"
"""What stands before a source whose recordings are voices, of which several are heard at once."""

VOICES = (3, 7)
"""Fewest and most voices of babble, as in Kaldi's recipes for MUSAN."""

CROSSFADE = SAMPLE_RATE // 20
"""Samples over which the end of a short noise runs into its beginning: 50 ms."""

SILENCE = 1e-9
"""Mean power below which audio counts as silence: -90 dB of full scale, below the steps of 16 bits."""

log = logging.getLogger(__name__)


class Noise:
    """A source of noise.

    Recorded noise is a stretch of a file that is drawn at random, at a place that is drawn at random and read from
    there alone. Where the file is shorter than the speech it is heard again and again, its end faded into its
    beginning. A stretch without sound is drawn anew.

    Args:
        source: ``white``; or a folder, list or manifest of recordings, as for
            :class:`speechllm.data.augmentation.sound_bank.SoundBank`; or ``babble:`` and one of recordings of speech,
            of which three to seven are heard at once.
        option: Name of the option that gave the source, for messages.

    Raises:
        UserError: If the source is not there, or none of its files can be read.
    """

    def __init__(self, source: str, option: str = "noise") -> None:
        self.source = source
        self._babble = source.startswith(BABBLE)
        path = source.removeprefix(BABBLE)
        if source != WHITE and not Path(path).exists():
            msg = (
                f"`{option}: {source}` does not exist.{did_you_mean(source, [WHITE])} Give `{WHITE}`; or a folder of "
                f"audio files, a text file with one path a line, or a manifest of cuts or recordings, with `{BABBLE}` "
                f"before it where several of them shall be heard at once."
            )
            raise UserError(msg)
        self._bank = None if source == WHITE else SoundBank(path, option)

    def draw(self, samples: int, generator: np.random.Generator) -> Tensor | None:
        """Return noise (``samples``,) that is not silent, of any level; None if no file could be used."""
        if self._bank is None:
            return torch.from_numpy(generator.standard_normal(samples, dtype=np.float32))
        if not self._babble:
            return self._bank.draw(generator, lambda stretch, part: _read(stretch, part, samples))
        voices = []
        for _ in range(int(generator.integers(VOICES[0], VOICES[1] + 1))):
            voice = self._bank.draw(generator, lambda stretch, part: _read(stretch, part, samples))
            if voice is not None:
                voices.append(voice / math.sqrt(mean_power(voice)))
        return torch.stack(voices).sum(dim=0) if voices else None

    def add(self, audio: Tensor, snr_db: float, *key: int | str) -> Tensor:
        """Return speech in noise, for tests of robustness: the same noise for the same key, whatever the level.

        Args:
            audio: (T,) float32, 16 kHz; returned as it is where it is silent or empty.
            snr_db: Ratio of speech to noise, see :func:`mix`.
            key: What the noise is for: a seed and the id of the utterance, so that every system hears the same.

        Returns:
            (T,) float32, see :func:`limit_peak`.
        """
        if not audio.numel():
            return audio
        noise = self.draw(len(audio), generator_for(*key, "noise"))
        if noise is None:
            log.warning("No noise of '%s' could be read for %s, which stays as it is.", self.source, key[-1:])
            return audio
        return limit_peak(mix(audio, noise, snr_db))


def mix(audio: Tensor, noise: Tensor, snr_db: float) -> Tensor:
    """Add noise to speech at a ratio of their mean powers.

    The power is the mean over the whole clip, its pauses included: where a third of a clip is pause, the ratio during
    speech is 1.8 dB higher.

    Args:
        audio: (T,) float32; where it is silent, there is no ratio, and it is returned as it is.
        noise: (T,) float32, not silent.
        snr_db: Ratio of speech to noise in dB.

    Returns:
        (T,) float32; it may exceed [-1, 1].
    """
    power = mean_power(audio)
    if power < SILENCE:
        return audio
    return audio + noise * (math.sqrt(power / mean_power(noise)) * 10 ** (-snr_db / 20))


def limit_peak(audio: Tensor) -> Tensor:
    """Return audio (T,) scaled as a whole to a peak of 1 where it would clip, else as it is; ratios stay."""
    peak = max(-float(audio.min()), float(audio.max()))
    return audio / peak if peak > 1 else audio


def mean_power(audio: Tensor) -> float:
    """Return the mean of the squared samples of audio (T,); 1 is that of a square wave of full scale."""
    return float(torch.dot(audio, audio)) / len(audio)


def loop(noise: Tensor, samples: int, part: float) -> Tensor:
    """Return noise (L,) repeated to (``samples``,) without a break; a longer one is cut.

    Args:
        noise: (L,) float32, L of at least 1.
        samples: How long it shall be.
        part: Number in [0, 1) that says where in the repeated noise to begin.
    """
    if len(noise) >= samples:
        return noise[:samples]
    fade = min(CROSSFADE, len(noise) // 4)
    period = len(noise) - fade
    # Sine and cosine keep the power of sounds that do not resemble each other.
    angle = (torch.arange(fade) + 0.5) * (math.pi / 2 / max(fade, 1))
    joint = noise[:fade] * angle.sin() + noise[period:] * angle.cos()
    start = int(part * period)
    repeats = -(-(start + samples) // period)
    return torch.cat([joint, noise[fade:period]]).repeat(repeats)[start : start + samples]


def _read(stretch: Stretch, part: float, samples: int) -> Tensor | None:
    """Return a part of a stretch as (``samples``,), None where it is silent.

    Raises:
        AudioError: If it cannot be read.
    """
    wanted_s = (samples + 2) / SAMPLE_RATE  # rounding at the file's own sampling rate takes up to two
    there_s = audio_info(stretch.path).duration_s - stretch.offset_s
    if stretch.duration_s is not None:
        there_s = min(there_s, stretch.duration_s)
    if there_s > wanted_s:
        noise = read_audio(stretch.path, stretch.offset_s + part * (there_s - wanted_s), wanted_s)
    else:
        noise = read_audio(stretch.path, stretch.offset_s, stretch.duration_s)
    noise = loop(noise, samples, part)
    return None if mean_power(noise) < SILENCE else noise
