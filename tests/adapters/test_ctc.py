"""CTC compression: the golden values of spec §6.9 and §13.2, an explicit loop as oracle, and its gradients."""

import itertools
import math

import pytest
import torch

from speechllm.adapters.ctc import CTCAdapter
from speechllm.adapters.ctc_loss import ctc_losses
from speechllm.adapters.runs import STRATEGIES, find_runs, pool, weigh_frames
from speechllm.batch import Frames
from speechllm.errors import UserError
from tests.tiny import tiny_adapter

PROBABILITIES = torch.tensor(
    [[0.6, 0.3, 0.1], [0.2, 0.7, 0.1], [0.1, 0.5, 0.4], [0.7, 0.2, 0.1], [0.1, 0.2, 0.7], [0.8, 0.1, 0.1]]
)
FRAMES = torch.arange(1.0, 7.0)[None, :, None]


def pool_runs(values, lengths, labels, probabilities, strategy="avg", keep=None):
    """Return the pooled runs, their number, and how many utterances kept nothing."""
    runs = find_runs(labels, lengths, keep)
    return pool(values, runs, weigh_frames(runs, probabilities, strategy)), runs.lengths, runs.nothing_kept.sum()


def pool_golden(strategy="avg", keep_blank=True, probabilities=PROBABILITIES):
    best, labels = probabilities[None].max(dim=-1)
    keep = None if keep_blank else labels != 0
    return pool_runs(FRAMES, torch.tensor([6]), labels, best, strategy, keep)


@pytest.mark.parametrize(("strategy", "second"), [("avg", 2.5), ("weighted", 2.416667), ("softmax", 2.450166)])
def test_golden_runs(strategy, second):
    values, lengths, fallbacks = pool_golden(strategy)
    torch.testing.assert_close(values[0, :, 0], torch.tensor([1, second, 4, 5, 6]), rtol=0, atol=1e-6)
    assert (lengths.tolist(), int(fallbacks)) == ([5], 0)


def test_golden_without_blanks():
    values, lengths, fallbacks = pool_golden(keep_blank=False)
    assert values[0, :, 0].tolist() == [2.5, 5]
    assert (lengths.tolist(), int(fallbacks)) == ([2], 0)


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_golden_of_blanks_alone(strategy):
    blank = torch.tensor([[0.8, 0.1, 0.1]]).repeat(6, 1)
    for keep_blank, fallbacks in ((True, 0), (False, 1)):
        values, lengths, counted = pool_golden(strategy, keep_blank, blank)
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


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_gradient_against_numerical_ones(strategy):
    """In float64, over runs, a dropped run, and an utterance that falls back to its mean."""
    labels = torch.tensor([[1, 1, 3, 2, 2, 2, 0], [3, 3, 3, 3, 0, 0, 0]])
    runs = find_runs(labels, torch.tensor([6, 4]), keep=labels != 3)
    weights = weigh_frames(runs, torch.rand(2, 7), strategy).double()
    values = torch.randn(2, 7, 3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda values: pool(values, runs, weights), (values,))


def test_bfloat16_runs_are_summed_in_float32():
    """The mean of a long run is the rounded exact mean; weights and sums are not rounded on the way."""
    size = 1020  # 1 / 1020 is badly rounded in bfloat16
    values = (torch.randn(1, size, 8) + 3).bfloat16()
    runs = find_runs(torch.zeros(1, size, dtype=torch.int64), torch.tensor([size]))
    pooled = pool(values, runs, weigh_frames(runs, torch.ones(1, size)))
    assert torch.equal(pooled, values.double().mean(dim=1, keepdim=True).bfloat16())


def test_detached_compression_leaves_the_first_layers_to_the_ctc_loss():
    """Spec §6.6: the released code compresses without gradient."""
    frames, targets = Frames(torch.randn(1, 9, 4), torch.tensor([9])), [torch.tensor([1])]
    for detach in (False, True):
        adapter = CTCAdapter(4, 4, vocab_size=5, layers=0, dim=4, heads=1, detach_compression=detach)
        output = adapter(frames, targets)
        output.values.sum().backward(retain_graph=True)
        assert (adapter.in_proj[0].weight.grad is None) == detach
        output.losses["ctc"].sum().backward()
        assert adapter.in_proj[0].weight.grad.abs().sum() > 0


@pytest.mark.parametrize(
    ("max_runs", "expected", "merged"),
    [(5, [1, 2.5, 4, 5, 6], 0), (4, [2, 4.5, 6], 2), (3, [2, 4.5, 6], 2), (2, [2.5, 5.5], 3), (1, [3.5], 4)],
)
def test_runs_beyond_the_limit_are_merged(max_runs, expected, merged):
    """Five runs of frames 1, 2–3, 4, 5, 6; the mean is that of the frames, not of the runs' means."""
    runs = find_runs(PROBABILITIES[None].argmax(dim=-1), torch.tensor([6]), max_runs=max_runs)
    pooled = pool(FRAMES, runs, weigh_frames(runs, torch.ones(1, 6)))
    assert pooled[0, :, 0].tolist() == pytest.approx(expected)
    assert (runs.lengths.tolist(), runs.merged.tolist()) == ([len(expected)], [merged])


def test_limit_of_an_utterance_does_not_depend_on_its_batch_mates():
    labels, lengths = torch.randint(0, 3, (6, 60)), torch.tensor([60, 1, 5, 30, 2, 44])
    values, keep = torch.randn(6, 60, 3), labels != 0
    together = find_runs(labels, lengths, keep, max_runs=7)
    assert int(together.lengths.max()) <= 7
    pooled = pool(values, together, weigh_frames(together, torch.ones(6, 60)))
    for row, length in enumerate(lengths.tolist()):
        own = slice(row, row + 1), slice(length)
        alone = find_runs(labels[own], lengths[own[0]], keep[own], max_runs=7)
        expected = pool(values[own], alone, weigh_frames(alone, torch.ones(1, length)))[0]
        assert int(together.lengths[row]) == len(expected)
        torch.testing.assert_close(pooled[row, : len(expected)], expected)


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


def test_losses_do_not_depend_on_batch_mates():
    log_probs = torch.randn(3, 20, 6).log_softmax(dim=-1)
    lengths, targets = torch.tensor([20, 3, 9]), [torch.tensor([1, 1, 2]), torch.tensor([4]), torch.tensor([3, 2])]
    together, _ = ctc_losses(log_probs, lengths, targets, blank=5)
    for row, length in enumerate(lengths.tolist()):
        own = (log_probs[row : row + 1, :length], lengths[row : row + 1], targets[row : row + 1])
        torch.testing.assert_close(together[row], ctc_losses(*own, blank=5)[0][0], rtol=1e-6, atol=1e-6)


def test_batch_of_empty_transcripts_alone():
    empty = [torch.tensor([], dtype=torch.int64)] * 2
    losses, too_long = ctc_losses(torch.randn(2, 5, 6).log_softmax(dim=-1), torch.tensor([5, 2]), empty, blank=5)
    assert (losses.tolist(), int(too_long)) == ([0, 0], 0)


def test_parameters_of_table_ii():
    """The head is paper A's for Mistral's vocabulary, with the blank as a label of its own (spec §6.5)."""
    with torch.device("meta"):
        adapter = CTCAdapter(1280, 4096, vocab_size=32_768)
    assert sum(p.numel() for p in adapter.head.parameters()) == 25_199_361
    assert adapter.core_parameters() == 28_351_488 + 25_199_361


def labelled(rows, blank, **options):
    """Return an adapter whose head says what the frames, one-hot vectors of 5, spell."""
    adapter = CTCAdapter(5, 4, vocab_size=27, layers=0, dim=5, heads=1, **options).eval()
    adapter.in_proj = torch.nn.Identity()
    torch.nn.init.zeros_(adapter.head.weight)
    for column, label in enumerate((0, 1, 2, 3, blank)):
        adapter.head.weight.data[label, column] = 9
    lengths = torch.tensor([len(row) for row in rows])
    columns = torch.nn.utils.rnn.pad_sequence([torch.tensor(row) for row in rows], batch_first=True)
    return adapter, Frames(torch.nn.functional.one_hot(columns, 5).float(), lengths)


def test_spans_are_the_runs_with_their_texts():
    adapter, frames = labelled([[0, 0, 4, 0, 1, 1], [4, 4]], 28, vocabulary="characters")
    first, blanks = adapter.spans(frames)
    assert (first.starts.tolist(), first.ends.tolist()) == ([0, 2, 3, 4], [2, 3, 4, 6])
    assert first.labels == ["a", "", "a", "b"]
    assert first.weights is None
    assert (blanks.starts.tolist(), blanks.ends.tolist(), blanks.labels) == ([0], [2], [""])


def test_spans_without_blanks_and_with_merged_runs():
    options = {"vocabulary": "characters", "remove_blank": True, "max_out_len": 2, "strategy": "weighted"}
    adapter, frames = labelled([[0, 0, 4, 0, 1, 4, 4], [4, 4]], 28, **options)
    merged, fallback = adapter.spans(frames)
    assert (merged.starts.tolist(), merged.ends.tolist()) == ([0, 4], [4, 5])
    assert merged.labels == ["aa", "b"]
    assert merged.weights.tolist() == pytest.approx([1 / 3, 1 / 3, 0, 1 / 3, 1, 0, 0])
    assert (fallback.starts.tolist(), fallback.ends.tolist(), fallback.labels) == ([0], [2], [""])
    output = adapter(frames)
    assert output.lengths.tolist() == [2, 1]
    assert int(output.stats["ctc_merged"]) == 1


def test_spans_have_no_texts_in_the_vocabulary_of_the_llm():
    adapter, frames = labelled([[0, 0, 1]], 27)
    assert [(span.labels, span.ends.tolist()) for span in adapter.spans(frames)] == [(None, [2, 3])]


def test_targets_in_a_vocabulary_of_its_own():
    adapter, frames = labelled([[0, 0, 4, 1]], 3, vocabulary="characters", alphabet="abc")
    targets = adapter.encode_targets(["A - b!"])
    assert [target.tolist() for target in targets] == [[0, 1]]
    assert adapter.head.out_features == 4
    assert int(adapter(frames, targets).stats["ctc_dropped_characters"]) == 2


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
    with pytest.raises(UserError, match="`max_out_len` must be 1 or more, or null for no limit, but is 0"):
        tiny_adapter("ctc", in_dim=4, out_dim=4, max_out_len=0)
