"""Random numbers that depend on what they are for, and not on the worker, process or batch that draws them."""

import hashlib
import json

import numpy as np


def generator_for(*key: int | str) -> np.random.Generator:
    """Return a generator of random numbers, the same for the same key in every process and on every machine.

    Args:
        key: What the numbers are for, such as seed, epoch and id of an utterance.
    """
    content = json.dumps([str(part) for part in key]).encode()
    digest = hashlib.blake2b(content, digest_size=16).digest()
    return np.random.Generator(np.random.PCG64(int.from_bytes(digest, "little")))
