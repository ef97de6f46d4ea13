"""The folder of a cache: what its frames are of, in plain words, and how that is compared with a recipe."""

import hashlib
import json
import os
import secrets
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from speechllm.errors import UserError
from speechllm.feature_cache.records import RecordLayout

CACHE_FILE = "cache.json"
SHARDS = "shards"
FORMAT = 1
"""Version of the files of a cache."""

ABOUT = "Frames of one frozen speech encoder, written by `speechllm cache`; a cache of another encoder is refused."


@dataclass(frozen=True)
class CacheSettings:
    """What a cache holds: everything that its frames depend on but the audio.

    Attributes:
        encoder: Registered name of the encoder.
        options: Its options that change frames, defaults included.
        features_version: Version of the encoder's code, see :class:`speechllm.encoders.base.Encoder`.
        weights: Where its weights come from and which they are: ``source`` and ``revision`` (hub), ``source``,
            ``files`` and ``digest`` (folder), or ``digest`` (random weights).
        dim: Width E of the frames.
        frame_rate: In Hz.
        min_samples: Fewest audio samples that give a frame.
        max_duration_s: Longest utterance that the encoder takes, in seconds; None where there is no limit.
        ctc_classes: Classes of its CTC head; 0 where it has none.
        ctc_blank: Class that is the blank.
        storage: One of :data:`speechllm.feature_cache.records.STORAGE`.
    """

    encoder: str
    options: dict[str, Any]
    features_version: int
    weights: dict[str, Any]
    dim: int
    frame_rate: float
    min_samples: int = 1
    max_duration_s: float | None = None
    ctc_classes: int = 0
    ctc_blank: int = 0
    storage: str = "bf16"
    format: int = field(default=FORMAT)

    @property
    def layout(self) -> RecordLayout:
        """Layout of the records."""
        return RecordLayout(self.dim, self.storage, self.ctc_classes)

    @property
    def key(self) -> str:
        """What ``Batch.features`` calls the frames."""
        text = json.dumps(asdict(self), sort_keys=True)
        return f"{self.encoder}-{hashlib.blake2b(text.encode(), digest_size=8).hexdigest()}"


def read_settings(folder: Path) -> CacheSettings | None:
    """Return what a cache holds; None where there is none.

    Raises:
        UserError: If its description is damaged, or was written by another version of the package.
    """
    path = folder / CACHE_FILE
    if not path.is_file():
        return None
    try:
        described = json.loads(path.read_text(encoding="utf-8"))
        if described.get("format") != FORMAT:
            msg = (
                f"The cache '{folder}' has format {described.get('format')}; this version of speechllm reads {FORMAT}. "
                f"Name another folder, or delete this one."
            )
            raise UserError(msg)
        return CacheSettings(**{key: value for key, value in described.items() if key != "about"})
    except (OSError, TypeError, AttributeError, json.JSONDecodeError) as error:
        msg = f"'{path}' cannot be read: {error}. Restore it from a copy, or delete the cache and fill it anew."
        raise UserError(msg) from error


def create_folder(folder: Path, settings: CacheSettings) -> CacheSettings:
    """Describe a cache that is not there yet, and return its description.

    Where several processes begin at once, the first one's stays, and is what all of them get.

    Raises:
        UserError: If the folder holds other files, or cannot be written to.
    """
    try:
        (folder / SHARDS).mkdir(parents=True, exist_ok=True)
        unfinished = folder / f"{CACHE_FILE}.{secrets.token_hex(4)}.part"
        text = json.dumps({"about": ABOUT} | asdict(settings), indent=2, ensure_ascii=False) + "\n"
        with unfinished.open("w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        try:
            os.link(unfinished, folder / CACHE_FILE)  # unlike a rename, it leaves one that is there
            unfinished.unlink()
        except FileExistsError:
            unfinished.unlink()
        except OSError:  # a file system without links
            unfinished.rename(folder / CACHE_FILE)
    except OSError as error:
        msg = f"The cache '{folder}' cannot be written: {error}. Name another folder in `cache`."
        raise UserError(msg) from error
    found = read_settings(folder)
    assert found is not None
    return found


def differences(cached: Mapping[str, Any], wanted: Mapping[str, Any], defaults: Mapping[str, Any]) -> list[str]:
    """Return where two descriptions of an encoder differ, one sentence part a field.

    Args:
        cached: Fields of the cache.
        wanted: Fields of the recipe.
        defaults: What an option is that the cache does not name, since it is newer than the cache.
    """
    found = []
    for name in sorted({*cached, *wanted}):
        was, now = cached.get(name, defaults.get(name)), wanted.get(name, defaults.get(name))
        if was != now:
            found.append(f"`{name}` is {_plain(was)} in the cache and {_plain(now)} in the recipe")
    return found


def _plain(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 100 else f"{text[:97]}…"
