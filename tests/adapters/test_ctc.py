"""CTC compression: the golden values of spec §6.9 and §13.2, an explicit loop as oracle, and its gradients."""

import itertools
import math

import pytest
import torch

from speechllm.adapters.ctc import CTCAdapter
from speechllm.adapters.ctc_loss import ctc_losses
from speechllm.adapters.runs import STRATEGIES, pool_runs
from speechllm.batch import Frames
from speechllm.errors import UserError
from tests.tiny import tiny_adapter

PROBABILITIES = torch.tensor(
    [[0.6, 0.3, 0.1], [0.2, 0.7, 0.1], [0.1, 0.5, 0.4], [0.7, 0.2, 0.1], [0.1, 0.2, 0.7], [0.8, 0.1, 0.1]]
)
FRAMES = torch.arange(1.0, 7.0)[None, :, None]


def pool(strategy="avg", keep_blank=True, probabilities=PROBABILITIES):
    best, labels = probabilities[None].max(dim=-1)
    keep = None if keep_blank else labels != 0
    return pool_runs(FRAMES, torch.tensor([6]), labels, best, strategy, keep)


@pytest.mark.parametrize(("strategy", "second"), [("avg", 2.5), ("weighted", 2.416667), ("softmax", 2.450166)])
def test_golden_runs(strategy, second):
    values, lengths, fallbacks = pool(strategy)
    torch.testing.assert_close(values[0, :, 0], torch.tensor([1, second, 4, 5, 6]), rtol=0, atol=1e-6)
    assert (lengths.tolist(), int(fallbacks)) == ([5], 0)


def test_golden_without_blanks():
    values, lengths, fallbacks = pool(keep_blank=False)
    assert values[0, :, 0].tolist() == [2.5, 5]
    assert (lengths.tolist(), int(fallbacks)) == ([2], 0)


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_golden_of_blanks_alone(strategy):
    blank = torch.tensor([[0.8, 0.1, 0.1]]).repeat(6, 1)
    for keep_blank, fallbacks in ((True, 0), (False, 1)):
        values, lengths, counted = pool(strategy, keep_blank, blank)
        torch.testing.assert_close(values[0, :, 0], torch.tensor([3.5]))
        assert (lengths.tolist(), int(counted)) == ([1], fallbacks)


@pytest.mark.parametrize("remove_blank", [False, True])
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_equals_a_loop_over_runs(strategy, remove_blank):
    torch.manual_seed(3)
    probabilities = (2 * torch.randn(5, 40, 4)).softmax(dim=-1)
    probabilities[4, :, 3] = 2  # an utterance of blanks alone
    values, lengths = torch.randn(5, 40, 3), torch.tensor([40, 1, 7, 23, 12])
    best, labels = probabilities.max(dim=-1)
    keep = labels != 3 if remove_blank else None
    pooled, out_lengths, fallbacks = pool_runs(values, lengths, labels, best, strategy, keep)
    assert int(fallbacks) >= remove_blank
    for row, length in enumerate(lengths.tolist()):
        runs = []
        for label, group in itertools.groupby(range(length), key=lambda t, row=row: int(labels[row, t])):
            times = list(group)
            p = best[row, times]
            weights = {"avg": torch.ones(len(times)), "weighted": p, "softmax": p.exp()}[strategy]
            if not (remove_blank and label == 3):
                runs.append((weights[:, None] * values[row, times]).sum(dim=0) / weights.sum())
        runs = runs or [values[row, :length].mean(dim=0)]
        assert int(out_lengths[row]) == len(runs)
        torch.testing.assert_close(pooled[row, : len(runs)], torch.stack(runs), rtol=0, atol=1e-5)
        assert pooled[row, len(runs) :].abs().sum() == 0


def test_gradient_of_the_pooled_frames_is_their_weight():
    values = FRAMES.clone().requires_grad_()
    best, labels = PROBABILITIES[None].max(dim=-1)
    pooled, *_ = pool_runs(values, torch.tensor([6]), labels, best)
    pooled.sum().backward()
    assert values.grad.flatten().tolist() == [1, 0.5, 0.5, 1, 1, 1]


def test_head_learns_from_the_ctc_loss_alone():
    adapter = CTCAdapter(4, 4, vocab_size=5, layers=0, dim=4, heads=1)
    frames = Frames(torch.randn(2, 9, 4), torch.tensor([9, 6]))
    adapter(frames).values.sum().backward()
    assert adapter.head.weight.grad is None
    output = adapter(frames, [torch.tensor([1, 2]), torch.tensor([3])])
    output.losses["ctc"].sum().backward()
    assert adapter.head.weight.grad.abs().sum() > 0


@pytest.mark.parametrize(("target", "total"), [([1, 2], 7.957577), ([1, 1], 8.804875), ([3], 8.804875)])
def test_golden_loss(target, total):
    """Ten labels, all equally likely, five frames, blank 0: 35, 15 and 15 paths."""
    uniform = torch.full((1, 5, 10), math.log(0.1))
    losses, too_long = ctc_losses(uniform, torch.tensor([5]), [torch.tensor(target)], blank=0)
    assert float(losses) == pytest.approx(total / len(target), abs=1e-5)
    assert int(too_long) == 0


def test_targets_that_do_not_fit_are_counted_and_empty_ones_cost_nothing():
    log_probs = torch.randn(3, 4, 6).log_softmax(dim=-1).requires_grad_()
    targets = [torch.tensor([1, 2, 3, 4, 5]), torch.tensor([], dtype=torch.int64), torch.tensor([1, 2])]
    losses, too_long = ctc_losses(log_probs, torch.tensor([4, 4, 4]), targets, blank=0)
    assert int(too_long) == 1
    assert losses[:2].tolist() == [0, 0]
    assert losses[2] > 0
    losses.sum().backward()
    assert log_probs.grad.isfinite().all()


def test_parameters_of_table_ii():
    """The head is paper A's for Mistral's vocabulary, with the blank as a label of its own (spec §6.5)."""
    with torch.device("meta"):
        adapter = CTCAdapter(1280, 4096, vocab_size=32_768)
    assert sum(p.numel() for p in adapter.head.parameters()) == 25_199_361
    assert adapter.core_parameters() == 28_351_488 + 25_199_361


def test_stats_and_wrong_options():
    adapter = tiny_adapter("ctc", in_dim=4, out_dim=4, remove_blank=True)
    torch.nn.init.zeros_(adapter.head.weight)
    adapter.head.bias.data[adapter.blank] = 9
    output = adapter(Frames(torch.randn(2, 5, 4), torch.tensor([5, 3])))
    assert output.lengths.tolist() == [1, 1]
    assert float(output.stats["ctc_blank_rate"]) == 1
    assert int(output.stats["ctc_fallbacks"]) == 2
    with pytest.raises(UserError, match="`strategy` must be one of avg, weighted, softmax, but is 'mean'"):
        tiny_adapter("ctc", in_dim=4, out_dim=4, strategy="mean")
