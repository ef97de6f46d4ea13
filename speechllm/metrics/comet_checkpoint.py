"""COMET checkpoints: which folder a name stands for, what its settings say, and where its encoder's files are."""

import hashlib
import re
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from speechllm.errors import UserError

SETTINGS_FILE = "hparams.yaml"
WEIGHTS_FILE = "checkpoints/model.ckpt"
ENCODER_FILES = ("config.json", "tokenizer.json")
HUB_NAME = re.compile(r"(\w[\w.-]*/)?\w[\w.-]*")


@dataclass(frozen=True)
class CometCheckpoint:
    """A checkpoint of COMET on disk.

    Attributes:
        name: Its name on the Hugging Face hub, or that of its folder.
        folder: Folder with ``hparams.yaml`` and ``checkpoints/model.ckpt``.
        encoder: Folder with ``config.json`` and ``tokenizer.json`` of the pretrained encoder.
        fingerprint: Eight hexadecimal digits that tell its weights from others.
        settings: Contents of ``hparams.yaml``.
    """

    name: str
    folder: Path
    encoder: Path
    fingerprint: str
    settings: Mapping[str, Any] = field(compare=False)

    @property
    def weights(self) -> Path:
        """File of the weights."""
        return self.folder / WEIGHTS_FILE


def find_checkpoint(model: str, encoder: str | None = None) -> CometCheckpoint:
    """Return a checkpoint; what is not on this machine is downloaded, if it has a name on the Hugging Face hub.

    Args:
        model: Folder, or name on the hub.
        encoder: Folder of the pretrained encoder, or its name on the hub; that of the settings where not given.

    Raises:
        UserError: If there is no such checkpoint or encoder, a file of it is missing or cannot be read, or the hub
            cannot be reached.
    """
    given = Path(model).expanduser()
    if given.is_dir():
        folder, name = given, given.resolve().name
        if missing := [file for file in (SETTINGS_FILE, WEIGHTS_FILE) if not (given / file).is_file()]:
            msg = (
                f"The COMET checkpoint '{model}' has no {' and no '.join(missing)}. Give the folder that holds "
                f"{SETTINGS_FILE} and {WEIGHTS_FILE}."
            )
            raise UserError(msg)
    else:
        files = [find_hub_file("COMET checkpoint", model, file) for file in (SETTINGS_FILE, WEIGHTS_FILE)]
        folder, name = files[0].parent, model
    settings = read_settings(folder / SETTINGS_FILE)
    return CometCheckpoint(
        name=name,
        folder=folder,
        encoder=_find_encoder(encoder, folder, settings),
        fingerprint=fingerprint(folder / WEIGHTS_FILE),
        settings=settings,
    )


def find_hub_file(what: str, name: str, file: str) -> Path:
    """Return a file of a repository of the Hugging Face hub, downloaded if this machine does not have it.

    Args:
        what: What the repository is, for messages.
        name: Name of the repository.
        file: Path within it.

    Raises:
        UserError: If it is not there, or the hub cannot be reached.
    """
    if not HUB_NAME.fullmatch(name):
        msg = f"There is no {what} '{name}'. Give a folder, or a name on the Hugging Face hub."
        raise UserError(msg)
    from huggingface_hub import hf_hub_download, try_to_load_from_cache
    from huggingface_hub.errors import HfHubHTTPError

    cached = try_to_load_from_cache(name, file)
    if isinstance(cached, str):
        return Path(cached)
    try:
        return Path(hf_hub_download(name, file))
    except (OSError, ValueError, HfHubHTTPError) as error:
        reason = str(error).strip().split("\n")[0]
        msg = (
            f"The {what} '{name}' is no folder, and {file} is neither in the Hugging Face cache of this machine nor "
            f"can it be downloaded: {reason} Check the name, or run `hf download {name}` where there is a network, "
            f"copy the folder, and give its path."
        )
        raise UserError(msg) from error


def read_settings(path: Path) -> dict[str, Any]:
    """Return the settings in a ``hparams.yaml``; a tag of Python's is read as the plain data behind it.

    Raises:
        UserError: If the file is not YAML, or holds no mapping.
    """
    try:
        with path.open(encoding="utf-8") as file:
            settings = yaml.load(file, Loader=_PlainLoader)
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        msg = f"{path}: the settings of the COMET checkpoint cannot be read: {error}"
        raise UserError(msg) from error
    if not isinstance(settings, dict) or "class_identifier" not in settings:
        msg = f"{path}: these are not the settings of a COMET checkpoint, which name a `class_identifier`."
        raise UserError(msg)
    return settings


class _PlainLoader(yaml.SafeLoader):
    """YAML without Python: whatever its tag, a node becomes a list, a dictionary or a text."""


def _construct_plain(loader: _PlainLoader, tag: str, node: yaml.Node) -> Any:
    if isinstance(node, yaml.MappingNode):
        return loader.construct_mapping(node, deep=True)
    if isinstance(node, yaml.SequenceNode):
        return loader.construct_sequence(node, deep=True)
    return loader.construct_scalar(node)  # type: ignore[arg-type]  # the third and last kind of node


_PlainLoader.add_multi_constructor("", _construct_plain)


def _find_encoder(encoder: str | None, folder: Path, settings: Mapping[str, Any]) -> Path:
    """Return the folder of the encoder's files: the one given, else the one that the settings name."""
    name = encoder or str(settings.get("pretrained_model", ""))
    given = Path(name).expanduser()
    places = [given] if encoder or given.is_absolute() else [folder / name, folder.parent / name]
    for place in places if name else []:
        if place.is_dir():
            if missing := [file for file in ENCODER_FILES if not (place / file).is_file()]:
                msg = f"The COMET encoder '{place}' has no {' and no '.join(missing)}."
                raise UserError(msg)
            return place
    try:
        files = [find_hub_file("COMET encoder", name, file) for file in ENCODER_FILES]
        return files[0].parent
    except UserError as error:
        if encoder:
            raise
        msg = (
            f"{folder / SETTINGS_FILE} names the encoder '{name}', of which configuration and tokenizer are needed. "
            f"{error} Its folder is given by `encoder`."
        )
        raise UserError(msg) from error


def fingerprint(weights: Path) -> str:
    """Return eight hexadecimal digits that tell a checkpoint file from others.

    A zip archive, which torch has written since version 1.6, lists the CRC-32 of each of its records, so that the
    weights need not be read.

    Raises:
        UserError: If the file is cut off or cannot be read.
    """
    try:
        with weights.open("rb") as file:
            if file.read(2) != b"PK":
                return hashlib.file_digest(file, "sha256").hexdigest()[:8]
        with zipfile.ZipFile(weights) as archive:
            records = sorted((entry.filename.partition("/")[2], entry.CRC) for entry in archive.infolist())
    except (OSError, zipfile.BadZipFile) as error:
        msg = f"{weights}: the weights cannot be read: {error}. Is the file complete?"
        raise UserError(msg) from error
    return hashlib.sha256(repr(records).encode()).hexdigest()[:8]
