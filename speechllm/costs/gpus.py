"""GPUs by name: how much they compute at best, how much memory they have.

Sources: the data sheets of NVIDIA (V100, A100, A40, A10, A30, RTX A6000, L4, L40S, H100, H200, GH200, HGX B200, GB200;
the white papers of GA102 and AD102 for the RTX 3090 and 4090, at fp32 accumulation) and AMD (MI210, MI250X, MI300X,
MI325X). NVIDIA prints most rates with structured sparsity, which training does not have: these are the halves. A V100
has no bf16; its rate is that of fp16. A program sees each die of an MI250X as a GPU of its own, and so does this table.
"""

import re
from dataclasses import dataclass

from speechllm.errors import UserError, did_you_mean

REACHABLE = 0.8
"""Share of the data sheet's rate that a large matrix product reaches where nobody measured: as on an H200."""


@dataclass(frozen=True)
class Gpu:
    """A GPU.

    Attributes:
        name: Name, as commands take it.
        bf16_tflops: Dense bf16 rate of the data sheet, in TFLOP/s: what model FLOP utilisation is a share of.
        memory_gib: Memory that a program sees, in GiB, about.
        bandwidth_gb_s: Bandwidth of that memory, in GB/s.
        measured_tflops: What large matrix products in bf16 were measured to reach, in TFLOP/s; None where nobody did.
    """

    name: str
    bf16_tflops: float
    memory_gib: float
    bandwidth_gb_s: float
    measured_tflops: float | None = None

    @property
    def ceiling_tflops(self) -> float:
        """What matrix products can reach, in TFLOP/s: as measured, else :data:`REACHABLE` of the data sheet."""
        return REACHABLE * self.bf16_tflops if self.measured_tflops is None else self.measured_tflops


GPUS = {
    gpu.name: gpu
    for gpu in (
        Gpu("V100-16GB", 125, 15.8, 900),
        Gpu("V100-32GB", 125, 31.7, 900),
        Gpu("A10", 125, 22.1, 600),
        Gpu("A30", 165, 23.6, 933),
        Gpu("A40", 149.7, 44.4, 696),
        Gpu("A6000", 154.8, 47.4, 768),
        Gpu("RTX3090", 71, 23.6, 936),
        Gpu("A100-40GB", 312, 39.4, 1555),
        Gpu("A100-80GB", 312, 79.2, 2039),
        Gpu("L4", 121, 22.0, 300),
        Gpu("L40S", 362, 44.4, 864),
        Gpu("RTX4090", 165.2, 23.5, 1008),
        Gpu("H100", 989, 79.1, 3350),
        Gpu("H100-PCIe", 756, 79.1, 2000),
        Gpu("H100-NVL", 835, 93.1, 3900),
        Gpu("H200", 989, 139.8, 4800, measured_tflops=790),
        Gpu("H200-NVL", 835, 139.8, 4800),
        Gpu("GH200", 989, 94.5, 4000),
        Gpu("GH200-144GB", 989, 139.8, 4900),
        Gpu("B200", 2250, 178.4, 8000),
        Gpu("GB200", 2500, 184.0, 8000),
        Gpu("MI210", 181, 64.0, 1638),
        Gpu("MI250X", 191.5, 64.0, 1638),
        Gpu("MI300X", 1307, 191.9, 5300),
        Gpu("MI325X", 1307, 255.9, 6000),
    )
}
"""The GPUs that are known, by name."""

ALIASES = {
    "V100": "V100-32GB",
    "A100": "A100-80GB",
    "A100-SXM": "A100-80GB",
    "A100-PCIe": "A100-80GB",
    "RTXA6000": "A6000",
    "4090": "RTX4090",
    "3090": "RTX3090",
    "H100-SXM": "H100",
    "H200-SXM": "H200",
    "GH200-96GB": "GH200",
}
"""Other names of GPUs."""

_SEPARATORS = re.compile(r"[\s_-]+")


def find_gpu(name: str) -> Gpu:
    """Return the GPU called ``name``; case, spaces, hyphens and the maker's name do not matter.

    Args:
        name: A name of :data:`GPUS` or :data:`ALIASES`, or what a driver calls the device.

    Raises:
        UserError: If it is not known; the message gives the nearest name and all of them.
    """
    found = detect_gpu(name)
    if found is None:
        names = [*GPUS, *ALIASES]
        hint = did_you_mean(name.upper(), names)
        msg = f"Unknown GPU '{name}'.{hint} Known: {', '.join(GPUS)}."
        raise UserError(msg)
    return found


def detect_gpu(device_name: str) -> Gpu | None:
    """Return the GPU that a driver calls ``device_name`` (``NVIDIA H100 80GB HBM3``); None where it is not known."""
    by_plain_name = {_plain(name): GPUS[target] for name, target in ALIASES.items()}
    by_plain_name |= {_plain(name): gpu for name, gpu in GPUS.items()}
    plain = _plain(device_name)
    if plain in by_plain_name:
        return by_plain_name[plain]
    words = _words(device_name)
    for model in ("gb200", "b200", "gh200", "h200", "h100", "a100", "v100", "mi325x", "mi300x", "mi250x", "mi210"):
        if model in words:
            return _variant(model, words, by_plain_name)
    for model in ("l40s", "l4", "a6000", "a40", "a30", "a10", "4090", "3090"):
        if model in words and not {"ada", "laptop", "d", "ti"} & words:
            return by_plain_name[model]
    return None


def _variant(model: str, words: set[str], by_plain_name: dict[str, Gpu]) -> Gpu:
    """Return the GPU of a model that words such as a size of memory or a socket tell from its siblings."""
    if model == "gh200" and words & {"144gb", "144g", "hbm3e"}:
        return GPUS["GH200-144GB"]
    if model == "a100" and "40gb" in words:
        return GPUS["A100-40GB"]
    if model == "v100" and "16gb" in words:
        return GPUS["V100-16GB"]
    socket = next((socket for socket in ("nvl", "pcie") if socket in words and f"{model}{socket}" in by_plain_name), "")
    return by_plain_name[model + socket]


def _words(name: str) -> set[str]:
    return set(_SEPARATORS.split(name.lower()))


def _plain(name: str) -> str:
    maker = {"nvidia", "amd", "instinct", "tesla", "geforce"}
    return "".join(word for word in _SEPARATORS.split(name.lower()) if word not in maker)
