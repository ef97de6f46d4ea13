"""Headers of audio files, many at a time."""

import os
from collections.abc import Iterable, Iterator

from speechllm.audio import AudioError, AudioInfo, audio_info
from speechllm.data.reading.parallel import map_in_processes

MIN_MP3_RATE = 900.0
"""Fewest bytes that a second of mp3 takes; the lowest rate that there is, 8 kbit/s, is 1,000."""


def read_headers(paths: Iterable[str]) -> Iterator[AudioInfo | None]:
    """Yield what each clip's header says, in order, None where it cannot be read; several processes at a time.

    The header of an mp3 file that claims more audio than the file has room for counts as one that cannot be read.
    """
    return map_in_processes(read_header, paths)


def read_header(path: str) -> AudioInfo | None:
    """Return what a clip's header says; see :func:`read_headers`."""
    try:
        info = audio_info(path)
        if path.endswith(".mp3") and os.path.getsize(path) < MIN_MP3_RATE * info.duration_s:
            return None
    except (AudioError, OSError):
        return None
    return info
