"""The voices of the synthetic corpus, and talks spoken by them."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
import numpy.typing as npt
import torch
from torchaudio.transforms import Resample

from speechllm.batch import SAMPLE_RATE
from speechllm.data.synthesis.espeak import ENGINE_RATE, synthesize

WORDS_PER_MINUTE = (130, 190)
PITCH = (40, 60)
GAIN = (0.3, 0.9)
"""Peak of a sentence, as a fraction of full scale."""
SIGNAL_TO_NOISE_DB = (20.0, 40.0)
PAUSE_S = (0.2, 0.6)
PAUSE_MARGIN = SAMPLE_RATE // 20
"""Samples of a pause that a segment holds on either side of its sentence: 50 ms."""


@dataclass(frozen=True)
class Voice:
    """An English accent and a speaker variant of espeak-ng."""

    accent: str
    variant: str

    def __str__(self) -> str:
        return f"{self.accent}+{self.variant}"


def _voices(table: dict[str, str]) -> tuple[Voice, ...]:
    return tuple(Voice(accent, variant) for accent, variants in table.items() for variant in variants.split())


# Left out: whispers, robots, echoes, variants that clip, and those that sound like another. A variant that is heard in
# development or test is heard in no other split.
VOICES = {
    "train": _voices(
        {
            "en-us": "m1 m2 m4 m6 m7 m8 f1 f2 f5 Alex Andy Lee Michael linda Annie max",
            "en": "m1 m4 m7 f1 f2 f5 Denis Alex belinda quincy",
            "en-gb-x-rp": "m2 m6 f1 f5 Lee linda Michael",
            "en-gb-scotland": "m1 m8 f2 f5",
            "en-us-nyc": "m4 m7 f1 f2 Andy",
            "en-gb-x-gbclan": "m6 f5 victor",
            "en-gb-x-gbcwmd": "m2 f1",
            "en-029": "m4 f2",
        }
    ),
    "dev": _voices({"en-us": "m5 f4", "en": "f4", "en-gb-x-rp": "m5"}),
    "tst-COMMON": _voices({"en-us": "m3 f3 robert", "en": "m3 f3", "en-gb-x-rp": "robert"}),
}
"""Voices of each split."""


@dataclass(frozen=True)
class Talk:
    """Sentences spoken one after the other.

    Attributes:
        samples: (T,) int16, 16 kHz mono.
        spans: First sample and number of samples of each sentence.
    """

    samples: npt.NDArray[np.int16]
    spans: list[tuple[int, int]]


def speak_talk(voice: Voice, texts: Sequence[str], generator: np.random.Generator) -> Talk:
    """Speak sentences with pauses between; each has a rate, pitch, loudness and noise of its own.

    Args:
        voice: Who speaks.
        texts: One sentence each, at least one.
        generator: Where rates, pitches, loudness, noise and pauses are drawn from.
    """
    chunks: list[npt.NDArray[np.float32]] = []
    spans: list[tuple[int, int]] = []
    start = 0
    for text in texts:
        pause = round(generator.uniform(*PAUSE_S) * SAMPLE_RATE)
        speech = _speak(voice, text, generator)
        chunk = np.pad(speech, (pause, 2 * PAUSE_MARGIN))  # so that the last segment ends before the talk does
        noise_rms = np.sqrt(np.mean(speech**2)) * 10 ** (-generator.uniform(*SIGNAL_TO_NOISE_DB) / 20)
        chunk += noise_rms * generator.standard_normal(len(chunk), dtype=np.float32)
        chunks.append(chunk)
        spans.append((start + pause - PAUSE_MARGIN, len(speech) + 2 * PAUSE_MARGIN))
        start += len(chunk)
    samples = np.concatenate(chunks)
    return Talk(np.clip(np.rint(samples * 32767), -32768, 32767).astype(np.int16), spans)


def _speak(voice: Voice, text: str, generator: np.random.Generator) -> npt.NDArray[np.float32]:
    words_per_minute, pitch = (int(generator.integers(low, high + 1)) for low, high in (WORDS_PER_MINUTE, PITCH))
    spoken = synthesize(text, voice.accent, voice.variant, words_per_minute, pitch)
    speech: npt.NDArray[np.float32] = _resampler()(torch.from_numpy(spoken)).numpy()
    return speech * np.float32(generator.uniform(*GAIN) / np.abs(speech).max())


@cache
def _resampler() -> Resample:
    """Keep the filter: making it anew takes longer than using it on a sentence."""
    return Resample(ENGINE_RATE, SAMPLE_RATE)
