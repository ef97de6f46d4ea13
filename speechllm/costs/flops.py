"""How many floating-point operations a training step takes, from the sizes of layers and the lengths of utterances.

Counted are matrix products, convolutions and attention: a multiply-accumulate is two operations. What norms,
activations, losses and embeddings add is left out; it is below a percent at any size that is trained. Attention counts
every pair of positions of an utterance, as is usual, though a causal kernel can skip half of them. Padding counts
nothing: it is no use to the model.

Going back through a layer costs one forward for the gradient of its input, and one more for that of its weights: a
frozen layer before which nothing is trained costs nothing, a frozen one after something trained costs one, a trained
one two. Attention has no weights; its backward costs two forwards.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

SequenceName = Literal["encoder", "frames", "speech", "llm", "target"]
"""Whose length a layer's work goes by; the fields of :class:`StepSize` in their order."""


@dataclass(frozen=True)
class StepSize:
    """Lengths of the utterances of a step, or of one utterance, as they are without padding.

    Attributes:
        encoder_frames: Frames that the encoder computes, of each audio once; nothing where they come from a cache.
        speech_positions: Positions S that the adapter gives for each utterance.
        llm_positions: Positions of each sequence of the LLM: prompt, speech and answer.
        target_tokens: Positions of each sequence that go through the output layer.
        adapter_frames: Frames that the adapter takes, an utterance each; those of the encoder where not given.
    """

    encoder_frames: Sequence[int]
    speech_positions: Sequence[int]
    llm_positions: Sequence[int]
    target_tokens: Sequence[int]
    adapter_frames: Sequence[int] | None = None

    def lengths(self, sequence: SequenceName) -> Sequence[int]:
        """Return the lengths that a :class:`Work` of this sequence goes by."""
        if sequence == "encoder":
            return self.encoder_frames
        if sequence == "frames":
            return self.encoder_frames if self.adapter_frames is None else self.adapter_frames
        if sequence == "speech":
            return self.speech_positions
        return self.llm_positions if sequence == "llm" else self.target_tokens


@dataclass(frozen=True)
class Work:
    """Multiply-accumulates of layers that go by the length of one sequence.

    Attributes:
        sequence: The sequence.
        rate: Positions of these layers for each position of the sequence.
        offset: Positions beyond that, for each sequence; negative where a convolution starts late.
        forward: Multiply-accumulates per position, forward.
        input_gradient: Of these, those of layers whose input needs a gradient.
        weight_gradient: Of these, those of layers that are trained.
        pairs: Multiply-accumulates per pair of positions: attention, forward.
        pair_gradient: Of these, those through which gradients go back.
        window: Positions that one attends to at most; None for all.
        kept: Values that are kept of each position for the way back: about the inputs and outputs of its layers.
    """

    sequence: SequenceName
    rate: float = 1.0
    offset: float = 0.0
    forward: float = 0.0
    input_gradient: float = 0.0
    weight_gradient: float = 0.0
    pairs: float = 0.0
    pair_gradient: float = 0.0
    window: int | None = None
    kept: float = 0.0

    def kept_values(self, size: StepSize) -> float:
        """Return how many values are kept for the way back."""
        return self.kept * sum(max(0.0, self.rate * length + self.offset) for length in size.lengths(self.sequence))

    def forward_flop(self, size: StepSize) -> float:
        """Return the operations of going forward."""
        return self._flop(size, self.forward, self.pairs)

    def backward_flop(self, size: StepSize) -> float:
        """Return the operations of going back."""
        return self._flop(size, self.input_gradient + self.weight_gradient, 2 * self.pair_gradient)

    def _flop(self, size: StepSize, per_position: float, per_pair: float) -> float:
        if not per_position and not per_pair:
            return 0.0
        positions = pairs = 0.0
        for length in size.lengths(self.sequence):
            count = max(0.0, self.rate * length + self.offset)
            positions += count
            pairs += count * (count if self.window is None else min(count, self.window))
        return 2.0 * (per_position * positions + per_pair * pairs)


@dataclass(frozen=True)
class ModelShape:
    """What a model computes, by part; see :func:`speechllm.models.sizing.shapes.shape_of`.

    Attributes:
        encoder: Encoder, and the fusion inside it where it has one.
        adapter: Adapter, with the heads of its losses.
        llm: LLM without its output layer.
        output: Output layer of the LLM.
        recomputed: Layers whose forward runs once more in the backward, to save memory.
    """

    encoder: tuple[Work, ...]
    adapter: tuple[Work, ...]
    llm: tuple[Work, ...]
    output: tuple[Work, ...]
    recomputed: tuple[Work, ...] = ()


@dataclass(frozen=True)
class FlopByPart:
    """Floating-point operations by part.

    Attributes:
        encoder: Encoder.
        adapter: Adapter.
        llm: LLM without its output layer.
        output: Output layer.
        recomputed: What activation checkpointing computes a second time.
    """

    encoder: float
    adapter: float
    llm: float
    output: float
    recomputed: float = 0.0

    @property
    def total(self) -> float:
        """Operations of the model, which its FLOP utilisation (MFU) counts; what is computed twice counts once."""
        return self.encoder + self.adapter + self.llm + self.output

    @property
    def computed(self) -> float:
        """Operations that the hardware does."""
        return self.total + self.recomputed


def training_flop(shape: ModelShape, size: StepSize) -> FlopByPart:
    """Return the operations of a training step: forward, backward, and what is computed twice.

    It is arithmetic on as many numbers as there are utterances, and quick enough for every step.
    """
    return FlopByPart(
        encoder=_both(shape.encoder, size),
        adapter=_both(shape.adapter, size),
        llm=_both(shape.llm, size),
        output=_both(shape.output, size),
        recomputed=sum(work.forward_flop(size) for work in shape.recomputed),
    )


def inference_flop(shape: ModelShape, size: StepSize) -> FlopByPart:
    """Return the operations of going forward alone, over prompt, speech and answer at once."""
    parts = (shape.encoder, shape.adapter, shape.llm, shape.output)
    return FlopByPart(*(sum(work.forward_flop(size) for work in part) for part in parts))


def model_flop_utilization(flop: float, time_s: float, bf16_tflops: float, gpus: int = 1) -> float:
    """Return the share of what GPUs could compute in a time that a model's own operations are (MFU).

    Args:
        flop: :attr:`FlopByPart.total` of all steps in that time, on all GPUs.
        time_s: Time in seconds, above 0.
        bf16_tflops: Rate of one GPU in TFLOP/s, that of the data sheet for the usual figure.
        gpus: Number of GPUs.
    """
    return flop / (time_s * bf16_tflops * 1e12 * gpus)


def _both(works: Sequence[Work], size: StepSize) -> float:
    return sum(work.forward_flop(size) + work.backward_flop(size) for work in works)
