"""Where the audio of a lhotse recording is: the file and channel, from its JSON as it stands in manifests."""

import os
import sys
from typing import Any

from speechllm.audio import AudioInfo

_NOT_FILES = {
    "command": "the audio is the output of a command, which is never run",
    "url": "the audio is at a URL",
    "memory": "the audio stands in the manifest",
    "shar": "the audio is in a Shar archive",
}
"""Types of audio sources that are not read, and why."""


class UnusableAudio(Exception):
    """A recording is not a file as it is; the message is the reason, to be counted by."""


def audio_fields(recording: dict[str, Any]) -> dict[str, Any]:
    """Return the fields of a recording that :func:`locate` needs, in a third of the memory.

    Raises:
        KeyError, TypeError: If it is not a recording.
    """
    return {
        "sources": [
            {"type": sys.intern(source["type"]), "channels": source["channels"], "source": source["source"]}
            for source in recording["sources"]
        ],
        "sampling_rate": recording["sampling_rate"],
        "duration": recording["duration"],
        "transforms": recording.get("transforms"),
    }


def locate(recording: dict[str, Any], channel: int | list[int], folder: str) -> tuple[str, int | None, AudioInfo]:
    """Return path, channel in the file (None for all of it), and what the recording says of the file.

    Args:
        recording: The recording.
        channel: Channel or channels of the recording.
        folder: Folder that relative paths are named from.

    Raises:
        UnusableAudio: If the audio is not a file as it is, or the channels are neither one nor all of a file's.
        KeyError, TypeError, ValueError: If it is not a recording.
    """
    sources = recording["sources"]
    for source in sources:
        kind = "url" if source["type"] == "file" and "://" in source["source"] else source["type"]
        if kind != "file":
            raise UnusableAudio(_NOT_FILES.get(kind, f"the audio is of the type '{kind}'"))
    sampling_rate, duration_s = _rate_of_file(recording), float(recording["duration"])
    if not 0 < sampling_rate < 2**31 or not 0 < duration_s < float("inf"):
        msg = f"a recording of {duration_s} s at {sampling_rate} Hz"
        raise ValueError(msg)
    wanted = {channel} if isinstance(channel, int) else set(channel)
    held = [source for source in sources if wanted & set(source["channels"])]
    if len(held) != 1:
        reason = "its channels are in several files" if held else "no source has its channel"
        raise UnusableAudio(reason)
    path, channels = os.path.join(folder, held[0]["source"]), held[0]["channels"]
    info = AudioInfo(sampling_rate, duration_s, len(channels))
    if wanted == set(channels):
        return path, None, info
    if len(wanted) > 1:
        reason = "some of the channels of a file"
        raise UnusableAudio(reason)
    return path, channels.index(wanted.pop()), info


def _rate_of_file(recording: dict[str, Any]) -> int:
    """Return the sampling rate of a recording's file.

    Raises:
        UnusableAudio: If lhotse changes the recording as it reads it; resampling is our own affair.
    """
    rate = int(recording["sampling_rate"])
    for transform in reversed(recording.get("transforms") or []):
        if transform["name"] != "Resample":
            reason = f"lhotse changes the recording ({transform['name']})"
            raise UnusableAudio(reason)
        rate = int(transform["kwargs"]["source_sampling_rate"])
    return rate
