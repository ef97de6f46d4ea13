"""Audio out of shards: whole shards for training, single clips for scoring."""

import re
from collections import OrderedDict
from functools import lru_cache

from torch import Tensor

from speechllm.audio import decode_audio
from speechllm.data.remote import Location

_IN_SHARD = re.compile(r"(?P<folder>.+)/(?P<file>[^/]+\.tar)#(?P<start>\d+)\+(?P<size>\d+)")


def is_in_shard(audio: str) -> bool:
    """Return whether an utterance's audio is a stretch of a shard, and not a file."""
    return audio.endswith(tuple("0123456789")) and _IN_SHARD.fullmatch(audio) is not None


class ShardReader:
    """Reads clips out of shards, in one process.

    Args:
        buffer_shards: Shards that are held in memory, each read from beginning to end when its first clip is asked for;
            0 reads each clip for itself.
    """

    def __init__(self, buffer_shards: int) -> None:
        self.buffer_shards = buffer_shards
        self._shards: OrderedDict[tuple[str, str], bytes] = OrderedDict()

    def read(self, audio: str) -> Tensor:
        """Return a clip, (T,) float32 at 16 kHz.

        Args:
            audio: ``<folder>/<shard>.tar#<first byte>+<bytes>``.

        Raises:
            AudioError: If the clip cannot be decoded; one of no bytes could not be read when the shard was written.
            UserError: If the shard is gone, or could not be read in as many tries as are made.
        """
        match = _IN_SHARD.fullmatch(audio)
        if match is None:
            msg = f"'{audio}' is no stretch of a shard."
            raise ValueError(msg)
        folder, file, start, size = match["folder"], match["file"], int(match["start"]), int(match["size"])
        if not size:
            content = b""
        elif self.buffer_shards:
            content = self._shard(folder, file)[start : start + size]
        else:
            content = location(folder).read(file, start, start + size)
        return decode_audio(content, audio)

    def _shard(self, folder: str, file: str) -> bytes:
        key = (folder, file)
        if key not in self._shards:
            while len(self._shards) >= self.buffer_shards:
                self._shards.popitem(last=False)
            self._shards[key] = location(folder).read(file)
        self._shards.move_to_end(key)
        return self._shards[key]


@lru_cache(maxsize=64)
def location(url: str) -> Location:
    """Return a place that shards are read from."""
    return Location(url)
