"""The caches of a model's frozen encoders under a trainer: what may be cached, and how the data gets to know them."""

import warnings
from collections.abc import Mapping, Sequence
from typing import Any

from torch import nn

from speechllm.encoders.cached import CachedEncoder, cached_specs, open_settings, parse_cache
from speechllm.errors import UserError
from speechllm.feature_cache.reader import FeatureReader
from speechllm.models.checkpoint import read_checkpoint
from speechllm.models.initial_weights import find_initial


def attach_caches(
    encoder: Mapping[str, Any], data: Any, stage: str, init_from: str | Sequence[str] | None = None
) -> None:
    """Give the data what reads the caches of an encoder, before any weights are loaded.

    Args:
        encoder: The encoder's spec.
        data: The trainer's datamodule; data without one is encoded live.
        stage: ``fit``, ``validate``, ``test`` or ``predict``.
        init_from: Runs that training starts from.

    Raises:
        UserError: If a cache is not there or is of another encoder, or if what is trained on changes its frames.
    """
    specs = cached_specs(encoder)
    if not hasattr(data, "features"):
        if specs:
            warnings.warn("Only a datamodule reads the cache of an encoder; frames are computed live.", stacklevel=2)
        return
    data.features = None
    if not specs:
        return
    if stage == "fit":
        check_unchanged_audio(data)
        if init_from is not None:
            _check_initial(encoder, init_from)
    for spec in specs:
        open_settings(spec)
    data.features = FeatureReader([parse_cache(spec)[0] for spec in specs], _hears_audio(encoder))


def check_unchanged_audio(data: Any) -> None:
    """Check that training hears each utterance as it is.

    Raises:
        UserError: If the data is augmented.
    """
    changed: list[str] = data.augmentations
    if changed:
        msg = (
            f"`cache` and `augment` ({', '.join(changed)}) exclude each other: the audio, and its frames, differ from "
            f"epoch to epoch. Leave out `data.augment`, or compute the frames live (`cache: null`)."
        )
        raise UserError(msg)


def _hears_audio(encoder: Mapping[str, Any]) -> bool:
    """Return whether one of an encoder's encoders has no cache."""
    return encoder.get("cache") is None and len(cached_specs(encoder)) < len(encoder["encoders"])


def _check_initial(encoder: Mapping[str, Any], init_from: str | Sequence[str]) -> None:
    """Check that the runs to start from do not bring weights for an encoder whose frames are cached by its name.

    Raises:
        UserError: If they do.
    """
    prefixes = ["encoder."]
    if "encoders" in encoder:
        names = ("first", "second")
        prefixes = [
            f"encoder.{name}." for name, spec in zip(names, encoder["encoders"], strict=True) if spec.get("cache")
        ]
    named = any(spec.get("pretrained") is not None for spec in cached_specs(encoder))
    for path in find_initial(init_from if isinstance(init_from, str) else list(init_from)) if named else ():
        keys = [key for key in read_checkpoint(path)["state_dict"] if key.startswith(tuple(prefixes))]
        if keys:
            msg = (
                f"`init_from: {path}` holds weights of the encoder ({len(keys)} tensors), and cached frames are those "
                f"of its checkpoint. Leave out `cache`, or save that encoder as a checkpoint of its own and name it."
            )
            raise UserError(msg)


def report_misses(model: nn.Module) -> None:
    """Warn of utterances that were not in a cache since the last report."""
    for name, part in model.named_modules():
        if isinstance(part, CachedEncoder):
            computed, read = part.take_counts()
            if computed:
                warnings.warn(
                    f"{computed} of {computed + read} utterances were not in the cache '{part.folder}' and were "
                    f"computed live by {name}. Fill it: `speechllm cache --config RECIPE`.",
                    stacklevel=2,
                )
