"""The state of all random numbers of a process, as a checkpoint holds it."""

import random
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor


@dataclass
class RandomState:
    """The state of the global random numbers as the libraries give it, which takes microseconds.

    Attributes:
        torch: (n,) uint8, of the CPU.
        cuda: The same of each CUDA device.
        numpy: Of numpy's global generator.
        python: Of Python's.
    """

    torch: Tensor
    cuda: list[Tensor]
    numpy: Any
    python: tuple[Any, ...]


def random_state() -> RandomState:
    """Return the state of torch's (CPU and each CUDA device), numpy's and Python's global random numbers."""
    cuda = list(torch.cuda.get_rng_state_all()) if torch.cuda.is_available() else []
    return RandomState(torch.get_rng_state(), cuda, np.random.get_state(legacy=False), random.getstate())


def pack(state: RandomState) -> dict[str, Any]:
    """Return a state as plain numbers and CPU tensors, which a checkpoint holds under ``weights_only=True``."""
    generator = state.numpy
    version, words, gauss = state.python
    return {
        "torch": state.torch,
        "cuda": state.cuda,
        "numpy": {
            "key": torch.from_numpy(generator["state"]["key"].astype(np.int64)),
            "pos": int(generator["state"]["pos"]),
            "has_gauss": int(generator["has_gauss"]),
            "gauss": float(generator["gauss"]),
        },
        "python": {"version": version, "words": torch.tensor(words, dtype=torch.int64), "gauss": gauss},
    }


def unpack(packed: dict[str, Any]) -> RandomState:
    """Return the state that :func:`pack` was given."""
    numpy, python = packed["numpy"], packed["python"]
    generator = {
        "bit_generator": "MT19937",
        "state": {"key": numpy["key"].numpy().astype(np.uint32), "pos": numpy["pos"]},
        "has_gauss": numpy["has_gauss"],
        "gauss": numpy["gauss"],
    }
    words = (python["version"], tuple(python["words"].tolist()), python["gauss"])
    return RandomState(packed["torch"], packed["cuda"], generator, words)


def set_random_state(state: RandomState) -> None:
    """Go on with the random numbers where :func:`random_state` was taken."""
    torch.set_rng_state(state.torch)
    if torch.cuda.is_available():
        for device, values in zip(range(torch.cuda.device_count()), state.cuda, strict=False):
            torch.cuda.set_rng_state(values, device)
    np.random.set_state(state.numpy)
    random.setstate(state.python)


def gather_random_states(own: RandomState, processes: int) -> list[dict[str, Any]]:
    """Return the packed states of all processes, in the order of their ranks; all must call it."""
    packed = pack(own)
    if processes == 1:
        return [packed]
    states: list[Any] = [None] * processes
    torch.distributed.all_gather_object(states, packed)
    return states
