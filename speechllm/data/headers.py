"""Headers of audio files, many at a time."""

from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice

from speechllm.audio import AudioError, AudioInfo, audio_info


def read_headers(paths: Iterable[str]) -> Iterator[AudioInfo | None]:
    """Yield what each clip's header says, None where it cannot be read; many at a time, as disks are slow."""

    def info(path: str) -> AudioInfo | None:
        try:
            return audio_info(path)
        except AudioError:
            return None

    remaining = iter(paths)
    with ThreadPoolExecutor(max_workers=8) as pool:
        while some := list(islice(remaining, 256)):
            yield from pool.map(info, some)
