"""The contract of speech encoders."""

from abc import abstractmethod
from typing import Any, ClassVar

from torch import Tensor

from speechllm.batch import SAMPLE_RATE, Batch, Frames
from speechllm.errors import UserError
from speechllm.tuning import TunableModule


class Encoder(TunableModule):
    """Turns audio into frames; feature extraction happens inside, on the device of the audio.

    A subclass registers itself in :data:`speechllm.registry.ENCODERS` and sets the attributes below. The frames of an
    utterance depend on nothing but that utterance (spec §0.2).

    Attributes:
        tiny: Options that build a random-weight encoder small enough for tests.
        dim: Width E of the frames.
        frame_rate: Frames per second, in Hz; set on the class where it is known before anything is loaded.
        max_duration_s: Longest utterance that :meth:`forward` takes, in seconds; None where there is no limit.
        min_samples: Fewest audio samples that give a frame.
        features_version: Raised whenever the code gives other frames than before, so that caches of the old ones are
            refused.
    """

    tiny: ClassVar[dict[str, Any]]
    dim: int
    frame_rate: float
    max_duration_s: float | None = None
    min_samples: int = 1
    features_version: ClassVar[int] = 1

    @abstractmethod
    def forward(self, audio: Tensor, audio_lengths: Tensor) -> Frames:
        """Encode a batch.

        Args:
            audio: (B, T) float32, 16 kHz; whatever stands past an utterance's length is ignored.
            audio_lengths: (B,) int64 on the CPU, valid samples, at least :attr:`min_samples`.

        Returns:
            Frames of shape (B, F, E) with lengths (B,).
        """

    def encode(self, batch: Batch) -> Frames:
        """Return the frames of a batch, wherever they come from; what computes them does so from the audio."""
        frames: Frames = self(batch.audio, batch.audio_lengths)
        return frames

    @abstractmethod
    def output_lengths(self, audio_lengths: Tensor) -> Tensor:
        """Return the number of frames (B,) for utterances of ``audio_lengths`` (B,) samples."""

    def check_durations(self, audio_lengths: Tensor, ids: list[str]) -> None:
        """Check that every utterance is of a length that this encoder takes.

        Args:
            audio_lengths: (B,) int64, samples.
            ids: Utterance ids for the message.

        Raises:
            UserError: If an utterance is too short or too long; the message names it.
        """
        for name, samples in zip(ids, audio_lengths.tolist(), strict=True):
            duration_s = samples / SAMPLE_RATE
            if samples < self.min_samples:
                msg = (
                    f"Utterance '{name}' has {samples} samples; this encoder needs at least {self.min_samples}. "
                    f"Leave it out or raise the data option `min_duration_s`."
                )
                raise UserError(msg)
            if self.max_duration_s is not None and duration_s > self.max_duration_s:
                msg = (
                    f"Utterance '{name}' lasts {duration_s:.2f} s; the encoder takes at most {self.max_duration_s:g} s."
                    f" Segment it, or set the encoder option `long_audio: chunk`."
                )
                raise UserError(msg)
