"""What a worker does to write one shard."""

import io
import json
import tarfile
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import soundfile

from speechllm.audio import AudioError, read_audio
from speechllm.batch import SAMPLE_RATE
from speechllm.data.manifest import open_manifest
from speechllm.data.remote import Location


@dataclass(frozen=True)
class ShardJob:
    """One shard to write.

    Attributes:
        folder: Folder of the manifests.
        split: Name of the split.
        rows: Rows of the manifest, in the shard's order.
        url: Folder or address that the shard goes to.
        file: Name of the shard.
        mark: What tells these rows of this corpus from others.
    """

    folder: str
    split: str
    rows: list[int]
    url: str
    file: str
    mark: str

    @property
    def record(self) -> str:
        """Name of the file that says what the shard holds."""
        return f"{Path(self.file).stem}.json"


@dataclass
class ShardRecord:
    """What a shard holds.

    Attributes:
        mark: Mark of its job.
        entries: For each row the first byte and the number of bytes of its audio in the tar, and its samples at 16 kHz;
            zeros for a clip that cannot be read.
        unreadable: What is wrong with each of those.
    """

    mark: str
    entries: list[tuple[int, int, int]] = field(default_factory=list)
    unreadable: list[str] = field(default_factory=list)

    def to_json(self) -> bytes:
        """Return the record as JSON."""
        return json.dumps(asdict(self), ensure_ascii=False).encode("utf-8", "backslashreplace")

    @classmethod
    def from_json(cls, content: bytes) -> "ShardRecord":
        """Return the record that :meth:`to_json` wrote.

        Raises:
            ValueError: If it is not JSON.
            TypeError: If it is something else.
        """
        found = json.loads(content)
        entries = [(int(start), int(size), int(samples)) for start, size, samples in found["entries"]]
        return cls(str(found["mark"]), entries, list(found["unreadable"]))


def write_shard(job: ShardJob) -> ShardRecord:
    """Decode a shard's clips and write it, its record last.

    Raises:
        UserError: If the manifest cannot be read or the shard cannot be written.
    """
    manifest = open_manifest(Path(job.folder), job.split)
    record = ShardRecord(job.mark)
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for row in job.rows:
            utterance = manifest[row]
            try:
                samples = read_audio(utterance.audio, utterance.offset_s, utterance.duration_s, utterance.channel)
            except AudioError as error:
                record.unreadable.append(f"{utterance.id}: {error}")
                record.entries.append((0, 0, 0))
                continue
            audio = io.BytesIO()
            soundfile.write(audio, samples.numpy(), SAMPLE_RATE, format="FLAC", subtype="PCM_16")
            start = _add(tar, f"{row:09d}.flac", audio.getvalue())
            record.entries.append((start, len(audio.getvalue()), len(samples)))
            text: dict[str, Any] = utterance.to_row()
            _add(tar, f"{row:09d}.json", json.dumps(text, ensure_ascii=False).encode("utf-8", "backslashreplace"))
    location = Location(job.url)
    location.write(job.file, buffer.getvalue())
    location.write(job.record, record.to_json())
    return record


def _add(tar: tarfile.TarFile, name: str, content: bytes) -> int:
    """Add a file and return where its content begins."""
    entry = tarfile.TarInfo(name)
    entry.size = len(content)
    start: int = tar.offset + tarfile.BLOCKSIZE  # a header of one block, for names as short as these
    tar.addfile(entry, io.BytesIO(content))
    return start
