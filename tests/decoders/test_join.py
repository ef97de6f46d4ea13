"""Joining prompt, speech and answer: exact layouts on both sides of the padding, and packed."""

import pytest
import torch
from torch import nn

from speechllm.batch import AdapterOutput
from speechllm.decoders.join import join


def joined(side="right", packed=False):
    """Row 0: ids 1 2, two speech positions, id 3, answer 4 5; row 1: id 1, one speech position, id 3, answer 6."""
    embed = nn.Embedding.from_pretrained(torch.arange(10.0)[:, None].repeat(1, 2))
    speech = AdapterOutput(torch.tensor([[[0.1, 0.1], [0.2, 0.2]], [[0.3, 0.3], [77.0, 77.0]]]), torch.tensor([2, 1]))
    return join(embed, [([1, 2], [3]), ([1], [3])], speech, [[4, 5], [6]], side, packed)


def test_right_padding():
    batch = joined("right")
    expected = torch.tensor([[1, 2, 0.1, 0.2, 3, 4, 5], [1, 0.3, 3, 6, 0, 0, 0]])
    torch.testing.assert_close(batch.embeds[..., 0], expected)
    assert batch.mask.long().tolist() == [[1] * 7, [1, 1, 1, 1, 0, 0, 0]]
    assert batch.position_ids.tolist() == [[0, 1, 2, 3, 4, 5, 6]]
    assert batch.target_places.tolist() == [4, 5, 7 + 2]


def test_left_padding():
    batch = joined("left")
    torch.testing.assert_close(batch.embeds[1, :, 0], torch.tensor([0, 0, 0, 1, 0.3, 3, 6]))
    assert batch.mask[1].long().tolist() == [0, 0, 0, 1, 1, 1, 1]
    assert batch.target_places.tolist() == [4, 5, 7 + 5]


def test_packed():
    batch = joined(packed=True)
    torch.testing.assert_close(batch.embeds[0, :, 0], torch.tensor([1, 2, 0.1, 0.2, 3, 4, 5, 1, 0.3, 3, 6]))
    assert batch.position_ids.tolist() == [[0, 1, 2, 3, 4, 5, 6, 0, 1, 2, 3]]
    assert batch.target_places.tolist() == [4, 5, 7 + 2]


@pytest.mark.parametrize("packed", [False, True])
def test_targets_and_lengths(packed):
    batch = joined(packed=packed)
    assert batch.targets.tolist() == [4, 5, 6]
    assert batch.target_lengths.tolist() == [2, 1]
    assert batch.lengths.tolist() == [7, 4]
    assert batch.lengths.sum() == 11


@pytest.mark.parametrize("packed", [False, True])
def test_gradient_reaches_valid_speech_only(packed):
    values = torch.ones(2, 3, 2, requires_grad=True)
    speech = AdapterOutput(values, torch.tensor([3, 1]))
    embed = nn.Embedding(4, 2)
    batch = join(embed, [([1], [2])] * 2, speech, [[3], [3, 3]], "right", packed)
    batch.embeds.sum().backward()
    assert values.grad[..., 0].tolist() == [[1, 1, 1], [1, 0, 0]]
    assert embed.weight.grad[:, 0].tolist() == [0, 2, 2, 3]
