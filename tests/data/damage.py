"""Random damage to the files of a corpus, and what must be true of a reader that meets it."""

import random
from collections.abc import Callable, Iterator
from pathlib import Path

from speechllm.data.manifest import Tally
from speechllm.data.utterance import Utterance
from speechllm.errors import UserError

ODD = [b"\r", b"\n", b"\t", b"\x00", b'"', b'\\"', b"\xff", "\u2028".encode(), b"\x1a", b"\r\n"]


def check_damage(
    path: Path,
    seed: int,
    read: Callable[[str], tuple[list[Utterance], Tally]],
    sizes: dict[str, int],
    times: int = 15,
) -> None:
    """Damage a file in several ways, one at a time, and read each split of the corpus.

    A reader may raise UserError, or count that a list may be cut off. Otherwise a test set has its size, and what the
    others lack is counted.

    Args:
        path: A file of the corpus.
        seed: Seed of the damage.
        read: Reads a split.
        sizes: Number of rows of each split where nothing is damaged.
        times: Number of ways.
    """
    content = path.read_bytes()
    refused = 0
    for damaged in ways(content, random.Random(seed), times):
        path.write_bytes(damaged)
        for split, size in sizes.items():
            try:
                utterances, tally = read(split)
            except UserError:
                refused += 1
                continue
            if any("cut off" in reason for reason in tally.changed):
                continue
            if split in ("train", "dev"):
                assert len(utterances) + 2 * sum(tally.rejected.values()) >= size, damaged  # two lines may become one
            else:
                assert len(utterances) == size, damaged
                assert not tally.rejected
    path.write_bytes(content)
    assert refused < times * len(sizes)


def ways(content: bytes, rng: random.Random, times: int) -> Iterator[bytes]:
    """Yield a file with a byte changed, something put in, or its end cut off, though not behind a line."""
    for _ in range(times):
        at = rng.randrange(len(content))
        way = rng.randrange(3)
        if way == 0:
            yield content[:at] + bytes([rng.randrange(256)]) + content[at + 1 :]
        elif way == 1:
            yield content[:at] + rng.choice(ODD) + content[at:]
        else:
            yield content[: at - 1 if content[:at].endswith(b"\n") else at]
