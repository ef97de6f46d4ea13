"""What a recipe takes before anything is loaded: parameters, memory, operations, time."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from speechllm.batch import SAMPLE_RATE
from speechllm.costs.flops import FlopByPart, ModelShape, StepSize, training_flop
from speechllm.costs.memory import GIB, LABEL_BYTES, LABEL_GRADIENT_BYTES, LLMSizes, Memory
from speechllm.decoders.loss import CHUNK_BYTES
from speechllm.models.sizing.random_twin import PROMPT_POSITIONS, random_twin
from speechllm.models.sizing.shapes import checkpointed_share, shape_of
from speechllm.models.speech_llm import SpeechLLM
from speechllm.quantization import BLOCK_SIZE, hidden_linears

CLIP_S = 5.6
"""Duration of an utterance where no manifest says: the mean of MuST-C and CoVoST 2."""

TOKENS_PER_SECOND = 2.7
"""Tokens of an answer per second of speech (paper A, Table I)."""

FAST_FRAMES = {"cif": 25.0, "ctc": 13.0, "bridge_ctc": 13.0, "ctc_collapse": 4.0}
SLOW_FRAMES = {"cif": 3.0, "ctc": 2.0, "bridge_ctc": 2.0, "ctc_collapse": 1.0}
"""Frames per position where the audio decides: of encoders of 50 Hz and of 6.25 Hz (paper A, Table I, after training;
those of the two other adapters are guesses)."""

FROZEN_ENCODER_BYTES = 28
"""What a frozen encoder has in hand of a position for each unit of its width, in bytes, in bf16."""


@dataclass(frozen=True)
class Workload:
    """What is trained on, as far as it is known.

    Attributes:
        durations_s: Durations of utterances, all of them or a sample.
        batch_seconds: Largest batch in seconds of audio.
        max_utterances: Largest batch in utterances.
        longest_s: Longest utterance in seconds.
        hours: Hours of the training rows; None where no manifest says.
        devices: GPUs of the recipe.
        accumulated: Batches of an optimiser step on each GPU.
        steps: Optimiser steps.
    """

    durations_s: Sequence[float]
    batch_seconds: float
    max_utterances: int
    longest_s: float
    hours: float | None
    devices: int
    accumulated: int
    steps: int | None

    @property
    def mean_s(self) -> float:
        """Mean duration of an utterance in seconds."""
        return sum(self.durations_s) / len(self.durations_s)

    @property
    def batch_utterances(self) -> float:
        """Utterances of an average batch."""
        return max(1.0, min(self.max_utterances, self.batch_seconds / self.mean_s))

    @property
    def utterances(self) -> float | None:
        """Utterances that all steps train on."""
        return None if self.steps is None else self.steps * self.devices * self.accumulated * self.batch_utterances


class ModelPlan:
    """A recipe's model without memory for its weights, and what it costs.

    Args:
        options: The recipe's options of the model.
        precision: The trainer's precision.
        compression: Encoder frames per speech position where the audio decides; None takes what papers report.

    Attributes:
        model: The model, on the meta device.
        shape: What it computes.
        compression: Frames per position that are assumed; None where the adapter itself says.
        cached: Whether the encoder's frames are read from a cache.

    Raises:
        UserError: If the sizes of a checkpoint are not known, or the recipe's parts do not go together.
    """

    def __init__(
        self, options: Mapping[str, Any], precision: str = "32-true", compression: float | None = None
    ) -> None:
        self.options, self.precision = options, precision
        self.model = SpeechLLM(**random_twin(options, keep_four_bit=False))
        with torch.device("meta"):
            self.model.configure_model()
        self.shape: ModelShape = shape_of(self.model)
        inner = options["encoder"].get("encoders", [options["encoder"]])
        self.cached = all(spec.get("cache") for spec in inner)
        by_content = self.model.adapter.output_lengths(torch.tensor([100])) is None
        self.compression = (compression or self._usual_compression()) if by_content else None

    def _usual_compression(self) -> float:
        usual = FAST_FRAMES if self.model.encoder.frame_rate > 12.5 else SLOW_FRAMES
        return usual.get(self.options["adapter"]["name"], 4.0)

    # Sizes

    def parameters(self) -> dict[str, tuple[int, int]]:
        """Return the parameters of each part, and how many of them are trained."""
        counts = {}
        for part in ("encoder", "adapter", "decoder"):
            found = list(getattr(self.model, part).parameters())
            counts[part] = (sum(p.numel() for p in found), sum(p.numel() for p in found if p.requires_grad))
        return counts

    @property
    def trained(self) -> int:
        """Trained parameters."""
        return sum(trained for _, trained in self.parameters().values())

    def sizes(self, durations_s: Sequence[float]) -> StepSize:
        """Return the lengths of utterances of these durations."""
        samples = torch.tensor([max(self.model.encoder.min_samples, round(d * SAMPLE_RATE)) for d in durations_s])
        lengths = self.model.encoder.output_lengths(samples)
        if self.compression is None:
            speech = self.model.adapter.output_lengths(lengths)
        else:
            speech = (lengths / self.compression).ceil().long()
        frames, positions = lengths.tolist(), speech.tolist()
        targets = [1 + round(TOKENS_PER_SECOND * duration_s) for duration_s in durations_s]
        llm = [PROMPT_POSITIONS + count + target for count, target in zip(positions, targets, strict=True)]
        return StepSize([] if self.cached else frames, positions, llm, targets, frames)

    def flop(self, durations_s: Sequence[float]) -> FlopByPart:
        """Return the operations of an average utterance of these durations."""
        total = training_flop(self.shape, self.sizes(durations_s))
        count = len(durations_s)
        return FlopByPart(*(value / count for value in vars(total).values()))

    def positions_per_second(self, duration_s: float = CLIP_S) -> float:
        """Return speech positions per second of audio."""
        return float(self.sizes([duration_s]).speech_positions[0] / duration_s)

    def checkpoint_bytes(self) -> int:
        """Return the size of a checkpoint: what is trained, two moments of each, and random weights without a name."""
        counts = self.parameters()
        specs = {part: self.options[part] for part in ("encoder", "decoder")}
        random = [part for part, spec in specs.items() if "encoders" not in spec and spec.get("pretrained") is None]
        return self.trained * 12 + sum(4 * (counts[part][0] - counts[part][1]) for part in random)

    def cache_bytes_per_hour(self) -> float:
        """Return the size of an hour in a cache of the frozen encoders' frames, in bf16."""
        encoder = self.model.encoder
        inner = [encoder.first, encoder.second] if hasattr(encoder, "fusion") else [encoder]
        return float(sum(3600 * part.frame_rate * part.dim * 2 for part in inner if part.frozen))

    # Memory

    def llm_sizes(self) -> LLMSizes:
        """Return the sizes of the LLM's layers."""
        llm, spec = self.model.decoder.llm, self.model.specs["decoder"]
        config = llm.config
        heads = config.num_attention_heads
        head = getattr(config, "head_dim", None) or config.hidden_size // heads
        wrapped = [layer for layer in llm.modules() if hasattr(layer, "lora_A") and hasattr(layer, "in_features")]
        layers = config.num_hidden_layers
        soft_capped = getattr(config, "attn_logit_softcapping", None) is not None
        return LLMSizes(
            layers=layers,
            width=config.hidden_size,
            queries=heads * head,
            keys=(getattr(config, "num_key_value_heads", None) or heads) * head,
            inner=config.intermediate_size,
            gated=any(name.endswith("gate_proj") for name, _ in llm.named_modules()),
            vocabulary=llm.get_output_embeddings().weight.shape[0],
            lora_inputs=sum(layer.in_features for layer in wrapped) // layers,
            full=spec.get("tuning") == "full",
            checkpointed=checkpointed_share(spec, layers),
            eager_heads=heads if soft_capped else 0,
        )

    def weight_bytes(self, four_bit: bool | None = None) -> float:
        """Return what all weights take; ``four_bit`` says whether the LLM's are in NF4, as the recipe where None."""
        tuning = self.options["decoder"].get("tuning")
        four_bit = tuning == "qlora" if four_bit is None else four_bit
        parts = [(self.model.decoder, four_bit)]
        encoder = self.model.encoder
        specs = self.options["encoder"].get("encoders", [self.options["encoder"]])
        inner = [encoder.first, encoder.second] if hasattr(encoder, "fusion") else [encoder]
        parts += [(part, spec.get("tuning") == "qlora") for part, spec in zip(inner, specs, strict=True)]
        half = self.precision.endswith("-true") and not self.precision.startswith("32")
        size: float = sum(p.numel() * (2 if half else p.element_size()) for p in self.model.parameters())
        for part, quantized in parts:
            if quantized:
                for layer in hidden_linears(part).values():
                    if not layer.weight.requires_grad and ".lora_" not in str(layer):
                        count = layer.weight.numel()
                        size -= count * ((2 if half else layer.weight.element_size()) - 0.5 - 4 / BLOCK_SIZE)
        return size

    def memory(
        self,
        batch: Sequence[float],
        shards: int = 1,
        checkpoint_all: bool = False,
        four_bit: bool | None = None,
    ) -> Memory:
        """Return the memory of a GPU that trains on a batch.

        Args:
            batch: Durations of its utterances, in seconds.
            shards: GPUs that weights, gradients and optimiser are spread over.
            checkpoint_all: Whether all layers of the LLM keep their input alone, whatever the recipe says.
            four_bit: Whether the LLM's weights are in NF4; as in the recipe where None.
        """
        size = self.sizes(batch)
        llm = self.llm_sizes()
        llm = replace(llm, checkpointed=1.0) if checkpoint_all else llm
        positions = sum(size.llm_positions)
        per_value = 2 if self.precision.startswith("bf16") or self.precision.startswith("16") else 4
        adapter = sum(work.kept_values(size) for work in self.shape.adapter) * per_value
        frames = sum(size.lengths("frames"))
        head = getattr(self.model.adapter, "head", None)
        labels = 0 if head is None else frames * head.out_features
        activations = llm.activation_bytes(positions, max(size.llm_positions)) * per_value / 2
        adapter += (LABEL_BYTES - per_value) * labels + max(0.0, LABEL_GRADIENT_BYTES * labels - activations)
        encoder = sum(work.kept_values(size) for work in self.shape.encoder) * per_value
        if encoder == 0.0 and not self.cached:
            rate = max(work.rate for work in self.shape.encoder)
            encoder = FROZEN_ENCODER_BYTES * self.model.encoder.dim * rate * frames * per_value / 2
        trained_bytes = 2 if self.precision == "bf16-true" else 4
        logits = min(CHUNK_BYTES, 4 * sum(size.target_tokens) * llm.vocabulary)
        return Memory(
            weights=self.weight_bytes(four_bit) / shards / GIB,
            gradients=self.trained * trained_bytes / shards / GIB,
            optimizer=2 * self.trained * trained_bytes / shards / GIB,
            encoder=encoder / GIB,
            adapter=adapter / GIB,
            llm=activations / GIB,
            logits=1.5 * logits / GIB,
            decoding=llm.cache_bytes(positions + 100 * len(batch)) / GIB,
        ).with_overhead()

    def largest_memory(self, work: Workload, batch_seconds: float | None = None, **options: Any) -> Memory:
        """Return the memory of the recipe's most expensive batch; ``options`` as of :meth:`memory`."""
        seconds = work.batch_seconds if batch_seconds is None else batch_seconds
        long = max(1, min(work.max_utterances, int(seconds // work.longest_s)))
        short = max(1.0, min(work.longest_s, seconds / work.max_utterances))
        batches = [[work.longest_s] * long, [short] * max(1, min(work.max_utterances, int(seconds // short)))]
        return max((self.memory(batch, **options) for batch in batches), key=lambda memory: memory.total)

    def largest_batch_seconds(self, work: Workload, memory_gib: float, **options: Any) -> float | None:
        """Return the largest ``batch_seconds`` whose batches fit, to two figures; None where one utterance does not."""
        low, high = work.longest_s, 16 * max(work.batch_seconds, work.longest_s)
        if self.largest_memory(work, low, **options).total > memory_gib:
            return None
        for _ in range(14):
            middle = (low + high) / 2
            fits = self.largest_memory(work, middle, **options).total <= memory_gib
            low, high = (middle, high) if fits else (low, middle)
        return float(int(low // 10 * 10)) if low >= 10 else low
