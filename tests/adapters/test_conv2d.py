"""The 5×5 convolution: golden values of spec §8.4, the sum written out, and what happens to frames that do not fit."""

import pytest
import torch

from speechllm.batch import Frames
from speechllm.errors import UserError
from tests.tiny import tiny_adapter


def small(in_dim=4, out_dim=4, **options):
    adapter = tiny_adapter("conv2d", in_dim, out_dim, **{"ceil_mode": False, **options})
    if in_dim == out_dim and options.get("projection_layers", 1) == 1:
        torch.nn.init.eye_(adapter.projection[0].weight)
        torch.nn.init.zeros_(adapter.projection[0].bias)
    return adapter


def set_kernel(adapter, weight, bias):
    torch.nn.init.constant_(adapter.conv.weight, weight)
    torch.nn.init.constant_(adapter.conv.bias, bias)
    return adapter


def test_golden_values():
    """All weights 1/25 on ones: the rim of the features sees three and four of five columns."""
    adapter = set_kernel(small(), 1 / 25, 0)
    output = adapter(Frames(torch.ones(1, 10, 4), torch.tensor([10])))
    expected = torch.tensor([[0.6, 0.8, 0.8, 0.6]]).expand(2, 4)
    torch.testing.assert_close(output.values[0], expected, rtol=0, atol=1e-6)


def test_equals_the_sum_written_out():
    adapter = small()
    values = torch.randn(1, 12, 4)
    weight, bias = adapter.conv.weight[0, 0], adapter.conv.bias
    expected = torch.zeros(2, 4)
    for position in range(2):
        for feature in range(4):
            columns = [column for column in range(5) if 0 <= feature + column - 2 < 4]
            terms = [
                weight[row, column] * values[0, 5 * position + row, feature + column - 2]
                for row in range(5)
                for column in columns
            ]
            expected[position, feature] = sum(terms) + bias
    output = adapter(Frames(values, torch.tensor([12])))
    torch.testing.assert_close(output.values[0], expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("ceil_mode", "positions"), [(False, (1, 1, 1, 1, 2, 10, 300)), (True, (1, 1, 1, 2, 2, 10, 300))]
)
def test_golden_lengths(ceil_mode, positions):
    """Spec §8.1; the reference fails on fewer than five frames, this has one position (spec §8.3)."""
    lengths = (1, 4, 5, 9, 10, 50, 1500)
    adapter = small(in_dim=2, out_dim=2, ceil_mode=ceil_mode)
    assert adapter.output_lengths(torch.tensor(lengths)).tolist() == list(positions)
    for length, count in zip(lengths, positions, strict=True):
        output = adapter(Frames(torch.randn(1, length, 2), torch.tensor([length])))
        assert (output.values.shape[1], output.lengths.tolist()) == (count, [count])


def test_frames_behind_the_last_full_five_are_dropped_or_filled_up():
    values = torch.randn(1, 9, 4)
    dropping, filling = small(), small(ceil_mode=True)
    filling.load_state_dict(dropping.state_dict())
    nine = Frames(values, torch.tensor([9]))
    first = Frames(values[:, :5], torch.tensor([5]))
    filled = Frames(torch.cat([values, torch.zeros(1, 1, 4)], dim=1), torch.tensor([10]))
    torch.testing.assert_close(dropping(nine).values, dropping(first).values, rtol=0, atol=0)
    torch.testing.assert_close(filling(nine).values, dropping(filled).values, rtol=0, atol=1e-6)


@pytest.mark.parametrize("ceil_mode", [False, True])
def test_garbage_behind_a_short_utterance_is_not_read(ceil_mode):
    adapter = small(ceil_mode=ceil_mode)
    values = torch.randn(2, 13, 4)
    values[0, 3:] = 1e4
    together = adapter(Frames(values, torch.tensor([3, 13])))
    filled = torch.cat([values[:1, :3], torch.zeros(1, 2, 4)], dim=1)
    torch.testing.assert_close(
        together.values[0, 0], adapter(Frames(filled, torch.tensor([5]))).values[0, 0], rtol=0, atol=1e-6
    )
    assert together.values[0, 1:].abs().sum() == 0


def test_identity_mean_starts_as_the_mean_of_five_frames():
    values = torch.randn(1, 10, 4)
    output = small(identity_mean=True)(Frames(values, torch.tensor([10])))
    torch.testing.assert_close(output.values[0], values.view(2, 5, 4).mean(dim=1), rtol=0, atol=1e-6)


def test_two_projection_layers():
    adapter = small(out_dim=3, projection_layers=2)
    first, activation, second = adapter.projection
    assert [(layer.in_features, layer.out_features) for layer in (first, second)] == [(4, 3), (3, 3)]
    frames = Frames(torch.randn(1, 5, 4), torch.tensor([5]))
    hidden = adapter.conv(frames.values[:, None])[:, 0]
    torch.testing.assert_close(adapter(frames).values, second(torch.nn.functional.gelu(first(hidden))))
    assert isinstance(activation, torch.nn.GELU)
    with pytest.raises(UserError, match="`projection_layers` must be 1 or 2, but is 3"):
        small(projection_layers=3)


def test_spans():
    frames = Frames(torch.randn(2, 12, 4), torch.tensor([12, 3]))
    dropping, filling = (small(ceil_mode=ceil_mode).spans(frames) for ceil_mode in (False, True))
    assert [(spans.starts.tolist(), spans.ends.tolist()) for spans in dropping] == [([0, 5], [5, 10]), ([0], [3])]
    assert [(spans.starts.tolist(), spans.ends.tolist()) for spans in filling] == [
        ([0, 5, 10], [5, 10, 12]),
        ([0], [3]),
    ]
