"""How fast a model answers."""

from collections.abc import Sequence
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from speechllm.metrics.base import Figure, Metric, Sample, Text, ratio
from speechllm.registry import METRICS


@METRICS.register("speed")
class Speed(Metric):
    """Time that decoding takes, on one process: N processes are N times as fast as the figures say.

    - ``real_time_factor``: seconds of decoding per second of audio; below 1 is faster than speech;

    - ``tokens_per_second`` and ``utterances_per_second``: what a second of decoding brings, at the test's batch size;

    - ``time_to_first_token_s``: time from the audio to the first token of the batch, the mean over utterances where it
      was measured.

    Utterances without a decoding time, as those in a file of another system, have no part in the figures.

    Args:
        language: BCP-47 code of the answer; it changes nothing.

    Raises:
        UserError: If the language is not known.
    """

    scores: ClassVar[tuple[Text, ...]] = ("answer",)
    compares: ClassVar[bool] = False

    @property
    def figures(self) -> tuple[Figure, ...]:
        """Real-time factor, rates and the time to the first token."""
        return (
            Figure("real_time_factor", "ratio", False),
            Figure("tokens_per_second", "/s", True),
            Figure("utterances_per_second", "/s", True),
            Figure("time_to_first_token_s", "s", False),
        )

    @property
    def columns(self) -> tuple[str, ...]:
        """Times, tokens, and the utterances that have a decoding time and a time to the first token."""
        return "decode_s", "duration_s", "tokens", "utterances", "first_token_s", "first_tokens"

    def statistics(self, samples: Sequence[Sample]) -> NDArray[np.float64]:
        """Return times and counts of each sample; zeros where nothing was measured."""
        return np.array(
            [
                (
                    *((s.decode_s, s.duration_s, s.tokens, 1) if s.decode_s > 0 else (0, 0, 0, 0)),
                    *((s.first_token_s, 1) if s.first_token_s > 0 else (0, 0)),
                )
                for s in samples
            ],
            dtype=np.float64,
        ).reshape(-1, len(self.columns))

    def values(self, sums: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the figures; NaN where nothing was measured."""
        decode_s, duration_s, tokens, utterances, first_token_s, first_tokens = np.moveaxis(sums, -1, 0)
        figures = (
            ratio(decode_s, duration_s),
            ratio(tokens, decode_s),
            ratio(utterances, decode_s),
            ratio(first_token_s, first_tokens),
        )
        return np.stack(figures, axis=-1)

    def signature(self) -> str:
        """Return ``speed|processes:1``."""
        return "speed|processes:1"
