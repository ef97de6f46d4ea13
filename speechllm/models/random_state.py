"""The state of all random numbers of a process, as a checkpoint holds it."""

import random
from typing import Any

import numpy as np
import torch


def random_state() -> dict[str, Any]:
    """Return the state of torch's (CPU and each CUDA device), numpy's and Python's global random numbers.

    Plain numbers and CPU tensors, so that a checkpoint with it is loaded under ``weights_only=True``.
    """
    version, words, gauss = random.getstate()
    generator = np.random.get_state(legacy=False)
    return {
        "torch": torch.get_rng_state(),
        "cuda": list(torch.cuda.get_rng_state_all()) if torch.cuda.is_available() else [],
        "numpy": {
            "key": torch.from_numpy(generator["state"]["key"].astype(np.int64)),
            "pos": int(generator["state"]["pos"]),
            "has_gauss": int(generator["has_gauss"]),
            "gauss": float(generator["gauss"]),
        },
        "python": {"version": version, "words": torch.tensor(words, dtype=torch.int64), "gauss": gauss},
    }


def set_random_state(state: dict[str, Any]) -> None:
    """Go on with the random numbers where :func:`random_state` was taken."""
    torch.set_rng_state(state["torch"])
    if torch.cuda.is_available():
        for device, values in zip(range(torch.cuda.device_count()), state["cuda"], strict=False):
            torch.cuda.set_rng_state(values, device)
    numpy = state["numpy"]
    np.random.set_state(
        {
            "bit_generator": "MT19937",
            "state": {"key": numpy["key"].numpy().astype(np.uint32), "pos": numpy["pos"]},
            "has_gauss": numpy["has_gauss"],
            "gauss": numpy["gauss"],
        }
    )
    python = state["python"]
    random.setstate((python["version"], tuple(python["words"].tolist()), python["gauss"]))


def gather_random_states(own: dict[str, Any], processes: int) -> list[dict[str, Any]]:
    """Return the states of all processes, in the order of their ranks; all must call it."""
    if processes == 1:
        return [own]
    states: list[Any] = [None] * processes
    torch.distributed.all_gather_object(states, own)
    return states
