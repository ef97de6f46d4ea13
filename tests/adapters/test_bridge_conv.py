"""Paper C's convolutional bridge: golden lengths of spec §10.1, the plain layers as oracle, and its reach."""

import pytest
import torch
from torch import nn

from speechllm.batch import Frames
from tests.tiny import tiny_adapter


def plain(adapter):
    """The paper's layers on one utterance, unpadded: (F, E) to (S, H)."""
    convs = nn.Sequential(adapter.convs[0], nn.GELU(), adapter.convs[1], nn.GELU())
    return lambda values: adapter.projection(convs(values.T[None])[0].T)


@pytest.mark.parametrize(
    ("frames", "positions"),
    [(1, 1), (9, 1), (10, 1), (13, 1), (14, 2), (16, 2), (50, 11), (150, 36), (500, 123), (1500, 373)],
)
def test_golden_lengths(frames, positions):
    """An utterance too short for the kernels still has one position."""
    adapter = tiny_adapter("bridge_conv", in_dim=2, out_dim=2)
    assert adapter.output_lengths(torch.tensor([frames])).tolist() == [positions]
    output = adapter(Frames(torch.randn(1, frames, 2), torch.tensor([frames])))
    assert (output.values.shape[1], output.lengths.tolist()) == (positions, [positions])


def test_equals_the_plain_layers_whatever_stands_behind_an_utterance():
    adapter = tiny_adapter("bridge_conv", in_dim=6, out_dim=8)
    lengths = (10, 17, 30, 16)
    values = torch.randn(4, 33, 6)
    for row, length in enumerate(lengths):
        values[row, length:] = 1e4
    output = adapter(Frames(values, torch.tensor(lengths)))
    for row, length in enumerate(lengths):
        expected = plain(adapter)(values[row, :length])
        assert int(output.lengths[row]) == len(expected)
        torch.testing.assert_close(output.values[row, : len(expected)], expected, rtol=0, atol=1e-5)
        assert output.values[row, len(expected) :].abs().sum() == 0


def test_short_utterances_are_filled_up_with_zeros():
    adapter = tiny_adapter("bridge_conv", in_dim=6, out_dim=8)
    values = torch.randn(1, 20, 6)
    output = adapter(Frames(values, torch.tensor([7])))
    expected = plain(adapter)(torch.cat([values[0, :7], torch.zeros(3, 6)]))
    torch.testing.assert_close(output.values[0], expected, rtol=0, atol=1e-6)


def test_a_position_reads_the_frames_of_its_span():
    adapter = tiny_adapter("bridge_conv", in_dim=6, out_dim=8)
    frames = Frames(torch.randn(1, 20, 6, requires_grad=True), torch.tensor([20]))
    [spans] = adapter.spans(frames)
    assert (spans.starts.tolist(), spans.ends.tolist()) == ([0, 4, 8], [10, 14, 18])
    output = adapter(frames)
    for position, (start, end) in enumerate(zip(spans.starts.int(), spans.ends.int(), strict=True)):
        [gradient] = torch.autograd.grad(output.values[0, position].sum(), frames.values, retain_graph=True)
        read = (gradient[0] != 0).any(dim=1).nonzero().flatten()
        assert read.tolist() == list(range(start, end))
    [short] = adapter.spans(Frames(torch.randn(1, 4, 6), torch.tensor([4])))
    assert (short.starts.tolist(), short.ends.tolist()) == ([0], [4])
