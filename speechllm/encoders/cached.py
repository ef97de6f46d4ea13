"""The option ``cache`` of frozen encoders: frames are read from disk, and computed where they are not there."""

import inspect
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor

from speechllm.batch import SAMPLE_RATE, Batch, Frames, to_device, without_autocast
from speechllm.encoders.base import Encoder
from speechllm.encoders.weights import comparable, named_weights, random_weights
from speechllm.errors import UserError, did_you_mean
from speechllm.feature_cache.folder import CacheSettings, differences, read_settings
from speechllm.feature_cache.records import STORAGE
from speechllm.registry import ENCODERS, SharedOption, Spec

NOT_IN_FRAMES = {"pretrained", "revision", "tuning", "lora", "freeze_feature_encoder", "spec_augment", "cache"}
"""Options that change no frame of a frozen encoder; which weights they name is compared by itself."""

MEANING = (
    "Folder of frames that ``speechllm cache`` has computed, one an encoder: they are read instead of computed. "
    "Or ``{dir: …, format: …}`` with the format ``bf16`` or ``int8``. For frozen encoders only."
)


class CachedEncoder(Encoder):
    """A frozen encoder whose frames come with the batch.

    The encoder itself is loaded when an utterance is not in the cache, or where there is no cache that fits. Random
    weights are there from the beginning, under the names that they have without a cache.

    Args:
        spec: Spec of the encoder, with ``cache``.

    Attributes:
        key: Name of its frames in ``Batch.features``; None where there is no cache that fits.
        computed: Utterances that were computed since :meth:`take_counts`.
        read: Utterances that were read since then.
    """

    tiny: ClassVar[dict[str, Any]] = {}

    def __init__(self, spec: Spec) -> None:
        super().__init__()
        self.spec = plain_spec(spec)
        self.pretrained = spec.get("pretrained")
        self.folder, _ = parse_cache(spec)
        self.key: str | None = None
        self.read = self.computed = 0
        self._loaded: list[Encoder] = []  # a list, so that weights which nothing saves are not of this module
        settings = read_settings(self.folder)
        if settings is not None and not settings_differences(spec, settings):
            self.key, self.settings = settings.key, settings
        if self.key is None or self.pretrained is None:
            for name, child in self.inner.named_children():
                self.add_module(name, child)
        self._checked = self.pretrained is not None
        known: Any = self.inner if self.key is None else self.settings
        self.dim, self.frame_rate = known.dim, known.frame_rate
        self.min_samples, self.max_duration_s = known.min_samples, known.max_duration_s
        self.apply_tuning("frozen")

    @property
    def inner(self) -> Encoder:
        """The encoder itself; it is loaded now where it was not."""
        if not self._loaded:
            self._loaded.append(self._build())
        return self._loaded[0]

    def forward(self, audio: Tensor, audio_lengths: Tensor) -> Frames:
        """Encode a batch; see :meth:`Encoder.forward`.

        Mixed precision is off, as it was when the cache was filled.
        """
        inner = self.inner
        if any(parameter.device != audio.device for parameter in inner.parameters()):
            inner.to(audio.device)
        with torch.no_grad(), without_autocast(audio.device):
            frames: Frames = inner(audio, audio_lengths)
        return frames

    def encode(self, batch: Batch) -> Frames:
        """Return the frames that came with a batch, and compute those that did not.

        Raises:
            UserError: If the cache is of other random weights.
        """
        cached = batch.features.get(self.key) if self.key else None
        if cached is None:
            return super().encode(batch)
        self._check_random_weights()
        missing = [row for row, length in enumerate(cached.lengths.tolist()) if length == 0]
        self.computed += len(missing)
        self.read += len(batch) - len(missing)
        if not missing:
            return cached
        few = batch.select(missing)
        return merged(cached, self(few.audio, few.audio_lengths), missing)

    def output_lengths(self, audio_lengths: Tensor) -> Tensor:
        """Return the number of frames (B,); the encoder itself knows it."""
        return self.inner.output_lengths(audio_lengths)

    def take_counts(self) -> tuple[int, int]:
        """Return how many utterances were computed and read, and begin to count anew."""
        counts, self.computed, self.read = (self.computed, self.read), 0, 0
        return counts

    def _build(self) -> Encoder:
        """Load the encoder.

        Raises:
            UserError: If the weights that came are not those of the cache.
        """
        encoder: Encoder = ENCODERS.build(self.spec).eval()
        if self.key is not None and self.pretrained is not None:  # only now its commit may be known
            refuse(self.folder, settings_differences(self.spec, self.settings))
        return encoder

    def _check_random_weights(self) -> None:
        """Check once that random weights, which a checkpoint may have replaced, are those of the cache."""
        if self._checked:
            return
        self._checked = True
        refuse(self.folder, weight_differences(random_weights(self.inner), self.settings))


def merged(cached: Frames, computed: Frames, rows: list[int]) -> Frames:
    """Put computed frames in the rows that a cache did not have.

    Args:
        cached: (B, F, E) bfloat16.
        computed: (R, F', E) float.
        rows: The rows of the R computed utterances.
    """
    size = max(cached.values.shape[1], computed.values.shape[1])
    where = to_device(torch.tensor(rows), cached.values.device)
    lengths = cached.lengths.clone()
    lengths[rows] = computed.lengths
    values = _filled(cached.values, computed.values, where, size)
    logits = None
    if cached.ctc_logits is not None and computed.ctc_logits is not None:
        logits = _filled(cached.ctc_logits, computed.ctc_logits, where, size)
    return Frames(values, lengths, logits, cached.ctc_blank)


def _filled(cached: Tensor, computed: Tensor, where: Tensor, size: int) -> Tensor:
    cached, computed = (
        torch.nn.functional.pad(frames, (0, 0, 0, size - frames.shape[1])) for frames in (cached, computed)
    )
    return cached.index_copy(0, where, computed.to(cached.dtype))


def parse_cache(spec: Spec) -> tuple[Path, str | None]:
    """Return the folder and the format of an encoder's ``cache``; None for that of a folder that is there, or bf16.

    Raises:
        UserError: If it is neither a folder nor a mapping with one.
    """
    given = spec["cache"]
    options = dict(given) if isinstance(given, Mapping) else {"dir": given}
    unknown = [key for key in options if key not in ("dir", "format")]
    if unknown:
        msg = f"`cache` does not take '{unknown[0]}'.{did_you_mean(unknown[0], ('dir', 'format'))} Give dir and format."
        raise UserError(msg)
    folder, storage = options.get("dir"), options.get("format")
    if not isinstance(folder, str) or not folder:
        msg = f"`cache` must be a folder, or {{dir: FOLDER, format: bf16}}, but is {given!r}."
        raise UserError(msg)
    if storage is not None and storage not in STORAGE:
        msg = f"The format of `cache` must be {' or '.join(STORAGE)}, but is {storage!r}."
        raise UserError(msg)
    return Path(folder).expanduser(), storage


def check_cache(part: type[Any], spec: Spec) -> None:
    """Check that an encoder can have the cache that its spec names.

    Raises:
        UserError: If it is trained, masks its features, or is made of others.
    """
    parse_cache(spec)
    if not _is_single(part):
        msg = (
            f"The fusion of '{spec['name']}' is trained, so that its frames change. Give each of its encoders a cache "
            f"of its own: `encoders: [{{name: whisper, …, cache: DIR}}, …]`."
        )
        raise UserError(msg)
    if spec.get("tuning", "frozen") != "frozen":
        msg = (
            f"`cache` is for frozen encoders, and '{spec['name']}' has `tuning: {spec['tuning']}`: its frames change "
            f"with every step. Leave out `cache`, or set `tuning: frozen`."
        )
        raise UserError(msg)
    if spec.get("spec_augment") is not None:
        msg = "`cache` and `spec_augment` exclude each other: masks differ from epoch to epoch. Leave out one of them."
        raise UserError(msg)


def cached_specs(spec: Spec) -> list[Spec]:
    """Return the specs with a cache among an encoder's and those of the encoders inside it."""
    inside = [inner for inner in spec.get("encoders", ()) if isinstance(inner, Mapping)]
    return [found for found in (spec, *inside) if found.get("cache") is not None]


def plain_spec(spec: Spec) -> dict[str, Any]:
    """Return a spec without its cache."""
    return {key: value for key, value in spec.items() if key != "cache"}


def frame_options(spec: Spec) -> dict[str, Any]:
    """Return the options of an encoder that its frames depend on, defaults included."""
    options = {key: parameter.default for key, parameter in ENCODERS.options(spec["name"]).items()}
    kept = {key: value for key, value in (options | dict(spec)).items() if key not in {*NOT_IN_FRAMES, "name"}}
    as_written: dict[str, Any] = json.loads(json.dumps(kept))
    return as_written


def describe_encoder(spec: Spec, encoder: Encoder, storage: str) -> CacheSettings:
    """Return what a cache of an encoder holds.

    Args:
        spec: Its spec.
        encoder: The encoder, with its weights.
        storage: Format of the cache.
    """
    pretrained = spec.get("pretrained")
    weights = random_weights(encoder) if pretrained is None else named_weights(pretrained, spec.get("revision"))
    samples = max(encoder.min_samples, SAMPLE_RATE)
    device = next(encoder.parameters()).device
    with torch.no_grad():
        probe: Frames = encoder(torch.zeros(1, samples, device=device), torch.tensor([samples]))
    return CacheSettings(
        encoder=spec["name"],
        options=frame_options(spec),
        features_version=type(encoder).features_version,
        weights=weights,
        dim=encoder.dim,
        frame_rate=encoder.frame_rate,
        min_samples=encoder.min_samples,
        max_duration_s=encoder.max_duration_s,
        ctc_classes=0 if probe.ctc_logits is None else probe.ctc_logits.shape[2],
        ctc_blank=probe.ctc_blank,
        storage=storage,
    )


def settings_differences(spec: Spec, settings: CacheSettings, weights: Mapping[str, Any] | None = None) -> list[str]:
    """Return where an encoder's spec differs from what a cache holds; nothing is loaded.

    Args:
        spec: Its spec.
        settings: What the cache holds.
        weights: Which weights it has; those that its name means if not given, and where it has none they pass.
    """
    if spec["name"] != settings.encoder:
        return [f"the encoder is '{settings.encoder}' in the cache and '{spec['name']}' in the recipe"]
    defaults = {
        key: parameter.default
        for key, parameter in ENCODERS.options(spec["name"]).items()
        if parameter.default is not inspect.Parameter.empty
    }
    found = differences(settings.options, frame_options(spec), defaults)
    version = ENCODERS.get(spec["name"]).features_version
    found += differences({"features_version": settings.features_version}, {"features_version": version}, {})
    if weights is None and spec.get("pretrained") is not None:
        weights = named_weights(spec["pretrained"], spec.get("revision"), settings.weights)
    if weights is not None:
        found += weight_differences(weights, settings)
    storage = parse_cache(spec)[1] if spec.get("cache") is not None else None
    return found + differences({"format": settings.storage}, {"format": storage or settings.storage}, {})


def weight_differences(weights: Mapping[str, Any], settings: CacheSettings) -> list[str]:
    """Return where an encoder's weights differ from those of a cache."""
    return differences(comparable(settings.weights, weights), comparable(weights, settings.weights), {})


def open_settings(spec: Spec) -> CacheSettings:
    """Return what the cache of an encoder's spec holds.

    Raises:
        UserError: If it is not there, or of another encoder, revision or preprocessing.
    """
    folder, _ = parse_cache(spec)
    settings = read_settings(folder)
    if settings is None:
        msg = (
            f"The cache '{folder}' of the encoder '{spec['name']}' is not there. Fill it first: `speechllm cache "
            f"--config RECIPE`, with the same options; or leave out `cache` (`cache: null`) to compute the frames live."
        )
        raise UserError(msg)
    refuse(folder, settings_differences(spec, settings))
    return settings


def refuse(folder: Path, found: list[str]) -> None:
    """Refuse a cache that is of something else.

    Raises:
        UserError: If there is any difference.
    """
    if found:
        msg = (
            f"The cache '{folder}' is of another encoder: {'; '.join(found)}. Name another folder in `cache` and fill "
            f"it with `speechllm cache --config RECIPE`, or take the options that it was filled with."
        )
        raise UserError(msg)


def _is_single(part: type[Any]) -> bool:
    """Return whether an encoder is one network with a ``tuning`` of its own."""
    return "tuning" in inspect.signature(part).parameters


ENCODERS.share(SharedOption("cache", str | dict[str, Any] | None, MEANING, _is_single, check_cache, CachedEncoder))
