"""The datamodule of a corpus in shards, on disk or behind a URL."""

import hashlib
import os
from pathlib import Path
from typing import Any

import numpy as np
from lightning.pytorch.utilities import rank_zero_info
from numpy.typing import NDArray

from speechllm.data.base import TrainingRows
from speechllm.data.exclusions import EXCLUSIONS
from speechllm.data.index import Manifest
from speechllm.data.manifest import index_path, manifest_path
from speechllm.data.prepared import PreparedDataModule
from speechllm.data.remote import Location
from speechllm.data.rows import ManifestRows, Row, Rows, Selection
from speechllm.data.shards import fetch_summary
from speechllm.errors import UserError


class ShardedDataModule(PreparedDataModule):
    """A corpus that ``speechllm prepare --shards`` wrote, for training and scoring, streamed from where it lies.

    Args:
        root: Folder of the shards, or its address: ``s3://bucket/corpus``, ``https://server/corpus``.
        tasks: Any of ``asr``, ``st`` and ``asr+st``; an utterance gives one row per task and target language.
        cache_dir: Where the manifests of remote shards are kept; the user's cache folder where not given.
        **kwargs: Options of :class:`speechllm.data.prepared.PreparedDataModule`.
    """

    def __init__(
        self,
        root: str,
        tasks: list[str] = ["st"],  # noqa: B006 (never changed, and shown by --help as it is)
        cache_dir: str | None = None,
        **kwargs: Any,
    ) -> None:
        self.location = Location(root)
        folder = Path(root)
        if not self.location.is_local:
            cache = Path(cache_dir or os.environ.get("XDG_CACHE_HOME", "~/.cache")).expanduser()
            folder = cache / "speechllm" / hashlib.sha256(self.location.url.encode()).hexdigest()[:16]
        super().__init__(manifest_dir=str(folder), tasks=tasks, **kwargs)

    def prepare_data(self) -> None:
        """Fetch the manifests of remote shards, unless they are there and have not changed.

        Raises:
            UserError: If there are no shards, or they cannot be reached.
        """
        summary = fetch_summary(self.location)
        if "shards" not in summary:
            msg = f"'{self.location.url}' holds manifests without shards. Write some: `speechllm prepare … --shards`."
            raise UserError(msg)
        if self.location.is_local:
            return
        self.manifest_dir.mkdir(parents=True, exist_ok=True)
        here = self.manifest_dir / "corpus.json"
        newest = self.location.read("corpus.json")
        if here.is_file() and here.read_bytes() == newest:
            return
        here.unlink(missing_ok=True)
        rank_zero_info(f"Fetching the manifests of '{self.location.url}' to '{self.manifest_dir}'.")
        for split in summary["shards"]:
            for path in (manifest_path(self.manifest_dir, split), index_path(self.manifest_dir, split)):
                path.write_bytes(self.location.read(path.name))
        excluded = self.location.read_if_there(EXCLUSIONS)
        if excluded:
            (self.manifest_dir / EXCLUSIONS).write_bytes(excluded)
        here.write_bytes(newest)

    def train_rows(self) -> TrainingRows:
        """Return the rows to train on, with the shards that they are in.

        Raises:
            UserError: If the manifest is absent or damaged, or nothing is left.
        """
        found = super().train_rows()
        shards = fetch_summary(Location(str(self.manifest_dir)))["shards"]["train"]
        ends = np.cumsum([shard["rows"] for shard in shards])
        found.shards = shard_starts(found.rows.utterances, ends)
        return found

    def open_rows(self, manifest: Manifest, selection: Selection, suffix: str = "") -> ManifestRows:
        """Return rows whose audio is in shards."""
        return ShardedRows(self.location.url, manifest, selection, suffix)

    def check_audio(self, rows: Rows) -> None:
        """Check that the shard of the first row is there.

        Raises:
            UserError: If it is not.
        """
        file = rows[0].utterance.audio.rpartition("/")[2].partition("#")[0]
        self.location.size(file)


class ShardedRows(ManifestRows):
    """Rows of a manifest whose audio is in shards.

    Args:
        url: Folder or address of the shards.
        manifest: The manifest.
        selection: Which rows.
        suffix: What the name of the corpus is followed by in batches.
    """

    def __init__(self, url: str, manifest: Manifest, selection: Selection, suffix: str = "") -> None:
        super().__init__(manifest, selection, suffix)
        self.url = url

    def __getitem__(self, number: int) -> Row:
        """Read a row, with the address of its audio."""
        row = super().__getitem__(number)
        row.utterance.audio = f"{self.url}/{row.utterance.audio}"
        return row


def shard_starts(utterances: NDArray[np.int64], ends: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the row that each shard begins with, and the number of rows; shards without rows are left out.

    Args:
        utterances: (N,) int64, position of each row's utterance in the manifest, rising.
        ends: (K,) int64, position in the manifest after each shard's last utterance.
    """
    starts = np.append(0, np.searchsorted(utterances, ends))
    return np.unique(np.append(starts, len(utterances)))
