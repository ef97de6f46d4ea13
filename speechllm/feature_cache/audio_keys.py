"""What an utterance is known by: its samples, or the stretch of an unchanged file that they come from."""

import hashlib
import os

from torch import Tensor

KEY_BYTES = 16
"""Length of a key; two of ten billion utterances have the same one with a chance of one in 10^18."""


def content_key(samples: Tensor) -> bytes:
    """Return the key of audio, (T,) float32 at 16 kHz: a digest of its samples."""
    return hashlib.blake2b(samples.contiguous().numpy().data, digest_size=KEY_BYTES).digest()


def file_key(audio: str, offset_s: float, duration_s: float, channel: int | None) -> bytes | None:
    """Return the key of a stretch of a file, without opening it.

    A file that has kept its path, size and time of change holds what it held.

    Args:
        audio: Path of the file, or of a tar file with ``#<first byte>+<bytes>`` behind it.
        offset_s: Where the stretch begins, in seconds.
        duration_s: Its duration in seconds.
        channel: Channel, or None for the mean of all.

    Returns:
        The key; None where there is no such file, behind a URL for instance.
    """
    path = audio
    try:
        state = os.stat(path)
    except (OSError, ValueError):
        path, _, stretch = audio.rpartition("#")
        if not stretch or not path:
            return None
        try:
            state = os.stat(path)
        except (OSError, ValueError):
            return None
    known = (os.path.abspath(audio), float(offset_s), float(duration_s), channel, state.st_size, state.st_mtime_ns)
    return hashlib.blake2b(repr(known).encode("utf-8", "surrogatepass"), digest_size=KEY_BYTES).digest()
