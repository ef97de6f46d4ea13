"""Reverberation: speech as it sounds in a room, by the impulse response that was measured or simulated there."""

import numpy as np
import soundfile
import torch
from torch import Tensor

from speechllm.audio import AudioError, prepare_samples
from speechllm.data.augmentation.noise import SILENCE, mean_power
from speechllm.data.augmentation.sound_bank import SoundBank, Stretch

MAX_RESPONSE_S = 5.0
"""How much of an impulse response is read, in seconds: longer than any room but a cathedral reverberates."""


class Reverberation:
    """Rooms that speech is placed in, each by its impulse response.

    Args:
        source: A folder, list or manifest of impulse responses, as for
            :class:`speechllm.data.augmentation.sound_bank.SoundBank`. Of one with several channels, one is drawn.
        option: Name of the option that gave the source, for messages.

    Raises:
        UserError: If the source is not there, or none of its files can be read.
    """

    def __init__(self, source: str, option: str = "reverberation") -> None:
        self._bank = SoundBank(source, option)

    def add(self, audio: Tensor, generator: np.random.Generator) -> Tensor:
        """Return audio (T,) in a room that is drawn; as it is where no impulse response could be used."""
        response = self._bank.draw(generator, read_response)
        return audio if response is None else reverberate(audio, response)


def reverberate(audio: Tensor, response: Tensor) -> Tensor:
    """Convolve speech with an impulse response; length, timing and mean power stay.

    The direct sound, which is the largest sample of the response, arrives without delay. What reverberates past the
    end is cut.

    Args:
        audio: (T,) float32.
        response: (R,) float32, not silent.

    Returns:
        (T,) float32; it may exceed [-1, 1].
    """
    power = mean_power(audio)
    if power < SILENCE:
        return audio
    direct = int(response.abs().argmax())
    wet = _convolve(audio, response)[direct : direct + len(audio)]
    # Not zero: the direct sound of every sample is within the stretch. Rounding could still make it so.
    levelled: Tensor = wet * (power / max(mean_power(wet), SILENCE)) ** 0.5
    return levelled


def read_response(stretch: Stretch, part: float) -> Tensor | None:
    """Return an impulse response (R,) at 16 kHz, None where it is silent.

    Args:
        stretch: Where it is.
        part: Number in [0, 1) that says which channel to take: the mean of several would be the sound of no place.

    Raises:
        AudioError: If it cannot be read.
    """
    try:
        with soundfile.SoundFile(stretch.path) as file:
            rate = file.samplerate
            file.seek(min(round(stretch.offset_s * rate), file.frames))
            limit_s = min(stretch.duration_s or MAX_RESPONSE_S, MAX_RESPONSE_S)
            samples = file.read(round(limit_s * rate), dtype="float32", always_2d=True)
    except (soundfile.LibsndfileError, OSError, RuntimeError) as error:
        msg = f"'{stretch.path}' cannot be decoded: {error}"
        raise AudioError(msg) from error
    response = samples[:, int(part * samples.shape[1])]
    peak = float(np.abs(response).max(initial=0.0))
    if not 0 < peak < np.inf:  # nor NaN
        return None
    return prepare_samples(response / (2 * peak), rate)  # half: resampling overshoots, and would be clipped


def _convolve(audio: Tensor, response: Tensor) -> Tensor:
    """Return the convolution (T + R - 1,), in blocks that fit a processor's cache (overlap-save)."""
    before = len(response) - 1
    size = 2 << before.bit_length()
    step = size - before
    blocks = -(-(len(audio) + before) // step)
    padded = torch.nn.functional.pad(audio, (before, blocks * step - len(audio)))
    spectrum = torch.fft.rfft(padded.unfold(0, size, step)) * torch.fft.rfft(response, size)
    convolved: Tensor = torch.fft.irfft(spectrum, size)[:, before:].reshape(-1)[: len(audio) + before]
    return convolved
