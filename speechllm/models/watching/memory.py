"""How much memory a process takes: of its GPU, or of the machine where it has none."""

import resource
import sys
from pathlib import Path

import torch

GIB = 2**30


def start_peak(device: torch.device) -> None:
    """Measure the peak from now on; that of a process on the CPU counts from its start."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)


def memory_gib(device: torch.device) -> tuple[float, float]:
    """Return the memory in use now, and the peak, in GiB.

    Args:
        device: A GPU, whose tensors count; for any other device it is what the process holds of the machine's memory.
    """
    if device.type == "cuda":
        return torch.cuda.memory_allocated(device) / GIB, torch.cuda.max_memory_allocated(device) / GIB
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    status = Path("/proc/self/statm")
    used = int(status.read_text().split()[1]) * resource.getpagesize() if status.is_file() else peak
    return used / GIB, peak / GIB
