"""Speech from text by espeak-ng, called through ctypes: the voice of the quickstart corpus.

The engine is the shared library of the ``espeakng-loader`` wheel; no system package is needed. It keeps state that no
function of its own resets (the phase of the pitch flutter, its noise generator), so the same call would sound slightly
different after another one. :func:`synthesize` therefore loads the library anew for each call, 3 ms that buy samples
which depend on the arguments alone.

The library is one per process and is not thread-safe: a lock lets one call run at a time. Nothing is kept between
calls, so forked workers may call it freely. The C library's ``rand``, which a few variants draw noise from, is
re-seeded by every call.
"""

import ctypes
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from speechllm.errors import UserError, did_you_mean

ENGINE_RATE = 22_050
"""Sampling rate of everything :func:`synthesize` returns, in Hz."""

WORDS_PER_MINUTE = (80, 450)
"""Speaking rates that the engine accepts."""

PITCH = (0, 99)
"""Pitch settings that the engine accepts; 50 is a voice's own pitch."""

# Values of speak_lib.h.
_OUTPUT_SYNCHRONOUS = 2
_INITIALIZE_DONT_EXIT = 0x8000
_POSITION_CHARACTER = 1
_CHARS_UTF8 = 1  # without the flags for SSML and phonemes, so that "<" and "[[" are ordinary characters
_PARAMETER_RATE = 1
_PARAMETER_PITCH = 3

_RECEIVE = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_int, ctypes.c_void_p)
_CONTROL_TO_SPACE = dict.fromkeys([*range(0x20), 0x7F], " ")  # 0x01 starts an embedded command, 0x00 ends the text
_lock = threading.Lock()


def synthesize(
    text: str, voice: str = "en-us", variant: str = "", words_per_minute: int = 160, pitch: int = 50
) -> NDArray[np.float32]:
    """Speak a text.

    The same arguments give the same samples, bit for bit, in any order of calls and in any process.

    Args:
        text: What to say; markup, phoneme brackets and control characters have no special meaning in it.
        voice: One of :func:`voices`.
        variant: One of :func:`variants`, or an empty string for the voice as it is.
        words_per_minute: Speaking rate within :data:`WORDS_PER_MINUTE`.
        pitch: Pitch within :data:`PITCH`.

    Returns:
        (T,) mono samples in [-1, 1] at :data:`ENGINE_RATE`.

    Raises:
        UserError: If espeak-ng is not installed, the voice or variant is unknown, a number is out of range, or the
            text has nothing to speak.
    """
    _check_name("voice", voice, voices())
    if variant:
        _check_name("variant", variant, variants())
    _check_range("words_per_minute", words_per_minute, WORDS_PER_MINUTE)
    _check_range("pitch", pitch, PITCH)
    name = f"{voice}+{variant}" if variant else voice
    encoded = text.translate(_CONTROL_TO_SPACE).encode() + b"\0"
    chunks: list[bytes] = []
    with _lock, _fresh_library() as library:
        # The reference must outlive the synthesis: ctypes does not keep callbacks alive.
        receive = _RECEIVE(lambda samples, count, _: _keep(chunks, samples, count))
        library.espeak_SetSynthCallback(receive)
        _succeed(library.espeak_SetVoiceByName(name.encode()), f"choosing the voice '{name}'")
        library.espeak_SetParameter(_PARAMETER_RATE, words_per_minute, 0)
        library.espeak_SetParameter(_PARAMETER_PITCH, pitch, 0)
        status = library.espeak_Synth(encoded, len(encoded), 0, _POSITION_CHARACTER, 0, _CHARS_UTF8, None, None)
        _succeed(status, f"speaking {text!r}")
        library.espeak_Synchronize()
    samples = np.frombuffer(b"".join(chunks), dtype=np.int16)
    if not samples.any():
        msg = f"The voice '{name}' finds nothing to speak in {text!r}. Give it words."
        raise UserError(msg)
    return samples.astype(np.float32) / np.float32(32768)


@cache
def voices() -> tuple[str, ...]:
    """Return the names of the installed voices (``en``, ``en-us``, ``de``, …), sorted.

    ``en`` is British English. Voices whose pronunciation dictionary is not installed are left out.

    Raises:
        UserError: If espeak-ng is not installed.
    """
    data = _data_folder()
    files = [path for path in (data / "lang").rglob("*") if path.is_file()]
    spoken = [path.name.lower() for path in files if (data / f"{_dictionary(path)}_dict").is_file()]
    return tuple(sorted(spoken))


@cache
def variants() -> tuple[str, ...]:
    """Return the names of the speaker variants (``f1``, ``m3``, ``Andy``, …), sorted; any voice takes any of them.

    Raises:
        UserError: If espeak-ng is not installed.
    """
    return tuple(sorted(path.name for path in (_data_folder() / "voices" / "!v").iterdir()))


def _dictionary(voice_file: Path) -> str:
    """Return the name of the dictionary that a voice file asks for: its own line, or its first language's."""
    lines = [line.split() for line in voice_file.read_text(encoding="utf-8").splitlines()]
    values = {words[0]: words[1] for words in reversed(lines) if len(words) > 1}
    return values.get("dictionary", values["language"].split("-")[0])


@contextmanager
def _fresh_library() -> Iterator[Any]:
    """Load and initialise the library, and unload it at the end, so that its static variables start over."""
    process = ctypes.CDLL(None)
    process.dlclose.argtypes = [ctypes.c_void_p]
    library = ctypes.CDLL(_loader().get_library_path())
    try:
        rate = library.espeak_Initialize(_OUTPUT_SYNCHRONOUS, 0, str(_data_folder()).encode(), _INITIALIZE_DONT_EXIT)
        if rate != ENGINE_RATE:
            msg = f"espeak-ng answered {rate} to its initialisation; expected its sampling rate, {ENGINE_RATE} Hz."
            raise RuntimeError(msg)
        library.espeak_ng_SetRandSeed(ctypes.c_long(1))  # of breath noise; the engine itself takes the time of day
        process.srand(1)
        yield library
    finally:
        library.espeak_Terminate()
        process.dlclose(library._handle)


def _loader() -> Any:
    try:
        import espeakng_loader
    except ModuleNotFoundError as error:
        msg = "Synthetic speech needs espeak-ng, which is not installed: pip install 'speechllm[quickstart]'."
        raise UserError(msg) from error
    return espeakng_loader


def _data_folder() -> Path:
    return Path(_loader().get_data_path())


def _keep(chunks: list[bytes], samples: int | None, count: int) -> int:
    """Copy what the engine hands over (16-bit samples; null at the end) and ask it to go on (0)."""
    if samples and count > 0:
        chunks.append(ctypes.string_at(samples, 2 * count))
    return 0


def _succeed(status: int, doing: str) -> None:
    if status != 0:
        msg = f"espeak-ng failed with status {status} when {doing}."
        raise RuntimeError(msg)


def _check_name(kind: str, given: str, allowed: Iterable[str]) -> None:
    if given not in allowed:
        msg = f"Unknown espeak-ng {kind} '{given}'.{did_you_mean(given, allowed)} Known: {', '.join(allowed)}."
        raise UserError(msg)


def _check_range(name: str, given: int, allowed: tuple[int, int]) -> None:
    low, high = allowed
    if not low <= given <= high:
        msg = f"{name}={given} is outside what espeak-ng takes. Give a number from {low} to {high}."
        raise UserError(msg)
