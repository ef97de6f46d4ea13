"""Weights of transcript and translation in the loss, against a computation by hand."""

import pytest
import torch

from speechllm.decoders.target_weights import TargetWeights
from speechllm.errors import UserError

# Row 0: two transcript tokens, then one of the translation; row 1: one transcript token; row 2: two of a translation.
ANSWER_LENGTHS = [3, 1, 2]
LOSSES = torch.tensor([1.0, 3.0, 10.0, 4.0, 5.0, 7.0])
TRANSCRIPT_TOKENS = [2, 1, 0]


def apply(**weights):
    return TargetWeights.parse(weights).apply(LOSSES, ANSWER_LENGTHS, TRANSCRIPT_TOKENS)


def test_by_hand():
    """(2·1 + 2·3 + 1·10) / (2 + 2 + 1) = 3.6 a token, of three; answers of one text keep their loss."""
    losses, _ = apply(transcript=2.0)
    torch.testing.assert_close(losses, torch.tensor([3 * 3.6, 4.0, 12.0]))
    losses, _ = apply(transcript=0.5, translation=4.0)
    torch.testing.assert_close(losses, torch.tensor([3 * (0.5 + 1.5 + 40) / 5, 4.0, 12.0]))


def test_equal_weights_change_nothing_bit_for_bit():
    token_losses = torch.rand(50) * 9
    plain = torch.zeros(5).index_add(0, torch.arange(5).repeat_interleave(10), token_losses)
    losses, _ = TargetWeights().apply(token_losses, [10] * 5, [0, 3, 10, 7, 1])
    assert torch.equal(losses, plain)


def test_weight_zero_is_not_learned():
    losses, _ = apply(transcript=0)
    torch.testing.assert_close(losses, torch.tensor([3 * 10.0, 0.0, 12.0]))
    token_losses = LOSSES.clone().requires_grad_()
    TargetWeights(transcript=0.0).apply(token_losses, ANSWER_LENGTHS, TRANSCRIPT_TOKENS)[0].sum().backward()
    assert token_losses.grad.tolist() == [0, 0, 3, 0, 1, 1]


def test_means_of_both_kinds_are_not_weighted():
    """Paper B's failure shows here: a translation learned well beside a transcript that is not."""
    _, stats = apply(transcript=5.0)
    assert {name: value.item() for name, value in stats.items()} == pytest.approx(
        {"loss_transcript": (1 + 3 + 4) / 3, "loss_translation": (10 + 5 + 7) / 3}
    )
    _, stats = TargetWeights().apply(torch.tensor([4.0]), [1], [1])
    assert {name: value.item() for name, value in stats.items()} == {"loss_transcript": 4.0}
    _, stats = TargetWeights().apply(torch.rand(1, requires_grad=True), [1], [0])
    assert not stats["loss_translation"].requires_grad


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"transcripts": 1}, "`target_weights` has no 'transcripts'. Did you mean 'transcript'"),
        ({"transcript": -1}, "at least 0, but 'transcript' is -1"),
        ({"translation": "much"}, "'translation' is 'much'"),
        ({"translation": float("nan")}, "'translation' is nan"),
        ({"transcript": 0, "translation": 0.0}, "both 0"),
    ],
)
def test_wrong_weights(given, message):
    with pytest.raises(UserError, match=message):
        TargetWeights.parse(given)
