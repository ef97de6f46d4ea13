"""The work of ``speechllm cache``: what is left to encode, and the processes that encode it."""

import queue
import sys
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from speechllm.errors import UserError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from speechllm.data.rows import Rows
    from speechllm.feature_cache.filling import Counts
    from speechllm.feature_cache.folder import CacheSettings

MAX_UTTERANCES = 512
"""Largest number of utterances that are encoded at once."""

POLL_S = 0.2
"""How often the processes are looked after, in seconds."""


@dataclass
class Job:
    """What the processes of one machine encode.

    Attributes:
        spec: Spec of the encoder, without its cache.
        state: Its weights, where they are random; None where its name brings them.
        folder: Folder of the cache.
        settings: What it holds.
        rows: What is left.
        file_keys: (N, 16) uint8, the key of each row's file; zeros where it has none.
        batch_seconds: Seconds of audio encoded at once.
        devices: Device of each process.
        num_workers: Processes that read audio for each of them.
    """

    spec: dict[str, Any]
    state: dict[str, Any] | None
    folder: Path
    settings: "CacheSettings"
    rows: "Rows"
    file_keys: "NDArray[np.uint8]"
    batch_seconds: float
    devices: list[str]
    num_workers: int


def look_up(
    rows: "Rows", folder: Path, share: tuple[int, int], progress: Callable[[int], Any]
) -> "tuple[NDArray[np.int64], NDArray[np.uint8]]":
    """Return which rows of this machine's share a cache does not know by their files, and the keys of those files.

    Args:
        rows: Rows, an utterance each.
        folder: Folder of the cache, which is described already.
        share: This machine's part and the number of parts.
        progress: Told of each row.
    """
    import hashlib

    import numpy as np

    from speechllm.feature_cache.audio_keys import KEY_BYTES, file_key
    from speechllm.feature_cache.store import FeatureStore

    store = FeatureStore(folder)
    part, parts = share
    left: list[int] = []
    keys: list[bytes] = []
    seen: set[bytes] = set()
    for number in range(len(rows)):
        progress(1)
        given = rows[number].utterance
        place = f"{given.audio}\n{given.offset_s}\n{given.duration_s}\n{given.channel}"
        name = hashlib.blake2b(place.encode("utf-8", "surrogatepass"), digest_size=KEY_BYTES).digest()
        if name in seen or int.from_bytes(name[:4], "big") % parts != part:
            continue
        seen.add(name)
        key = file_key(given.audio, given.offset_s, given.duration_s, given.channel)
        if key is None or store.find_file(key) is None:
            left.append(number)
            keys.append(key or bytes(KEY_BYTES))
    return np.array(left, np.int64), np.frombuffer(b"".join(keys), np.uint8).reshape(-1, KEY_BYTES)


def run_job(job: Job, report: "Callable[[Counts], Any]") -> None:
    """Encode what is left, in one process a device.

    Args:
        job: What there is to do.
        report: Told what came of each batch.

    Raises:
        UserError: If a process met something that the user has to see to.
        RuntimeError: If one failed.
    """
    if len(job.devices) == 1:
        fill_share(job, 0, report)
        return
    import torch.multiprocessing as mp

    context = mp.get_context("spawn")
    messages: Any = context.Queue()
    processes = [
        context.Process(target=_process, args=(job, rank, messages), name=f"cache-{rank}")
        for rank in range(len(job.devices))
    ]
    for process in processes:
        process.start()
    try:
        left = len(processes)
        while left:
            try:
                kind, content = messages.get(timeout=POLL_S)
            except queue.Empty:
                _check_alive(processes)
                continue
            if kind == "counts":
                report(content)
            elif kind == "done":
                left -= 1
            else:
                raise UserError(content) if kind == "user error" else RuntimeError(content)
    finally:
        for process in processes:
            process.terminate() if sys.exc_info()[0] else process.join()


def _check_alive(processes: list[Any]) -> None:
    for process in processes:
        if process.exitcode not in (None, 0):
            msg = (
                f"The process {process.name} ended with status {process.exitcode}, maybe for want of memory. What was "
                f"finished stays: run the command again, with a smaller `--batch_seconds` if it happens again."
            )
            raise UserError(msg)


def _process(job: Job, rank: int, messages: Any) -> None:
    """Encode one process's share, and tell the first process what comes of it."""
    try:
        fill_share(job, rank, lambda counts: messages.put(("counts", counts)))
        messages.put(("done", None))
    except UserError as error:
        messages.put(("user error", str(error)))
    except Exception:
        messages.put(("error", traceback.format_exc()))


def fill_share(job: Job, rank: int, report: "Callable[[Counts], Any]") -> None:
    """Encode one process's share of what is left.

    Args:
        job: What there is to do.
        rank: Number of this process.
        report: Told what came of each batch.
    """
    import torch
    from torch.utils.data import DataLoader

    from speechllm.data.dataset import SpeechDataset
    from speechllm.data.sampling import EvaluationSampler
    from speechllm.feature_cache.filling import CacheFiller
    from speechllm.feature_cache.store import FeatureStore
    from speechllm.worker_pool import available_cores

    device = torch.device(job.devices[rank])
    if device.type == "cpu" and len(job.devices) > 1:
        torch.set_num_threads(max(1, available_cores() // len(job.devices)))
    encoder = load_encoder(job, device)
    durations_s = job.rows.durations_s
    sampler = EvaluationSampler(durations_s, job.batch_seconds, MAX_UTTERANCES, rank, len(job.devices))
    loader = DataLoader(
        SpeechDataset(job.rows, keep_unreadable=True),
        sampler=sampler,
        batch_size=None,
        num_workers=job.num_workers,
        pin_memory=device.type == "cuda",
    )

    def encode(audio: Any, lengths: Any) -> Any:
        with torch.inference_mode():
            return encoder(audio.to(device, non_blocking=True), lengths)

    filler = CacheFiller(job.folder, job.settings, encode, FeatureStore(job.folder))
    batches = (batch for batch in loader if len(batch))
    for counts in filler.fill(batches, lambda batch: [_file_key(job, row) for row in batch.rows]):
        report(counts)


def load_encoder(job: Job, device: Any) -> Any:
    """Return the encoder on a device.

    Raises:
        UserError: If it is not the one that the cache is of, a newer revision for instance.
    """
    import speechllm.encoders  # noqa: F401  # registers them
    from speechllm.encoders.cached import refuse, settings_differences
    from speechllm.registry import ENCODERS

    encoder = ENCODERS.build(job.spec)
    refuse(job.folder, settings_differences(job.spec, job.settings))
    if job.state is not None:
        encoder.load_state_dict(job.state)
    return encoder.eval().to(device)


def _file_key(job: Job, row: int) -> bytes | None:
    key = job.file_keys[row].tobytes()
    return key if any(key) else None
