"""GPUs are found by name, by nickname and by what drivers call them."""

import pytest

from speechllm.costs.gpus import GPUS, detect_gpu, find_gpu
from speechllm.errors import UserError


@pytest.mark.parametrize(
    ("given", "name"),
    [
        ("H200", "H200"),
        ("h100", "H100"),
        ("a100", "A100-80GB"),
        ("A100 40GB", "A100-40GB"),
        ("mi300x", "MI300X"),
        ("4090", "RTX4090"),
        ("NVIDIA H100 80GB HBM3", "H100"),
        ("NVIDIA H100 PCIe", "H100-PCIe"),
        ("NVIDIA H100 NVL", "H100-NVL"),
        ("NVIDIA H200", "H200"),
        ("NVIDIA H200 NVL", "H200-NVL"),
        ("NVIDIA GH200 480GB", "GH200"),
        ("NVIDIA GH200 144G HBM3e", "GH200-144GB"),
        ("NVIDIA A100-SXM4-80GB", "A100-80GB"),
        ("NVIDIA A100-SXM4-40GB", "A100-40GB"),
        ("NVIDIA A100-PCIE-40GB", "A100-40GB"),
        ("NVIDIA A100 80GB PCIe", "A100-80GB"),
        ("Tesla V100-SXM2-16GB", "V100-16GB"),
        ("Tesla V100-SXM2-32GB", "V100-32GB"),
        ("NVIDIA B200", "B200"),
        ("NVIDIA GB200", "GB200"),
        ("NVIDIA L40S", "L40S"),
        ("NVIDIA L4", "L4"),
        ("NVIDIA A40", "A40"),
        ("NVIDIA RTX A6000", "A6000"),
        ("NVIDIA GeForce RTX 4090", "RTX4090"),
        ("AMD Instinct MI300X", "MI300X"),
        ("AMD Instinct MI250X", "MI250X"),
    ],
)
def test_names(given, name):
    assert find_gpu(given).name == name


@pytest.mark.parametrize("given", ["NVIDIA GeForce RTX 4090 Laptop GPU", "NVIDIA RTX 6000 Ada Generation", "cpu", ""])
def test_what_is_not_known_is_not_guessed(given):
    assert detect_gpu(given) is None


def test_unknown_name():
    with pytest.raises(UserError, match=r"Unknown GPU 'H1000'\. Did you mean 'H100'\? Known: .*MI300X"):
        find_gpu("H1000")


def test_measured_and_data_sheet_are_kept_apart():
    h200, h100 = GPUS["H200"], GPUS["H100"]
    assert (h200.bf16_tflops, h200.measured_tflops, h200.ceiling_tflops) == (989, 790, 790)
    assert (h100.measured_tflops, h100.ceiling_tflops) == (None, pytest.approx(791.2))
    assert all(gpu.ceiling_tflops < gpu.bf16_tflops for gpu in GPUS.values())
