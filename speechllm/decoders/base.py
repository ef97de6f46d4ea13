"""The contract of decoders."""

from abc import abstractmethod
from dataclasses import dataclass, field
from typing import Any, ClassVar

from torch import Tensor

from speechllm.batch import AdapterOutput, Batch, Hypothesis
from speechllm.tuning import TunableModule


@dataclass
class DecoderOutput:
    """Teacher-forced result of a batch.

    Attributes:
        losses: (B,) float32, cross-entropy summed over each utterance's target tokens, in nats.
        target_lengths: (B,) int64, target tokens of each utterance, the end token included.
        stats: Figures to log by name; they carry no gradient.
    """

    losses: Tensor
    target_lengths: Tensor
    stats: dict[str, Tensor] = field(default_factory=dict)


@dataclass(frozen=True)
class Decoding:
    """How text is generated.

    Attributes:
        num_beams: Beams; 1 is greedy.
        max_new_tokens: Limit of new tokens for every utterance; None takes it from each utterance's duration.
        tokens_per_second: Limit of new tokens per second of speech and text (``asr+st`` writes two texts).
        extra_tokens: New tokens allowed beyond that, per text.
    """

    num_beams: int = 1
    max_new_tokens: int | None = None
    tokens_per_second: float = 8.0
    extra_tokens: int = 30

    def limit(self, duration_s: float, task: str) -> int:
        """Return the most new tokens an utterance may take, whatever it is batched with."""
        if self.max_new_tokens is not None:
            return self.max_new_tokens
        texts = 2 if task == "asr+st" else 1
        return texts * (self.extra_tokens + round(self.tokens_per_second * duration_s))


class Decoder(TunableModule):
    """Turns a prompt with speech embeddings into text.

    A subclass registers itself in :data:`speechllm.registry.DECODERS`.

    Attributes:
        tiny: Options that build a random-weight decoder small enough for tests.
        dim: Width H of its embeddings.
        vocab_size: Number of tokens V of its tokenizer.
    """

    tiny: ClassVar[dict[str, Any]]
    dim: int
    vocab_size: int

    @abstractmethod
    def forward(self, speech: AdapterOutput, batch: Batch) -> DecoderOutput:
        """Score each utterance's target text.

        Args:
            speech: Speech embeddings (B, S, H) with lengths (B,).
            batch: Tasks, languages and texts.

        Returns:
            Cross-entropy over target positions only; prompt and speech positions never reach the output layer.
        """

    @abstractmethod
    def generate(self, speech: AdapterOutput, batch: Batch, decoding: Decoding) -> list[Hypothesis]:
        """Decode each utterance; its reference texts are not looked at.

        Args:
            speech: Speech embeddings (B, S, H) with lengths (B,).
            batch: Tasks, languages and audio lengths.
            decoding: Beams and limits.

        Returns:
            One hypothesis an utterance, in order.
        """

    @abstractmethod
    def transcript_ids(self, batch: Batch) -> list[Tensor]:
        """Return the token ids (U,) of each transcript, without special tokens, for adapters that learn from them."""
