"""What a built model computes, for the arithmetic of :mod:`speechllm.costs.flops`: read off its layers, once."""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple

from torch import nn

from speechllm.batch import Batch
from speechllm.costs.flops import ModelShape, SequenceName, StepSize, Work
from speechllm.encoders.fbank import MEL_BINS, STACK
from speechllm.encoders.whisper import N_FFT, WINDOW_SAMPLES

if TYPE_CHECKING:
    from speechllm.models.speech_llm import SpeechLLM

WHISPER_WINDOW_FRAMES = WINDOW_SAMPLES // 320
"""Whisper's frames of 30 s."""

QUERIES = ("q_proj", "query", "linear_q")
"""Names of the layer that gives an attention its queries, in the families of transformers."""

FUSED = {"query_key_value": "dense", "qkv_proj": "o_proj"}
"""Names of the layer that gives queries, keys and values at once, and of the layer after the attention."""


class Place(NamedTuple):
    """Where layers run: how many positions they have for a sequence; see :class:`speechllm.costs.flops.Work`."""

    sequence: SequenceName
    rate: float = 1.0
    offset: float = 0.0
    window: int | None = None


Places = Mapping[str, Place]
"""Place of the layers whose names begin with a key; the longest key counts, the empty one for all others."""

FRAMES, SPEECH, LLM = Place("frames"), Place("speech"), Place("llm")

TWO_STAGES = {"": SPEECH, **dict.fromkeys(("in_proj", "before", "head", "conv", "weight_proj"), FRAMES)}
ADAPTER_PLACES: dict[str, Places] = {
    "conv": {**TWO_STAGES, "convs.0": Place("speech", 2.0)},
    "mlp": {"": FRAMES},
    "projector": {"": SPEECH, "conv1": FRAMES},
    "bridge_conv": {"": SPEECH, "convs.0": Place("speech", 2.0, 2.0)},
}
"""Places in adapters by name. One that is not listed has :data:`TWO_STAGES`: what its layers are called decides."""


def shape_of(model: "SpeechLLM") -> ModelShape:
    """Return what a model computes; it may be on the meta device.

    A mixture of experts counts all of its experts.

    Args:
        model: A model whose parts are built.
    """
    encoder, upstream = _encoder_works(model.encoder, model.specs["encoder"])
    adapter, upstream = _adapter_works(model.adapter, model.specs["adapter"]["name"], upstream)
    llm = model.decoder.llm
    upstream = upstream or getattr(model.decoder, "new_tokens", None) is not None
    head = llm.get_output_embeddings()
    body, upstream = _works(llm, {"": LLM}, upstream, without=head)
    output, _ = _works(head, {"": Place("target")}, upstream)
    share = checkpointed_share(model.specs["decoder"], llm.config.num_hidden_layers)
    again = tuple(replace(work, forward=share * work.forward, pairs=share * work.pairs) for work in body if share)
    return ModelShape(encoder, adapter, body, output, again)


def step_size(
    model: "SpeechLLM",
    batch: Batch,
    speech_positions: Sequence[int],
    llm_positions: Sequence[int],
    target_tokens: Sequence[int],
    cached: bool = False,
) -> StepSize:
    """Return the lengths of a batch, from integers on the CPU alone.

    Args:
        model: The model.
        batch: The batch.
        speech_positions: Positions that the adapter gave for each utterance.
        llm_positions: Positions of each sequence of the LLM.
        target_tokens: Target tokens of each.
        cached: Whether the encoder's frames came with the batch, from a cache.
    """
    if not cached:
        frames: list[int] = model.encoder.output_lengths(batch.audio_lengths).tolist()
        once = [frames[first] for first in sorted(set(batch.audio_of))]
        return StepSize(once, speech_positions, llm_positions, target_tokens, frames)
    # Asking a cached encoder for lengths would load it. Streams that a fusion joins are as long, but for the rate.
    read = max((frames.lengths for frames in batch.features.values()), key=lambda lengths: int(lengths.sum()))
    return StepSize([], speech_positions, llm_positions, target_tokens, read.tolist())


def checkpointed_share(decoder: Mapping[str, Any], layers: int) -> float:
    """Return the share of an LLM's layers that a decoder's spec lets compute again in the backward."""
    from speechllm.decoders.layers import parse_checkpoint_layers

    every = parse_checkpoint_layers(decoder.get("checkpoint_layers"))
    return -(-layers // every) / layers if every else 0.0


# Parts


def _encoder_works(encoder: Any, spec: Mapping[str, Any]) -> tuple[tuple[Work, ...], bool]:
    """Return what an encoder does, and whether gradients go back into it."""
    if spec.get("cache"):
        if encoder.key is not None:
            return (), False
        encoder = encoder.inner
    if "encoders" not in spec:
        works, upstream = _works(encoder, _encoder_places(encoder, spec["name"]), upstream=False)
        return (*works, *_features(encoder, spec["name"])), upstream
    joined: list[Work] = []
    upstream = False
    for inner, inner_spec in zip((encoder.first, encoder.second), spec["encoders"], strict=True):
        works, trained = _encoder_works(inner, inner_spec)
        ratio = inner.frame_rate / encoder.frame_rate
        joined += [replace(work, rate=work.rate * ratio) for work in works]
        upstream = upstream or trained
    works, upstream = _works(encoder.fusion, {"": FRAMES}, upstream)
    return (*joined, *works), upstream


def _encoder_places(encoder: Any, name: str) -> Places:
    own = Place("encoder")
    if name == "whisper":
        own = Place("encoder", window=WHISPER_WINDOW_FRAMES)
        if encoder.trim_to_speech:  # 30 s are computed, however few frames are kept
            own = Place("encoder", 0.0, WHISPER_WINDOW_FRAMES)
        return {"": own, "encoder.conv1": Place("encoder", 2 * own.rate, 2 * own.offset)}
    if name == "seamless":
        shorteners = _seamless_shorteners(encoder)
        layers = {f"encoder.adapter.layers.{i}": _before(shorteners[i + 1 :]) for i in range(len(shorteners))}
        return {"": _before(shorteners), **layers}
    if name == "hubert":
        convs = [(kernel, stride, 0) for kernel, stride in encoder._strides]
        layers = {f"hubert.feature_extractor.conv_layers.{i}": _before(convs[i + 1 :]) for i in range(len(convs))}
        return {"": own, **layers}
    return {"": own}


def _seamless_shorteners(encoder: Any) -> list[tuple[int, int, int]]:
    return [(layer.kernel_size, layer.stride, layer.stride // 2) for layer in encoder.encoder.adapter.layers]


def _before(convolutions: Sequence[tuple[int, int, int]]) -> Place:
    """Return the place of a layer whose positions convolutions (kernel, stride, padding) shorten to the frames.

    A convolution of stride s gives the same number for s lengths in a row; the middle one is taken.
    """
    rate, offset = 1.0, 0.0
    for kernel, stride, padding in reversed(convolutions):
        rate, offset = stride * rate, stride * (offset - 1) + kernel - 2 * padding + (stride - 1) / 2
    return Place("encoder", rate, offset)


def _features(encoder: Any, name: str) -> Iterator[Work]:
    """Yield the matrix products of the filter banks, two windows of 10 ms for each frame before shortening."""
    if name == "whisper":
        bins = encoder.encoder.config.num_mel_bins
        place = _encoder_places(encoder, name)["encoder.conv1"]
        more = 0 if encoder.pad_to_30s else 4  # frames past the end, which still overlap it
        yield Work("encoder", place.rate, place.offset + more, forward=bins * (1 + N_FFT // 2))
    elif name == "seamless":
        place = _before(_seamless_shorteners(encoder))
        yield Work("encoder", STACK * place.rate, STACK * place.offset, forward=MEL_BINS * 257)


def _adapter_works(adapter: Any, name: str, upstream: bool) -> tuple[tuple[Work, ...], bool]:
    if name != "wlq":
        works, learns = _works(adapter, ADAPTER_PLACES.get(name, TWO_STAGES), upstream)
        return (*works, *_slid_kernels(adapter, upstream)), learns
    queries = len(adapter.queries)
    keys = Place("speech", adapter.window / queries)  # the frames of all windows, the last one filled up
    places = {"": SPEECH, "in_proj": FRAMES}
    for index, layer in enumerate(adapter.qformer.encoder.layer):
        if layer.has_cross_attention:
            cross = f"qformer.encoder.layer.{index}.crossattention.attention"
            places |= {f"{cross}.key": keys, f"{cross}.value": keys}
    # Queries attend to those of their own window, and to its frames: pairs that go by the number of positions.
    return _works(adapter, places, upstream, attended=(queries, adapter.window))


def _slid_kernels(adapter: nn.Module, upstream: bool) -> Iterator[Work]:
    """Yield the work of kernels that are slid over the features of each position too, which keep their number."""
    for layer in adapter.modules():
        if isinstance(layer, nn.Conv2d):
            after = next(other for other in adapter.modules() if isinstance(other, nn.Linear))
            work = float(layer.weight.numel() * after.in_features)
            yield Work("speech", 1.0, 0.0, work, work * upstream, work * layer.weight.requires_grad)


# Layers


def _works(
    module: nn.Module,
    places: Places,
    upstream: bool,
    without: nn.Module | None = None,
    attended: tuple[int, int] | None = None,
) -> tuple[tuple[Work, ...], bool]:
    """Return what the layers inside a module do, and whether something before its end is trained.

    Args:
        module: The module; its layers are taken to run in the order in which they were made.
        places: Where they run.
        upstream: Whether something before the module is trained.
        without: A layer that is left out.
        attended: How many positions each attends to, in self-attention and in cross-attention, where that is fixed.
    """
    sums: dict[Place, dict[str, float]] = defaultdict(lambda: defaultdict(float))
    for name, layer in module.named_modules():
        if layer is without:
            continue
        found = sums[_place_of(name, places)]
        trained = any(parameter.requires_grad for parameter in layer.parameters(recurse=False))
        work = _multiplications(layer)
        found["forward"] += work
        found["input_gradient"] += work * upstream
        found["weight_gradient"] += work * (trained or _is_trained_by_norm(layer))
        found["kept"] += _width(layer) * (upstream or trained)
        pairs = _attention_width(layer)
        learns = upstream or any(parameter.requires_grad for parameter in layer.parameters())
        if pairs and attended is not None:
            per_position = pairs * attended["crossattention" in name]
            for key, gradient in (("forward", True), ("input_gradient", learns), ("weight_gradient", learns)):
                found[key] += per_position * gradient
        else:
            found["pairs"] += pairs
            found["pair_gradient"] += (pairs - _frozen_distances(layer)) * learns
        is_leaf = next(layer.children(), None) is None
        upstream = upstream or (trained and is_leaf) or _is_trained_by_norm(layer)
    works = [
        Work(place.sequence, place.rate, place.offset, window=place.window, **found)
        for place, found in sums.items()
        if any(found.values())
    ]
    return tuple(works), upstream


def _place_of(name: str, places: Places) -> Place:
    fitting = [key for key in places if not key or name == key or name.startswith(f"{key}.")]
    return places[max(fitting, key=len)]


def _multiplications(layer: nn.Module) -> float:
    """Return the multiply-accumulates of a layer for each position that it gives."""
    if isinstance(layer, nn.Linear):
        return layer.in_features * layer.out_features
    if isinstance(layer, nn.Conv1d):
        return layer.in_channels * layer.out_channels / layer.groups * layer.kernel_size[0]
    if isinstance(layer, nn.MultiheadAttention):
        return float(layer.embed_dim * (layer.embed_dim + (layer.kdim or 0) + (layer.vdim or 0)))
    return 0.0


def _width(layer: nn.Module) -> int:
    """Return the values that go into a layer and come out of it, for each position."""
    if isinstance(layer, nn.Linear):
        return layer.in_features + layer.out_features
    return layer.in_channels + layer.out_channels if isinstance(layer, nn.Conv1d) else 0


def _is_trained_by_norm(layer: nn.Module) -> bool:
    """Return whether a convolution is trained whose weight is made of two others (HuBERT's positions)."""
    parametrizations = getattr(layer, "parametrizations", None)
    return parametrizations is not None and any(p.requires_grad for p in parametrizations.parameters())


def _distances(layer: nn.Module) -> nn.Module | None:
    """Return the embedding by which SeamlessM4T scores the distance of each pair; None in any other layer."""
    found: nn.Module | None = getattr(layer, "distance_embedding", None)
    return found


def _frozen_distances(layer: nn.Module) -> float:
    """Return what the way back saves per pair where the embedding of distances is frozen: one product of two."""
    distances = _distances(layer)
    if distances is None or any(parameter.requires_grad for parameter in distances.parameters()):
        return 0.0
    return float(layer.linear_q.out_features) / 2  # type: ignore[union-attr,arg-type]


def _attention_width(layer: nn.Module) -> float:
    """Return the multiply-accumulates of an attention for each pair of positions; 0 for any other layer."""
    if isinstance(layer, nn.MultiheadAttention):
        return 2.0 * float(layer.embed_dim)
    for name in QUERIES:
        queries = getattr(layer, name, None)
        if isinstance(queries, nn.Module) and hasattr(queries, "out_features"):
            width = float(queries.out_features)  # type: ignore[arg-type]
            return (3.0 if _distances(layer) is not None else 2.0) * width
    for name, after in FUSED.items():
        if isinstance(getattr(layer, name, None), nn.Module):
            return 2.0 * float(getattr(layer, after).in_features)
    return 0.0
