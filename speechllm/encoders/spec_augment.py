"""SpecAugment: an encoder that is trained does not hear all of an utterance (Park et al. 2019)."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Self

import torch
from torch import Tensor, nn

from speechllm.batch import lengths_to_mask, to_device, zero_padding
from speechllm.errors import UserError, did_you_mean

# Shape legend beyond batch.py: L feature frames, N features, K masks.


@dataclass(frozen=True)
class SpecAugmentOptions:
    """Options of SpecAugment, as they stand under ``spec_augment`` in a recipe.

    Widths are drawn evenly between nothing and the widest, and places evenly within the utterance; masks may overlap.
    Short utterances get fewer and narrower time masks, so that some of every utterance can be heard.

    Attributes:
        time_masks: Largest number of time masks of an utterance; 0 for none.
        time_width_s: Widest time mask, in seconds.
        time_share: Largest share of an utterance that its time masks cover together.
        feature_masks: Number of feature masks of an utterance; 0 for none.
        feature_share: Largest share of the features that the feature masks cover together.
    """

    time_masks: int = 10
    time_width_s: float = 0.5
    time_share: float = 0.2
    feature_masks: int = 2
    feature_share: float = 0.5

    @classmethod
    def parse(cls, options: Any) -> Self:
        """Check a recipe's ``spec_augment`` and return it.

        Args:
            options: A mapping with the names of the attributes; an empty one for the defaults.

        Raises:
            UserError: If a key is unknown or a value cannot be.
        """
        if not isinstance(options, Mapping):
            msg = f"`spec_augment` must be a mapping such as {{time_masks: 10, feature_masks: 2}}, but is {options!r}."
            raise UserError(msg)
        known = [field.name for field in fields(cls)]
        if unknown := [key for key in options if key not in known]:
            hint = "".join(did_you_mean(str(key), known) for key in unknown)
            msg = f"`spec_augment` does not take {', '.join(map(repr, unknown))}.{hint} It takes: {', '.join(known)}."
            raise UserError(msg)
        parsed = cls(**options)
        parsed._check()
        return parsed

    def _check(self) -> None:
        """Check the values.

        Raises:
            UserError: If one cannot be.
        """
        problems = []
        for name in ("time_masks", "feature_masks"):
            if type(value := getattr(self, name)) is not int or value < 0:
                problems.append(f"`{name}` must be a whole number of at least 0, but is {value!r}")
        for name in ("time_share", "feature_share"):
            if not _is_number(value := getattr(self, name)) or not 0 < value < 1:
                problems.append(f"`{name}` must lie between 0 and 1, but is {value!r}")
        if not _is_number(self.time_width_s) or self.time_width_s <= 0:
            problems.append(f"`time_width_s` must be a number above 0, but is {self.time_width_s!r}")
        if problems:
            msg = f"The options under `spec_augment` cannot be used: {'; '.join(problems)}."
            raise UserError(msg)


class SpecAugment(nn.Module):
    """Masks over features, in training mode only; it has no weights.

    What is drawn for an utterance depends on its own length alone, never on padding or batch mates, and nothing is
    masked past its length. It is drawn on the CPU, where the lengths are, from torch's generator there.

    Args:
        options: How much is masked.
    """

    def __init__(self, options: SpecAugmentOptions) -> None:
        super().__init__()
        self.options = options

    @classmethod
    def build(cls, options: dict[str, Any] | None, tuning: str) -> Self | None:
        """Return what a recipe's ``spec_augment`` says; encoders call it before their weights are loaded.

        Args:
            options: See :class:`SpecAugmentOptions`; None for no masks.
            tuning: How the encoder is tuned.

        Raises:
            UserError: If an option is wrong, or the encoder is frozen.
        """
        if options is None:
            return None
        parsed = SpecAugmentOptions.parse(options)
        if tuning == "frozen":
            msg = (
                "`spec_augment` is for an encoder that is trained, and this one has `tuning: frozen`, which would only "
                "lose what is masked. Leave it out, or set `tuning: lora` or `full`."
            )
            raise UserError(msg)
        return cls(parsed)

    def forward(self, values: Tensor, lengths: Tensor, frame_rate: float, embedding: Tensor | None = None) -> Tensor:
        """Mask a batch of features; outside of training return it as it is.

        Args:
            values: (B, L, N) float.
            lengths: (B,) int64 on the CPU, valid frames.
            frame_rate: Frames per second, in Hz.
            embedding: (N,) what masked frames are replaced by, and 0 masked features; without it, both are replaced by
                the mean of the utterance's features, which says nothing whatever the level of the recording is.

        Returns:
            (B, L, N), untouched past each length.
        """
        if not self.training:
            return values
        if embedding is None:
            count = (lengths[:, None, None] * values.shape[2]).clamp(min=1)
            total = zero_padding(values, lengths).sum(dim=(1, 2), keepdim=True)
            hidden_frame = total / to_device(count, values.device)
            hidden_feature = hidden_frame
        else:
            hidden_frame, hidden_feature = embedding, values.new_zeros(())
        frames = self.time_mask(lengths, values.shape[1], frame_rate, values.device)[..., None]
        features = self.feature_mask(len(lengths), values.shape[2], values.device)[:, None]
        values = torch.where(frames, hidden_frame.to(values.dtype), values)
        valid = lengths_to_mask(lengths, values.shape[1], values.device)[..., None]
        return torch.where(features & valid, hidden_feature.to(values.dtype), values)

    def time_mask(self, lengths: Tensor, size: int, frame_rate: float, device: torch.device | None = None) -> Tensor:
        """Draw time masks.

        Args:
            lengths: (B,) int64 on the CPU, valid frames.
            size: Number of frames L.
            frame_rate: Frames per second, in Hz.
            device: Where the masks are to be; the CPU if not given.

        Returns:
            (B, L) bool, True where a frame is hidden.
        """
        widest = max(1, round(self.options.time_width_s * frame_rate))
        total = (lengths.float() * self.options.time_share).floor()
        count = (total / widest).ceil().clamp(max=self.options.time_masks)
        limits = (total / count.clamp(min=1)).floor().clamp(max=widest)[:, None]
        used = torch.arange(self.options.time_masks) < count[:, None]
        return _spans(limits * used, lengths, size, device)

    def feature_mask(self, rows: int, size: int, device: torch.device) -> Tensor:
        """Draw feature masks for ``rows`` utterances: (B, N) bool, True where a feature is hidden in every frame."""
        masks = self.options.feature_masks
        limit = math.floor(size * self.options.feature_share / max(masks, 1))
        limits = torch.full((rows, masks), limit, dtype=torch.float32)
        return _spans(limits, torch.full((rows,), size), size, device)


def _spans(limits: Tensor, lengths: Tensor, size: int, device: torch.device | None) -> Tensor:
    """Draw spans of 0 to ``limits`` (B, K) positions within ``lengths`` (B,); return (B, ``size``) bool."""
    # Lightning makes bfloat16 the default type of tensors, which cannot count frames. In float32 products may still
    # round up to what they must stay below.
    draws = torch.rand(2, *limits.shape, dtype=torch.float32)
    widths = torch.minimum((draws[0] * (limits + 1)).floor(), limits)
    free = lengths[:, None] - widths
    starts = torch.minimum((draws[1] * (free + 1)).floor(), free)
    first, end = to_device(torch.stack([starts, starts + widths])[..., None], device or lengths.device)
    positions = torch.arange(size, device=first.device)
    inside: Tensor = (positions >= first) & (positions < end)  # (B, K, size)
    return inside.any(dim=1)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
