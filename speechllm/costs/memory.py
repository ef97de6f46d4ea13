"""How much memory of a GPU training takes, estimated from sizes.

Weights, gradients and the optimiser's state follow from what is trained. Activations are an estimate: what the layers
of the transformers library keep for the way back, as counted with hooks on saved tensors (a frozen Llama layer keeps
2 · (3 I + 2 Q + 2 KV) + 8 H bytes of a position in bf16). Kernels, allocators and libraries add what
:data:`OVERHEAD_GIB` and :data:`FRAGMENTATION` stand for; only ``speechllm bench`` on the GPU itself knows.
"""

from dataclasses import dataclass, fields

GIB = 2**30
OVERHEAD_GIB = 1.5
"""What CUDA and its libraries take before anything is computed, in GiB."""

FRAGMENTATION = 0.05
"""Share of all else that the allocator cannot use."""

LORA_BYTES = 6.6
"""What LoRA keeps of each input of a layer it wraps, in bytes: a copy, its dropout and the mask."""

LABEL_BYTES = 4
"""What is kept of each score of a head of labels over frames, in bytes: its logarithm in float32."""

LABEL_GRADIENT_BYTES = 10
"""What its gradients take beyond that, on their way back, when the LLM's activations are gone."""


@dataclass(frozen=True)
class LLMSizes:
    """Sizes of an LLM's layers.

    Attributes:
        layers: Number of layers.
        width: H.
        queries: Heads times their width.
        keys: Key heads times their width.
        inner: Width of the feed-forward layer.
        gated: Whether that layer has a gate.
        vocabulary: V.
        lora_inputs: Inputs of the layers that LoRA wraps, summed over one layer.
        full: Whether the weights themselves are trained.
        checkpointed: Share of the layers that keep their input alone.
        eager_heads: Heads whose scores are kept for each pair of positions; 0 with a fused kernel.
    """

    layers: int
    width: int
    queries: int
    keys: int
    inner: int
    gated: bool
    vocabulary: int
    lora_inputs: int = 0
    full: bool = False
    checkpointed: float = 0.0
    eager_heads: int = 0

    def kept_bytes(self, length: float) -> float:
        """Return what one layer keeps of one position for the way back, of a sequence of ``length`` positions."""
        kept = 2.0 * ((3 if self.gated else 1) * self.inner + 2 * self.queries + 2 * self.keys) + 8 * self.width
        kept += 2.0 * (self.inner + 4 * self.width) if self.full else 0.0
        kept += LORA_BYTES * self.lora_inputs
        return kept + 10.0 * self.eager_heads * length

    def activation_bytes(self, positions: float, length: float) -> float:
        """Return what all layers keep of ``positions``, in sequences of ``length``."""
        kept = self.kept_bytes(length)
        whole = self.layers * (1 - self.checkpointed) * kept
        inputs = self.layers * self.checkpointed * 2 * self.width
        again = kept if self.checkpointed else 0.0  # the layer that is being computed again
        return positions * (whole + inputs + again)

    def cache_bytes(self, positions: float) -> float:
        """Return what keys and values of ``positions`` take in decoding, in bf16."""
        return positions * self.layers * 2 * self.keys * 2


@dataclass(frozen=True)
class Memory:
    """Memory of one GPU by part, in GiB.

    Attributes:
        weights: All weights.
        gradients: Gradients of what is trained.
        optimizer: AdamW's two moments.
        encoder: What the encoder keeps, or passes through while it is frozen.
        adapter: What the adapter keeps, the scores of its heads included.
        llm: What the LLM's layers keep.
        logits: The chunk of logits that the loss is computed of, with its gradient.
        other: Libraries, and what the allocator cannot use.
        decoding: Keys and values in validation, when gradients and activations are gone; not part of the sum.
    """

    weights: float
    gradients: float
    optimizer: float
    encoder: float
    adapter: float
    llm: float
    logits: float
    other: float = 0.0
    decoding: float = 0.0

    @property
    def total(self) -> float:
        """All of training."""
        return sum(float(getattr(self, field.name)) for field in fields(self) if field.name != "decoding")

    def with_overhead(self) -> "Memory":
        """Return the same with :attr:`other`."""
        bare = self.total - self.other
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        return Memory(**{**values, "other": OVERHEAD_GIB + FRAGMENTATION * bare})
