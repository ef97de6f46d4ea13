"""The contract of decoders."""

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from speechllm.batch import AdapterOutput, Batch, Hypothesis
from speechllm.tuning import TunableModule


@dataclass(frozen=True)
class SequenceSizes:
    """What a decoder computed for a batch, as integers on the CPU.

    Attributes:
        positions: Positions of each sequence: prompt, speech and answer.
        targets: Positions of each that go through the output layer.
        computed: Positions of all that were computed, padding included.
    """

    positions: list[int]
    targets: list[int]
    computed: int


@dataclass
class DecoderOutput:
    """Teacher-forced result of a batch.

    Attributes:
        losses: (B,) float32, cross-entropy summed over each utterance's target tokens, in nats; where the decoder
            weighs tokens, their weighted mean times their number.
        target_lengths: (B,) int64, target tokens of each utterance, the end token included.
        stats: Figures to log by name; they carry no gradient.
        sizes: What was computed for it, for figures of speed; None where a decoder does not say.
    """

    losses: Tensor
    target_lengths: Tensor
    stats: dict[str, Tensor] = field(default_factory=dict)
    sizes: SequenceSizes | None = None


@dataclass(frozen=True)
class Decoding:
    """How text is generated.

    Attributes:
        num_beams: Beams; 1 is greedy.
        max_new_tokens: Limit of new tokens for every utterance; None takes it from each utterance's duration.
        tokens_per_second: Limit of new tokens per second of speech and text (``asr+st`` writes two texts).
        extra_tokens: New tokens allowed beyond that, per text.
        min_new_tokens: Fewest new tokens before an answer may end, where its limit allows them.
        kv_cache: ``dynamic``: keys and values grow with the answers, and finished utterances leave the batch;
            ``static``: they have a fixed size, and on a GPU each step is one compiled graph. Greedy search only; beams
            are always dynamic.
    """

    num_beams: int = 1
    max_new_tokens: int | None = None
    tokens_per_second: float = 8.0
    extra_tokens: int = 30
    min_new_tokens: int = 0
    kv_cache: Literal["dynamic", "static"] = "dynamic"

    def limit(self, duration_s: float, task: str) -> int:
        """Return the most new tokens an utterance may take, whatever it is batched with.

        Paper C's ``int(4 * seconds + 20 + 0.5)`` is ``tokens_per_second: 4`` with ``extra_tokens: 20`` (spec §17.1).
        """
        if self.max_new_tokens is not None:
            return self.max_new_tokens
        texts = 2 if task == "asr+st" else 1
        return texts * (self.extra_tokens + int(self.tokens_per_second * duration_s + 0.5))


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

    @classmethod
    def check_prompt(cls, spec: Mapping[str, Any]) -> None:
        """Check that prompt and tokenizer of a spec go together, without loading weights.

        Args:
            spec: Decoder spec of a recipe.

        Raises:
            UserError: If they do not.
        """

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
            One hypothesis an utterance, in order; ``first_token_s`` is measured from this call.
        """

    @abstractmethod
    def attention_summary(self, device: torch.device) -> str:
        """Return in a few words what computes attention in training on a device, and whether sequences are packed."""

    @abstractmethod
    def transcript_ids(self, batch: Batch) -> list[Tensor]:
        """Return the token ids (U,) of each transcript, without special tokens, for adapters that learn from them."""
