"""Frames for the batches that data workers put together, out of one cache or several."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from speechllm.batch import Frames
from speechllm.feature_cache.audio_keys import content_key, file_key
from speechllm.feature_cache.shards import DamagedError
from speechllm.feature_cache.store import FeatureStore, Place

log = logging.getLogger(__name__)


@dataclass
class CachedClip:
    """What caches hold of one utterance.

    Attributes:
        records: Record of each cache that has one, by the cache's key, with its number of frames.
        samples: Audio samples; 0 where no cache has it.
        complete: Whether every encoder of the model has it in a cache, so that its audio is not needed.
    """

    records: dict[str, tuple[NDArray[np.uint8], int]] = field(default_factory=dict)
    samples: int = 0
    complete: bool = False


class FeatureReader:
    """Looks utterances up in the caches of a model's encoders, by their file or by their samples.

    It goes with the data to its workers, each of which maps the shards for itself.

    Args:
        folders: Folders of the caches.
        hears_audio: Whether the model has an encoder without a cache, which needs the audio of every utterance.
    """

    def __init__(self, folders: Sequence[Path], hears_audio: bool = False) -> None:
        self.hears_audio = hears_audio
        stores = [FeatureStore(folder) for folder in folders]
        self.stores: Mapping[str, FeatureStore] = {store.settings.key: store for store in stores}
        self._said: set[str] = set()

    def recall(self, audio: str, offset_s: float, duration_s: float, channel: int | None) -> CachedClip | None:
        """Return the frames of a stretch of a file without reading its audio.

        Args:
            audio: Path of the file, or address of a stretch of a shard.
            offset_s: Where the stretch begins, in seconds.
            duration_s: Its duration in seconds.
            channel: Channel, or None for the mean of all.

        Returns:
            What every cache has of it; None where one of them does not know the file as it is now, or where the audio
            is needed all the same.
        """
        if self.hears_audio:
            return None
        key = file_key(audio, offset_s, duration_s, channel)
        if key is None:
            return None
        clip = self._read({name: store.find_file(key) for name, store in self.stores.items()})
        return clip if clip.complete else None

    def find(self, samples: Tensor) -> CachedClip:
        """Return what the caches have of audio, (T,) float32 at 16 kHz."""
        key = content_key(samples)
        return self._read({name: store.find(key) for name, store in self.stores.items()})

    def collate(self, clips: Sequence[CachedClip]) -> dict[str, Frames]:
        """Return the frames of a batch by cache.

        Args:
            clips: What the caches have of each utterance.

        Returns:
            Frames of shape (B, F, E) in bfloat16; an utterance that a cache does not have has a length of 0 there.
        """
        return {name: _padded(name, store, clips) for name, store in self.stores.items()}

    def _read(self, places: Mapping[str, Place | None]) -> CachedClip:
        clip = CachedClip()
        for name, place in places.items():
            if place is None:
                continue
            try:
                clip.records[name] = (self.stores[name].read(place), place.frames)
                clip.samples = place.samples
            except DamagedError as error:
                self._say(str(error))
        clip.complete = len(clip.records) == len(self.stores) and not self.hears_audio
        return clip

    def _say(self, problem: str) -> None:
        """Warn of damage, once a process and shard."""
        shard = problem.rpartition(" at ")[0] or problem
        if shard not in self._said:
            self._said.add(shard)
            log.warning("%s. Such frames are computed live; `speechllm cache … --verify true` replaces them.", problem)


def _padded(name: str, store: FeatureStore, clips: Sequence[CachedClip]) -> Frames:
    layout, settings = store.layout, store.settings
    lengths = [clip.records[name][1] if name in clip.records else 0 for clip in clips]
    longest = max(lengths, default=0)
    values = torch.zeros(len(clips), longest, layout.dim, dtype=torch.bfloat16)
    logits = torch.zeros(len(clips), longest, layout.ctc_classes) if layout.ctc_classes else None
    for row, (clip, length) in enumerate(zip(clips, lengths, strict=True)):
        if length:
            row_logits = None if logits is None else logits[row, :length]
            layout.unpack(clip.records[name][0], values[row, :length], row_logits)
    return Frames(values, torch.tensor(lengths, dtype=torch.int64), logits, settings.ctc_blank)
