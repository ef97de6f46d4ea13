"""Shards: a corpus as tar files of some hundred utterances each, read from beginning to end from disk or a store.

A shard is a plain tar in the layout of WebDataset: ``<key>.flac`` (16 kHz mono, 16 bit) and ``<key>.json`` (the line of
the manifest) for each utterance. Beside the shards lie manifests as every corpus has them, in the order of the shards,
whose audio is named ``<shard>#<first byte>+<bytes>``. Rows of ``train`` are shuffled, those of other splits stay.
"""

import hashlib
import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from tqdm import tqdm

from speechllm.batch import SAMPLE_RATE
from speechllm.data.exclusions import EXCLUSIONS
from speechllm.data.index import Manifest, ManifestIndex, ManifestWriter
from speechllm.data.manifest import index_path, manifest_path, open_manifest
from speechllm.data.remote import Location
from speechllm.data.shard_writing import ShardJob, ShardRecord, write_shard
from speechllm.data.utterance import Utterance
from speechllm.errors import UserError
from speechllm.worker_pool import Crash, WorkerPool

SHARD_UTTERANCES = 500
"""Utterances of a shard, unless said otherwise: some 45 MB of read speech."""


@dataclass(frozen=True)
class Shard:
    """A shard: its file, and how many rows of the manifest it holds."""

    file: str
    rows: int


def write_shards(
    folder: Path, url: str, shard_utterances: int = SHARD_UTTERANCES, workers: int = 2, seed: int = 42
) -> dict[str, Any]:
    """Write a prepared corpus as shards; shards that an interrupted call wrote stay.

    A clip of ``train`` that cannot be read is left out and counted; one of another split stays without audio.

    Args:
        folder: Folder of the manifests.
        url: Where to: a folder, or an address that fsspec can write to.
        shard_utterances: Utterances of a shard.
        workers: Processes that decode and encode.
        seed: Seed of the order of ``train``.

    Returns:
        The ``corpus.json`` of the shards.

    Raises:
        UserError: If the manifests are not there, or the place cannot be written to.
    """
    if shard_utterances < 1:
        msg = f"A shard needs at least one utterance, but `shard_utterances` is {shard_utterances}."
        raise UserError(msg)
    summary = fetch_summary(Location(str(folder)))
    location = Location(url)
    summary["shards"] = {}
    with TemporaryDirectory() as scratch, WorkerPool(write_shard, workers) as pool:
        for split, about in summary["splits"].items():
            manifest = open_manifest(folder, split)
            order = np.arange(len(manifest))
            if split == "train":
                order = np.random.default_rng(seed).permutation(order)
            jobs = list(_jobs(folder, split, order, url, shard_utterances, summary["fingerprint"]))
            records = list(_written(jobs, location, pool, f"{summary['corpus']} {split}"))
            unreadable = _write_manifest(manifest, split, jobs, records, Path(scratch))
            for written in (manifest_path(Path(scratch), split), index_path(Path(scratch), split)):
                location.write(written.name, written.read_bytes())
            index = ManifestIndex.load(index_path(Path(scratch), split))
            about |= {"utterances": len(index), "hours": float(index.durations_s.sum()) / 3600}
            key = "rejected" if split == "train" else "changed"
            about[key] = dict(Counter(about[key]) + unreadable)
            kept = [_rows_kept(split, record) for record in records]
            summary["shards"][split] = [asdict(Shard(job.file, rows)) for job, rows in zip(jobs, kept, strict=True)]
    if (folder / EXCLUSIONS).is_file():
        location.write(EXCLUSIONS, (folder / EXCLUSIONS).read_bytes())
    location.write("corpus.json", (json.dumps(summary, indent=2, ensure_ascii=False) + "\n").encode())
    return summary


def fetch_summary(location: Location) -> dict[str, Any]:
    """Return the ``corpus.json`` of a folder of manifests or shards.

    Raises:
        UserError: If it is not there, or is not one.
    """
    try:
        summary = json.loads(location.read("corpus.json"))
        found = {key: summary[key] for key in ("corpus", "version", "fingerprint", "splits")}
    except (ValueError, KeyError, TypeError) as error:
        msg = f"'{location.url}/corpus.json' does not describe a prepared corpus: {error!r}. Prepare the corpus anew."
        raise UserError(msg) from error
    return dict(summary | found)


def _jobs(
    folder: Path, split: str, order: Any, url: str, shard_utterances: int, fingerprint: str
) -> Iterator[ShardJob]:
    for number, first in enumerate(range(0, len(order), shard_utterances)):
        rows = order[first : first + shard_utterances].tolist()
        mark = hashlib.sha256(json.dumps([fingerprint, split, rows]).encode()).hexdigest()
        yield ShardJob(str(folder), split, rows, url, f"{split}-{number:06d}.tar", mark)


def _written(
    jobs: list[ShardJob], location: Location, pool: WorkerPool[ShardJob, ShardRecord], what: str
) -> Iterator[ShardRecord]:
    """Yield the record of each shard, of those that are there already first read and then believed."""
    there = {job.file: record for job in jobs if (record := _record(job, location)) is not None}
    missing = [job for job in jobs if job.file not in there]
    progress = tqdm(total=sum(len(job.rows) for job in jobs), desc=f"{what} shards", unit=" utterances")
    with progress:
        made = pool.map(missing)
        for job in jobs:
            found = there[job.file] if job.file in there else next(made)[1]
            if isinstance(found, Crash):
                msg = f"The shard '{job.file}' cannot be written: {found.reason}. `--check` finds the clip at fault."
                raise UserError(msg)
            progress.update(len(job.rows))
            yield found


def _record(job: ShardJob, location: Location) -> ShardRecord | None:
    """Return the record of a shard that an earlier call wrote of the same rows."""
    try:
        record = ShardRecord.from_json(location.read_if_there(job.record))
    except (ValueError, TypeError):
        return None
    return record if record.mark == job.mark else None


def _rows_kept(split: str, record: ShardRecord) -> int:
    return sum(size > 0 or split != "train" for _, size, _ in record.entries)


def _write_manifest(
    manifest: Manifest, split: str, jobs: list[ShardJob], records: list[ShardRecord], scratch: Path
) -> Counter[str]:
    """Write the manifest of a split in the order of its shards; return how many clips have no audio there."""
    missing: Counter[str] = Counter()
    path = manifest_path(scratch, split)
    with path.open("wb") as file:
        writer = ManifestWriter(file, path)
        for job, record in zip(jobs, records, strict=True):
            for row, (start, size, samples) in zip(job.rows, record.entries, strict=True):
                utterance = manifest[row]
                if not size:
                    missing["clip cannot be read" + ("" if split == "train" else ", and counts as silence")] += 1
                if size or split != "train":
                    writer.write(_in_shard(utterance, f"{job.file}#{start}+{size}", samples))
        writer.finish().save(index_path(scratch, split))
    return missing


def _in_shard(utterance: Utterance, audio: str, samples: int) -> Utterance:
    utterance.audio, utterance.offset_s, utterance.channel = audio, 0.0, None
    utterance.sampling_rate = SAMPLE_RATE
    utterance.duration_s = utterance.recording_duration_s = samples / SAMPLE_RATE if samples else utterance.duration_s
    return utterance
