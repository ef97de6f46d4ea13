"""Integrate-and-fire: the golden values and properties of spec §5.11–5.12, a loop over frames as oracle, its losses."""

import itertools
import math

import pytest
import torch

from speechllm.adapters.cif import CIFAdapter
from speechllm.adapters.integrate_and_fire import integrate_and_fire, spans_of_fires
from speechllm.batch import Frames
from speechllm.errors import UserError
from tests.tiny import tiny_adapter

FRAMES = torch.tensor([[1.0, -1.0], [2.0, 0.0], [3.0, 1.0], [4.0, 2.0], [5.0, 3.0]])
WEIGHTS = [0.2, 0.9, 0.6, 0.3, 0.7]


def fire(weights, target_length=None):
    target_lengths = None if target_length is None else torch.tensor([target_length])
    weights = torch.as_tensor(weights)
    return integrate_and_fire(FRAMES[None], weights[None], torch.tensor([len(weights)]), target_lengths)


def loop(values, weights, target_length=None, threshold=1.0):
    """Integrate one utterance frame by frame, in Python floats: fill, fire, carry on."""
    weights = weights.tolist()
    total = sum(weights)
    if target_length is not None:
        weights = [weight * threshold * max(1, target_length) / max(total, 1e-8) for weight in weights]
    fired, filled, state = [], 0.0, torch.zeros_like(values[0])
    for weight, value in zip(weights, values, strict=True):
        while filled + weight >= threshold - 1e-9:
            part = threshold - filled
            fired.append(state + part * value)
            weight, filled, state = weight - part, 0.0, torch.zeros_like(value)
        filled, state = filled + weight, state + weight * value
    if target_length is not None:
        return torch.stack(fired[:target_length])
    if filled >= threshold / 2:
        fired.append(state * threshold / filled)
    return torch.stack(fired) if fired else state[None] / max(total, 1e-8)


# The golden values of the specification.


@pytest.mark.parametrize(
    ("weights", "expected", "quantity"),
    [
        (WEIGHTS, [[1.8, -0.2], [3.2, 1.2], [5.0, 3.0]], 2.7),  # the tail of 0.7 fires, scaled to 1
        ([*WEIGHTS[:4], 0.4], [[1.8, -0.2], [3.2, 1.2]], 2.4),  # the tail of 0.4 is dropped
        ([0.05] * 5, [[3.0, 1.0]], 0.25),  # nothing fires: the weighted mean
        ([0.0] * 5, [[3.0, 1.0]], 0.0),  # nothing weighs anything: the mean
    ],
)
def test_golden_inference(weights, expected, quantity):
    fired = fire(weights)
    torch.testing.assert_close(fired.values[0], torch.tensor(expected), rtol=0, atol=1e-5)
    assert fired.lengths.tolist() == [len(expected)]
    assert float(fired.quantities) == pytest.approx(quantity, abs=1e-6)
    assert fired.fallbacks.tolist() == [quantity < 0.5]


def test_golden_scaled_to_two():
    fired = fire(WEIGHTS, 2)
    expected = torch.tensor([[2.037037, 0.037037], [4.259259, 2.259259]])
    torch.testing.assert_close(fired.values[0], expected, rtol=0, atol=1e-5)
    assert float(fired.quantities) == pytest.approx(2.7, abs=1e-6), "the quantity is that of the unscaled weights"


def test_golden_several_fires_in_a_frame():
    fired = fire(WEIGHTS, 7)
    expected = torch.tensor([1.481481, 2.0, 2.148148, 3.0, 3.592593, 4.814815, 5.0])
    torch.testing.assert_close(fired.values[0, :, 0], expected, rtol=0, atol=1e-5)
    assert fired.lengths.tolist() == [7]


def test_golden_weights_of_zero_scaled():
    weights = torch.zeros(1, 5, requires_grad=True)
    fired = integrate_and_fire(FRAMES[None], weights, torch.tensor([5]), torch.tensor([2]))
    assert fired.values.tolist() == [[[0, 0], [0, 0]]]
    (fired.values.sum() + fired.quantities.sum()).backward()
    assert weights.grad.isfinite().all()


# Agreement with the loop, and the properties of §5.12.


@pytest.mark.parametrize("threshold", [1.0, 0.3, 2.5])
@pytest.mark.parametrize("scale", [0.02, 0.3, 1.0, 4.0])
def test_equals_a_loop_over_frames_in_inference(scale, threshold):
    """At 4.0 a frame fires several times, at 0.02 hardly any utterance fires."""
    values, weights = torch.randn(6, 90, 3, dtype=torch.float64), scale * torch.rand(6, 90, dtype=torch.float64)
    lengths = torch.tensor([90, 1, 2, 7, 50, 31])
    fired = integrate_and_fire(values, weights, lengths, threshold=threshold)
    for row, length in enumerate(lengths.tolist()):
        expected = loop(values[row, :length], weights[row, :length], threshold=threshold)
        assert int(fired.lengths[row]) == len(expected)
        torch.testing.assert_close(fired.values[row, : len(expected)], expected, rtol=0, atol=2e-7)
        assert fired.values[row, len(expected) :].abs().sum() == 0


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_equals_a_loop_over_frames_when_scaled(dtype):
    """1,500 frames are Whisper's 30 s; float32 may differ by its own rounding only."""
    values, weights = torch.randn(4, 1500, 3, dtype=dtype), torch.rand(4, 1500, dtype=dtype)
    lengths, targets = torch.tensor([1500, 1, 3, 700]), torch.tensor([61, 1, 9, 200])
    fired = integrate_and_fire(values, weights, lengths, targets)
    assert fired.lengths.tolist() == targets.tolist()
    for row, (length, count) in enumerate(zip(lengths.tolist(), targets.tolist(), strict=True)):
        expected = loop(values[row, :length].double(), weights[row, :length].double(), count)
        tolerance = 2e-7 if dtype == torch.float64 else 1e-5
        torch.testing.assert_close(fired.values[row, :count].double(), expected, rtol=0, atol=tolerance)
        assert fired.values[row, count:].abs().sum() == 0


@pytest.mark.parametrize("target_length", [None, 3, 40])
def test_each_weight_is_spent_once_and_each_position_is_full(target_length):
    """Frames that are unit vectors show the overlaps themselves."""
    size = 20
    weights = torch.rand(1, size, dtype=torch.float64)
    targets = None if target_length is None else torch.tensor([target_length])
    identity = torch.eye(size, dtype=torch.float64)[None]
    overlaps = integrate_and_fire(identity, weights, torch.tensor([size]), targets).values[0]
    torch.testing.assert_close(overlaps.sum(dim=1), torch.ones(len(overlaps), dtype=torch.float64))
    scaled = weights[0] if target_length is None else weights[0] * target_length / weights.sum()
    before_last_fire = scaled.cumsum(dim=0) < math.floor(float(scaled.sum()) + 1e-6)
    spent = overlaps[: math.floor(float(scaled.sum()) + 1e-6)].sum(dim=0)
    torch.testing.assert_close(spent[before_last_fire], scaled[before_last_fire])
    supports = [row.nonzero()[:, 0] for row in overlaps]
    assert all(int(first.max()) <= int(second.min()) for first, second in itertools.pairwise(supports))


@pytest.mark.parametrize("target_length", [None, 3, 8])
def test_gradients(target_length):
    """Numerical against analytic gradients, in float64, for values and weights."""
    targets = None if target_length is None else torch.tensor([target_length, 1])
    values = torch.randn(2, 6, 2, dtype=torch.float64, requires_grad=True)
    weights = (0.1 + 0.8 * torch.rand(2, 6, dtype=torch.float64)).requires_grad_()

    def run(values, weights):
        fired = integrate_and_fire(values, weights, torch.tensor([6, 4]), targets)
        return fired.values, fired.quantities

    assert torch.autograd.gradcheck(run, (values, weights))


def test_gradient_of_the_fallback():
    values = torch.randn(1, 6, 2, dtype=torch.float64, requires_grad=True)
    weights = (0.06 * torch.rand(1, 6, dtype=torch.float64)).requires_grad_()
    assert torch.autograd.gradcheck(
        lambda *given: integrate_and_fire(*given, torch.tensor([5])).values, (values, weights)
    )


@pytest.mark.parametrize("scaled", [False, True])
def test_padding_and_batch_mates_change_nothing(scaled):
    values, weights, lengths = torch.randn(5, 60, 4), 0.2 * torch.rand(5, 60), torch.tensor([60, 1, 2, 17, 33])
    targets = torch.tensor([9, 1, 3, 2, 50])
    padded = lengths[:, None] <= torch.arange(60)
    values[padded], weights[padded] = 1e4, 1e4
    together = integrate_and_fire(values, weights, lengths, targets if scaled else None)
    for row, length in enumerate(lengths.tolist()):
        own = (values[row : row + 1, :length], weights[row : row + 1, :length], lengths[row : row + 1])
        alone = integrate_and_fire(*own, targets[row : row + 1] if scaled else None)
        count = int(alone.lengths[0])
        assert int(together.lengths[row]) == count
        torch.testing.assert_close(together.values[row, :count], alone.values[0], rtol=0, atol=1e-6)
        assert together.values[row, count:].abs().sum() == 0


def test_bfloat16_frames_are_summed_in_float32():
    """Position by position the error is that of rounding the frames and the result, not of 100 additions."""
    values = (torch.randn(1, 1000, 8) + 3).bfloat16()
    weights = torch.full((1, 1000), 0.01)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        fired = integrate_and_fire(values, weights, torch.tensor([1000]))
    exact = integrate_and_fire(values.double(), weights, torch.tensor([1000])).values
    assert fired.values.dtype == torch.bfloat16
    torch.testing.assert_close(fired.values.double(), exact, rtol=2**-8, atol=0)


# The adapter.


def test_parameters_of_table_ii():
    """Paper A prints 28.15 M; the figure is spec §5.1's, for Mistral's vocabulary and a blank of its own."""
    with torch.device("meta"):
        adapter = CIFAdapter(1280, 4096, vocab_size=32_768)
    assert adapter.core_parameters() == 28_351_488 + 28_151_554
    assert sum(p.numel() for p in adapter.head.parameters()) == 25_199_361


def constant_weights(logit, **options):
    """Return an adapter without BERT layers that gives every frame the same weight."""
    adapter = CIFAdapter(4, 4, vocab_size=5, layers=0, dim=4, heads=1, alpha_bias_init=logit, **options)
    torch.nn.init.zeros_(adapter.weight_proj.weight)
    return adapter


def test_positions_follow_targets_in_training_and_weights_in_inference():
    adapter = constant_weights(0.0)  # sigmoid(0): every second frame fires
    frames = Frames(torch.randn(3, 9, 4), torch.tensor([9, 6, 1]))
    targets = [torch.tensor([1, 2]), torch.tensor([1, 2, 3, 4, 1, 2, 3]), torch.tensor([1])]
    assert adapter.train()(frames, targets).lengths.tolist() == [2, 7, 1]
    output = adapter.eval()(frames, targets)
    assert output.lengths.tolist() == [5, 3, 1]  # the tails of 4.5 and 0.5 fire
    assert output.stats["quantity"].tolist() == [4.5, 3.0, 0.5]
    assert output.losses["quantity"].tolist() == [2.5, 4.0, 0.5]
    assert adapter(frames).lengths.tolist() == [5, 3, 1]


def test_options_of_the_quantity():
    frames, targets = Frames(torch.randn(1, 9, 4), torch.tensor([9])), [torch.tensor([1, 2])]
    assert constant_weights(0.0, quantity_per_token=True)(frames, targets).losses["quantity"].tolist() == [1.25]
    assert constant_weights(0.0, count_bos=True)(frames, targets).losses["quantity"].tolist() == [1.5]
    assert constant_weights(0.0, count_bos=True)(frames, targets).lengths.tolist() == [3]
    assert constant_weights(0.0, threshold=0.5)(frames, targets).losses["quantity"].tolist() == [7.0]
    assert constant_weights(0.0, threshold=0.5).eval()(frames).lengths.tolist() == [9]


def test_an_empty_transcript_teaches_nothing():
    adapter = constant_weights(0.0)
    frames = Frames(torch.randn(2, 9, 4), torch.tensor([9, 9]))
    output = adapter(frames, [torch.tensor([], dtype=torch.int64), torch.tensor([1])])
    assert output.lengths.tolist() == [1, 1]
    assert [losses[0].item() for losses in output.losses.values()] == [0, 0]
    assert all(losses[1] > 0 for losses in output.losses.values())


def test_utterances_that_never_fire_are_counted():
    output = constant_weights(-9.0).eval()(Frames(torch.randn(2, 9, 4), torch.tensor([9, 2])))
    assert output.lengths.tolist() == [1, 1]
    assert int(output.stats["cif_fallbacks"]) == 2


def test_training_without_transcripts_warns():
    frames = Frames(torch.randn(1, 9, 4), torch.tensor([9]))
    with pytest.warns(UserWarning, match="no transcripts in training: it fires as in inference"):
        output = constant_weights(0.0)(frames)
    assert output.lengths.tolist() == [5]


def test_losses_do_not_depend_on_batch_mates():
    adapter = tiny_adapter("cif", in_dim=6, out_dim=4, dropout=0.0)
    values, lengths = torch.randn(3, 30, 6), torch.tensor([30, 4, 11])
    targets = [torch.tensor([7, 8, 9]), torch.tensor([3]), torch.tensor([5, 5])]
    for row, length in enumerate(lengths.tolist()):
        values[row, length:] = 1e4
    for training in (True, False):
        adapter.train(training)
        together = adapter(Frames(values, lengths), targets)
        for row, length in enumerate(lengths.tolist()):
            own = Frames(values[row : row + 1, :length], lengths[row : row + 1])
            alone = adapter(own, targets[row : row + 1])
            for name in ("ctc", "quantity"):
                torch.testing.assert_close(together.losses[name][row], alone.losses[name][0], rtol=0, atol=1e-5)


def test_targets_of_a_vocabulary_of_its_own():
    adapter = tiny_adapter("cif", in_dim=4, out_dim=4, vocabulary="characters", alphabet="abc ")
    targets = adapter.encode_targets(["A cab!", "b"])
    assert [target.tolist() for target in targets] == [[0, 3, 2, 0, 1], [1]]
    assert adapter.head.out_features == 5
    output = adapter.train()(Frames(torch.randn(2, 9, 4), torch.tensor([9, 4])), targets)
    assert output.lengths.tolist() == [5, 1]
    assert int(output.stats["ctc_dropped_characters"]) == 1
    assert tiny_adapter("cif", in_dim=4, out_dim=4).encode_targets(["a"]) is None


def test_spans_lie_where_the_weights_reach_the_threshold():
    weights = torch.tensor([[*WEIGHTS, 9.0], [0.05] * 6, [0.5] * 6, [1.25, 1.25, 9, 9, 9, 9]])
    tail, nothing, halves, several = spans_of_fires(weights, torch.tensor([5, 4, 4, 2]), threshold=1.0)
    # After 0.2 the second frame (0.9) lacks 0.1 to fire at 1; two fires need 2 = 0.2 + 0.9 + 0.6 + 0.3.
    torch.testing.assert_close(tail.starts, torch.tensor([0, 1 + 0.8 / 0.9, 4]))
    torch.testing.assert_close(tail.ends, torch.tensor([1 + 0.8 / 0.9, 4, 5]))
    assert tail.weights.tolist() == pytest.approx(WEIGHTS)
    assert (nothing.starts.tolist(), nothing.ends.tolist()) == ([0], [4])
    assert (halves.starts.tolist(), halves.ends.tolist()) == ([0, 2], [2, 4])
    torch.testing.assert_close(several.ends, torch.tensor([0.8, 1 + 0.75 / 1.25, 2]))


def test_spans_of_the_adapter_agree_with_its_output():
    adapter = tiny_adapter("cif", in_dim=6, out_dim=4, alpha_bias_init=-1.0)
    frames = Frames(torch.randn(3, 30, 6), torch.tensor([30, 1, 11]))
    output = adapter(frames)
    spans = adapter.spans(frames)
    assert [len(span.starts) for span in spans] == output.lengths.tolist()
    torch.testing.assert_close(torch.stack([span.weights.sum() for span in spans]), output.stats["quantity"])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"kernel_size": 4}, "`kernel_size` must be odd, but is 4"),
        ({"threshold": 0.0}, "`threshold` must be above 0"),
        ({"vocabulary": "byte"}, "Unknown CTC vocabulary 'byte'. Did you mean 'bytes'"),
    ],
)
def test_wrong_options(options, message):
    with pytest.raises(UserError, match=message):
        tiny_adapter("cif", in_dim=4, out_dim=4, **options)
