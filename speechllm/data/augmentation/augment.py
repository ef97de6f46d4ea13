"""Augmentation of training audio: speed, reverberation, noise and gain, in this order."""

import math
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from torch import Tensor

from speechllm.data.augmentation.noise import Noise, limit_peak, mix
from speechllm.data.augmentation.reverberation import Reverberation
from speechllm.data.augmentation.seeding import generator_for
from speechllm.errors import UserError

SPEEDS = (0.5, 2.0)
"""Slowest and fastest speed; beyond, speech is no longer speech."""

SPEED_STEPS = 100
"""Largest denominator of a speed: resampling takes a filter for each step."""

SNR_DB = (-30.0, 60.0)
"""Lowest and highest ratio of speech to noise that means something, in dB."""

GAIN_DB = (-40.0, 40.0)
"""Lowest and highest gain that means something, in dB."""


@dataclass(frozen=True)
class Augmentation:
    """What is done to the audio of training, in this order; without options, nothing.

    Nothing is read here: :class:`Augmenter` opens the files.

    Attributes:
        speeds: Speeds, one of which is drawn for each row and epoch, each as likely as any other: ``[0.9, 1.0, 1.1]``.
            Pitch changes with the speed, and so does the duration.
        reverberation: Room impulse responses: a folder of audio files, a text file with one path a line, or a manifest
            (.jsonl, .jsonl.gz) of lhotse cuts or recordings; none where null.
        reverberation_probability: Share of the rows that are placed in a room.
        noise: Noise: a folder, list or manifest as for ``reverberation``, ``white``, or ``babble:`` and a folder, list
            or manifest of speech; or several of these, one of which is drawn; none where null.
        noise_probability: Share of the rows that noise is mixed into.
        noise_snr_db: Lowest and highest ratio of speech to noise in dB, both measured over the whole clip.
        gain_db: Lowest and highest change of volume in dB; less where speech would clip.

    Raises:
        UserError: If a value cannot be.
    """

    speeds: tuple[float, ...] = (1.0,)
    reverberation: str | None = None
    reverberation_probability: float = 0.3
    noise: list[str] | str | None = None
    noise_probability: float = 0.5
    noise_snr_db: tuple[float, float] = (5.0, 20.0)
    gain_db: tuple[float, float] = (0.0, 0.0)

    def __post_init__(self) -> None:
        problems = [
            *self._speed_problems(),
            *_range_problems("noise_snr_db", self.noise_snr_db, SNR_DB),
            *_range_problems("gain_db", self.gain_db, GAIN_DB),
        ]
        for name in ("reverberation_probability", "noise_probability"):
            value = getattr(self, name)
            if not _is_number(value) or not 0 <= value <= 1:
                problems.append(f"`{name}` must be in [0, 1], but is {value!r}")
        if self.reverberation is not None and not (isinstance(self.reverberation, str) and self.reverberation):
            problems.append(f"`reverberation` must be a path, but is {self.reverberation!r}")
        if not all(isinstance(source, str) and source for source in self.noise_sources):
            problems.append(f"`noise` must be a path, `white`, `babble:…` or a list of these, but is {self.noise!r}")
        if problems:
            msg = f"The options under `augment` cannot be used: {'; '.join(problems)}."
            raise UserError(msg)

    @property
    def noise_sources(self) -> list[str]:
        """The sources of noise, none where there is no noise."""
        if self.noise is None:
            return []
        return [*self.noise] if isinstance(self.noise, list | tuple) else [self.noise]

    def _speed_problems(self) -> list[str]:
        if not isinstance(self.speeds, list | tuple) or not self.speeds:
            return [f"`speeds` must be a list such as [0.9, 1.0, 1.1], but is {self.speeds!r}"]
        try:
            for speed in self.speeds:
                speed_ratio(speed)
        except UserError as error:
            return [str(error).removesuffix(".")]
        return []


class Augmenter:
    """Reverberation, noise and gain as an :class:`Augmentation` says; its files are looked at when it is made.

    Args:
        options: What is done.

    Raises:
        UserError: If a source is not there, or none of its files can be read.
    """

    def __init__(self, options: Augmentation) -> None:
        self.options = options
        room, share = options.reverberation, options.reverberation_probability
        self._reverberation = Reverberation(room, "augment.reverberation") if room and share > 0 else None
        sources = options.noise_sources if options.noise_probability > 0 else []
        self._noises = [Noise(source, "augment.noise") for source in sources]

    def __call__(self, audio: Tensor, *key: int | str) -> Tensor:
        """Augment one clip, whose speed was changed before.

        What is drawn depends on the key alone, and each of the three has random numbers of its own: reverberation that
        is turned on leaves the noise as it was.

        Args:
            audio: (T,) float32, 16 kHz in [-1, 1]; it is not changed in place.
            key: What is augmented: seed, epoch and id of the row.

        Returns:
            (T,) float32 in [-1, 1], scaled as a whole to a peak of 1 where it would clip.
        """
        if not audio.numel():
            return audio
        result = audio
        generator = generator_for(*key, "reverberation")
        if self._reverberation and generator.random() < self.options.reverberation_probability:
            result = self._reverberation.add(result, generator)
        generator = generator_for(*key, "noise")
        if self._noises and generator.random() < self.options.noise_probability:
            snr_db = generator.uniform(*self.options.noise_snr_db)
            noise = self._noises[int(generator.integers(len(self._noises)))].draw(len(result), generator)
            result = result if noise is None else mix(result, noise, snr_db)
        if any(self.options.gain_db):
            gain_db = generator_for(*key, "gain").uniform(*self.options.gain_db)
            result = result * 10 ** (gain_db / 20)
        return result if result is audio else limit_peak(result)


def change_speed(audio: Tensor, speed: float) -> Tensor:
    """Play audio faster or slower; pitch changes too.

    Args:
        audio: (T,) float32, 16 kHz.
        speed: 1.1 is faster by a tenth.

    Returns:
        (T',) float32 in [-1, 1], T' as :func:`length_after_speed` says.

    Raises:
        UserError: As :func:`speed_ratio`.
    """
    if speed == 1 or not audio.numel():
        return audio
    ratio = speed_ratio(speed)
    from torchaudio.functional import resample  # loads a compiled library: only where it is needed

    changed: Tensor = resample(audio, ratio.numerator, ratio.denominator)
    return changed.clamp(-1.0, 1.0)


def length_after_speed(samples: int, speed: float) -> int:
    """Return the number of samples of a clip of ``samples`` after :func:`change_speed`.

    Raises:
        UserError: As :func:`speed_ratio`.
    """
    return math.ceil(samples / speed_ratio(speed))


def speed_ratio(speed: Any) -> Fraction:
    """Return a speed as the ratio of small whole numbers that is meant: 0.9 is 9 / 10.

    Raises:
        UserError: If it is no number, out of :data:`SPEEDS`, or has more than two decimals.
    """
    lowest, highest = SPEEDS
    if _is_number(speed) and lowest <= speed <= highest:
        ratio = Fraction(speed).limit_denominator(SPEED_STEPS)
        if abs(ratio - Fraction(speed)) < 1e-6:
            return ratio
    msg = f"A speed must be a number from {lowest:g} to {highest:g} with at most two decimals, but is {speed!r}."
    raise UserError(msg)


def _range_problems(name: str, value: Any, allowed: tuple[float, float]) -> list[str]:
    low, high = allowed
    is_pair = isinstance(value, list | tuple) and len(value) == 2 and all(map(_is_number, value))
    if is_pair and low <= value[0] <= value[1] <= high:
        return []
    return [f"`{name}` must be the lowest and highest value in dB, from {low:g} to {high:g}, but is {value!r}"]


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
