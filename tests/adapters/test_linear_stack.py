"""Stacked frames through two linear layers: what becomes of which frames, by hand."""

import pytest
import torch
from torch import nn

from speechllm.adapters.linear_stack import LinearStackAdapter
from speechllm.batch import Frames
from speechllm.errors import UserError
from tests.tiny import tiny_adapter


def test_defaults_are_those_of_slam_llm():
    """Spec §11.5: five frames, 2048 wide, ReLU between two linear layers."""
    with torch.device("meta"):
        adapter = LinearStackAdapter(1280, 3584)
    assert [type(layer) for layer in adapter.layers] == [nn.Linear, nn.ReLU, nn.Linear]
    assert sum(p.numel() for p in adapter.parameters()) == (5 * 1280 + 1) * 2048 + (2048 + 1) * 3584


@pytest.mark.parametrize(
    ("frames", "positions"), [(1, 1), (4, 1), (5, 1), (9, 1), (10, 2), (50, 10), (63, 12), (1500, 300)]
)
def test_golden_lengths(frames, positions):
    adapter = tiny_adapter("linear_stack", in_dim=4, out_dim=4)
    output = adapter(Frames(torch.randn(1, frames, 4), torch.tensor([frames])))
    assert output.lengths.tolist() == [positions]
    assert output.values.shape == (1, positions, 4)


def test_by_hand():
    """The first layer weighs two frames by 1 and 10 and, negated, by -1 and -10; the second adds what ReLU leaves."""
    adapter = LinearStackAdapter(1, 1, stride=2, hidden_dim=2)
    adapter.layers[0].weight.data = torch.tensor([[1.0, 10.0], [-1.0, -10.0]])
    adapter.layers[2].weight.data = torch.tensor([[1.0, 100.0]])
    for layer in (adapter.layers[0], adapter.layers[2]):
        nn.init.zeros_(layer.bias)
    values = torch.tensor([[1.0, 2.0, -3.0, -4.0, 9.0], [5.0, 1e4, 1e4, 1e4, 1e4]])[..., None]
    output = adapter(Frames(values, torch.tensor([5, 1])))
    # 1 + 20; -(3 + 40) negated and times 100; the fifth frame is dropped. One frame alone: 5 and a zero.
    assert output.values[..., 0].tolist() == [[21.0, 4300.0], [5.0, 0.0]]
    assert output.lengths.tolist() == [2, 1]


def test_dropped_frames_change_nothing():
    adapter = tiny_adapter("linear_stack", in_dim=3, out_dim=2)
    values = torch.randn(1, 14, 3)
    before = adapter(Frames(values, torch.tensor([14]))).values
    values[:, 10:] = 1e4
    assert torch.equal(adapter(Frames(values, torch.tensor([14]))).values, before)
    values[:, 9] += 1
    assert not torch.equal(adapter(Frames(values, torch.tensor([14]))).values, before)


def test_spans():
    adapter = tiny_adapter("linear_stack", in_dim=2, out_dim=2)
    spans = adapter.spans(Frames(torch.randn(3, 12, 2), torch.tensor([12, 5, 3])))
    assert [(s.starts.tolist(), s.ends.tolist()) for s in spans] == [([0, 5], [5, 10]), ([0], [5]), ([0], [3])]


def test_wrong_stride():
    with pytest.raises(UserError, match="`stride` must be 1 or more, but is 0"):
        LinearStackAdapter(4, 4, stride=0)
