"""Paper D's projector: its parameters, its published form on whole utterances, and the frames that it drops."""

import pytest
import torch
from torch import nn

from speechllm.adapters.projector import ProjectorAdapter
from speechllm.batch import Frames
from tests.tiny import tiny_adapter


@pytest.mark.parametrize(
    ("in_dim", "parameters", "millions"),
    [
        (1280, 35_735_552, "35.74"),
        (2048, 87_054_848, "87.05"),
        (3328, 222_394_368, "222.39"),
        (4096, 333_482_496, "333.48"),
    ],
)
def test_parameters_of_the_table(in_dim, parameters, millions):
    """Spec §11.2, with Qwen2.5-7B's width 3584."""
    with torch.device("meta"):
        adapter = ProjectorAdapter(in_dim, 3584)
    count = sum(p.numel() for p in adapter.parameters())
    assert count == parameters
    assert f"{count / 1e6:.2f}" == millions


@pytest.mark.parametrize(
    ("frames", "positions"), [(1, 1), (3, 1), (4, 1), (7, 1), (8, 2), (9, 2), (50, 12), (63, 15), (1500, 375)]
)
def test_golden_lengths(frames, positions):
    adapter = tiny_adapter("projector", in_dim=4, out_dim=4)
    output = adapter(Frames(torch.randn(1, frames, 4), torch.tensor([frames])))
    assert output.lengths.tolist() == [positions]
    assert output.values.shape == (1, positions, 4)


@pytest.mark.parametrize("length", [1, 3, 4, 6, 8, 23, 48])
def test_equals_the_published_network_on_a_whole_utterance(length):
    """The network as published, on the utterance cut to a multiple of 4 or filled up to 4, without any mask."""
    adapter = tiny_adapter("projector", in_dim=6, out_dim=5)
    values = torch.randn(length, 6)
    whole = values[: length // 4 * 4] if length >= 4 else torch.cat([values, torch.zeros(4 - length, 6)])
    network = nn.Sequential(adapter.conv1, nn.GELU(), adapter.conv2)
    expected = adapter.layers(network(whole.T[None]).transpose(1, 2))
    batch = torch.full((2, length + 10, 6), 1e4)
    batch[0, :length] = values
    output = adapter(Frames(batch, torch.tensor([length, length + 10])))
    torch.testing.assert_close(output.values[0, : expected.shape[1]], expected[0], rtol=0, atol=1e-5)


def test_layers_are_those_of_the_paper():
    """No activation follows the second convolution; the last layer is the norm."""
    adapter = tiny_adapter("projector", in_dim=6, out_dim=5)
    assert (adapter.conv1.kernel_size, adapter.conv1.stride, adapter.conv1.out_channels) == ((3,), (1,), 6)
    assert (adapter.conv2.kernel_size, adapter.conv2.stride, adapter.conv2.out_channels) == ((3,), (4,), 24)
    assert [type(layer) for layer in adapter.layers] == [nn.Linear, nn.ReLU, nn.Linear, nn.ReLU, nn.LayerNorm]


@pytest.mark.parametrize("length", [5, 6, 7, 11])
def test_dropped_frames_change_nothing(length):
    adapter = tiny_adapter("projector", in_dim=6, out_dim=5)
    values = torch.randn(1, length, 6)
    before = adapter(Frames(values, torch.tensor([length]))).values
    values[:, length // 4 * 4 :] = 1e4
    assert torch.equal(adapter(Frames(values, torch.tensor([length]))).values, before)
    values[:, 0] = 1
    assert not torch.equal(adapter(Frames(values, torch.tensor([length]))).values, before)


def test_spans():
    adapter = tiny_adapter("projector", in_dim=2, out_dim=2)
    spans = adapter.spans(Frames(torch.randn(3, 11, 2), torch.tensor([11, 4, 3])))
    assert [(s.starts.tolist(), s.ends.tolist()) for s in spans] == [([0, 4], [4, 8]), ([0], [4]), ([0], [3])]
