"""The contract of every registered adapter."""

import pytest
import torch

import speechllm.adapters  # noqa: F401
from speechllm.batch import Frames
from speechllm.registry import ADAPTERS
from tests.tiny import tiny_adapter

NAMES = ADAPTERS.names()
DROPS_THE_TAIL = {"bridge_conv", "projector", "linear_stack"}
"""Adapters that leave out, as published, the frames that do not fill a last position."""
LENGTHS = (1, 2, 3, 4, 5, 8, 9, 50, 63)


def frames(lengths=LENGTHS, dim=12):
    lengths = torch.tensor(lengths)
    values = torch.randn(len(lengths), int(lengths.max()), dim)
    ctc_logits = torch.randn(len(lengths), int(lengths.max()), 6)
    ctc_logits[..., 0] = -10.0  # no blanks, whose frames are dropped
    return Frames(values, lengths, ctc_logits)


def targets(lengths=LENGTHS):
    return [torch.arange(1, 2 + n % 3) for n in lengths]


def test_some_are_registered():
    assert {"mlp", "base", "conv"} <= set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_shapes_and_lengths(name):
    adapter = tiny_adapter(name, in_dim=12, out_dim=8)
    given = frames()
    output = adapter(given, targets())
    assert output.values.shape == (len(LENGTHS), int(output.lengths.max()), 8)
    assert output.lengths.dtype == torch.int64
    assert (output.lengths >= 1).all()
    expected = adapter.output_lengths(given.lengths)
    if expected is not None:
        assert output.lengths.tolist() == expected.tolist()
    for name, loss in output.losses.items():
        assert loss.shape == (len(LENGTHS),), name
        assert loss.dtype == torch.float32
        assert name in adapter.loss_weights
    assert not any(value.requires_grad for value in output.stats.values())


@pytest.mark.parametrize("name", NAMES)
def test_no_losses_without_targets(name):
    assert tiny_adapter(name, in_dim=12, out_dim=8)(frames()).losses == {}


@pytest.mark.parametrize("name", NAMES)
def test_every_weight_and_every_frame_gets_a_gradient(name):
    adapter = tiny_adapter(name, in_dim=12, out_dim=8)
    given = frames((9, 16))
    given.values.requires_grad_()
    output = adapter(given, targets((9, 16)))
    (output.values.square().sum() + sum(loss.sum() for loss in output.losses.values())).backward()
    assert [key for key, p in adapter.named_parameters() if p.grad is None] == []
    reached = (given.values.grad.abs().sum(dim=2) > 0).tolist()
    if name not in DROPS_THE_TAIL:
        assert reached == [[True] * 9 + [False] * 7, [True] * 16]
        return
    assert not any(reached[0][9:])
    for row, length, positions in zip(reached, (9, 16), output.lengths.tolist(), strict=True):
        used = sum(row)
        assert all(row[:used]), "a frame in the middle is lost"
        assert length - used < length / positions, "more frames are lost at the end than a position takes"


@pytest.mark.parametrize("name", NAMES)
def test_bfloat16(name):
    adapter = tiny_adapter(name, in_dim=12, out_dim=8).bfloat16()
    given = frames()
    output = adapter(Frames(given.values.bfloat16(), given.lengths, given.ctc_logits))
    assert output.values.dtype == torch.bfloat16
    assert output.values.isfinite().all()


@pytest.mark.parametrize("name", NAMES)
def test_state_dict_round_trip(name):
    first, second = (tiny_adapter(name, in_dim=12, out_dim=8) for _ in range(2))
    second.load_state_dict(first.state_dict())
    given = frames()
    assert torch.equal(first(given).values, second(given).values)


@pytest.mark.parametrize(
    ("name", "options", "reach"),
    [
        ("projector", {}, 4),
        ("linear_stack", {"stride": 5}, 5),
        ("bridge_conv", {}, 10),
        ("conv2d", {}, 5),
        ("wlq", {"window_frames": 9}, 9),
    ],
)
def test_utterances_shorter_than_a_kernel_or_window_are_counted(name, options, reach):
    output = tiny_adapter(name, in_dim=12, out_dim=8, **options)(frames())
    assert int(output.stats["short_utterances"]) == sum(length < reach for length in LENGTHS)
