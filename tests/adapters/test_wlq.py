"""Window-level Q-Former: golden lengths of spec §7.6, exact locality, and Hugging Face's Q-Former as oracle."""

import copy

import pytest
import torch

from speechllm.adapters.wlq import WLQAdapter
from speechllm.batch import Frames
from speechllm.errors import UserError
from speechllm.registry import ADAPTERS
from tests.tiny import tiny_adapter


def small(window=4, **options):
    return tiny_adapter("wlq", in_dim=6, out_dim=8, window_frames=window, **options)


def one(length, dim=6):
    return Frames(torch.randn(1, length, dim), torch.tensor([length]))


@pytest.mark.parametrize(
    ("options", "lengths", "positions"),
    [
        ({"window_frames": 16}, (1, 16, 17, 50, 500, 1500), (1, 1, 2, 4, 32, 94)),
        ({"window_frames": 2}, (63,), (32,)),
        # Without remainders the last is 88; an utterance of less than a window has one position, not the papers' none.
        ({"window_frames": 17, "drop_remainder": True}, (16, 17, 33, 34, 500, 1500), (1, 1, 1, 2, 29, 88)),
        ({"window_frames": 16, "queries": 3}, (1, 17), (3, 6)),
    ],
)
def test_golden_lengths(options, lengths, positions):
    adapter = tiny_adapter("wlq", in_dim=4, out_dim=4, **options)
    assert adapter.output_lengths(torch.tensor(lengths)).tolist() == list(positions)
    for length, count in zip(lengths[:4], positions[:4], strict=True):
        output = adapter(one(length, dim=4))
        assert output.values.shape[1] == count
        assert output.lengths.tolist() == [count]


@pytest.mark.parametrize(
    ("frame_rate", "options", "window"),
    [
        (50.0, {}, 16),
        (6.25, {}, 2),
        (50.0, {"window_seconds": 1 / 3 + 0.01}, 17),
        (50.0, {"window_seconds": 0.58}, 29),  # 0.58 × 50 is 28.999999999999996 in floating point
        (6.25, {"window_frames": 17}, 17),
    ],
)
def test_window_in_frames(frame_rate, options, window):
    spec = {"name": "wlq", **WLQAdapter.tiny, **options}
    adapter = ADAPTERS.build(spec, in_dim=4, out_dim=4, vocab_size=9, frame_rate=frame_rate)
    assert adapter.window == window


@pytest.mark.parametrize("options", [{}, {"queries": 2}, {"window": 3, "drop_remainder": True}])
def test_a_position_depends_on_its_own_window_alone(options):
    """The Jacobian is exactly zero outside of the window, and nowhere zero inside: spans() says where that is."""
    adapter = small(**options)
    frames = one(11)
    frames.values.requires_grad_()
    [spans] = adapter.spans(frames)
    output = adapter(frames)
    assert len(spans.starts) == output.values.shape[1]
    for position, (start, end) in enumerate(zip(spans.starts.int(), spans.ends.int(), strict=True)):
        picked = (output.values[0, position] * torch.arange(8)).sum()
        [gradient] = torch.autograd.grad(picked, frames.values, retain_graph=True)
        inside = torch.zeros(11, dtype=torch.bool)
        inside[start:end] = True
        assert ((gradient[0] != 0).any(dim=1) == inside).all(), position


def test_spans():
    [first, second] = small().spans(Frames(torch.randn(2, 10, 6), torch.tensor([10, 3])))
    assert (first.starts.tolist(), first.ends.tolist()) == ([0, 4, 8], [4, 8, 10])
    assert (second.starts.tolist(), second.ends.tolist()) == ([0], [3])
    [twice] = small(queries=2).spans(one(5))
    assert (twice.starts.tolist(), twice.ends.tolist()) == ([0, 0, 4, 4], [4, 4, 5, 5])


@pytest.mark.parametrize("options", [{}, {"queries": 3}, {"cross_attention_frequency": 1}])
def test_equals_each_window_cut_out_and_given_to_hugging_face_unmasked(options):
    """The last, partial window is the same as a shorter window without padding (spec §7.4)."""
    adapter = small(**options)
    reference = copy.deepcopy(adapter.qformer)
    reference.set_attn_implementation("eager")
    lengths = torch.tensor([11, 16, 3])
    frames = Frames(torch.randn(3, 16, 6), lengths)
    output = adapter(frames)
    for row, length in enumerate(lengths.tolist()):
        hidden = adapter.in_proj(frames.values[row : row + 1, :length])
        windows = [
            reference(query_embeds=adapter.queries[None], encoder_hidden_states=window).last_hidden_state
            for window in hidden.split(4, dim=1)
        ]
        expected = adapter.out_proj(torch.cat(windows, dim=1))
        torch.testing.assert_close(output.values[row, : expected.shape[1]], expected[0], rtol=0, atol=1e-5)
        assert output.values[row, expected.shape[1] :].abs().sum() == 0


def test_dropped_remainder_changes_nothing_and_short_utterances_keep_their_frames():
    adapter, whole = small(drop_remainder=True), small()
    whole.load_state_dict(adapter.state_dict())
    frames = one(11)
    cut = Frames(frames.values[:, :8], torch.tensor([8]))
    torch.testing.assert_close(adapter(frames).values, whole(cut).values, rtol=0, atol=1e-6)
    short = one(3)
    torch.testing.assert_close(adapter(short).values, whole(short).values, rtol=0, atol=0)


def test_cross_attention_layers():
    """Paper A: layers 0 and 2 of 4; paper D: both of 2. Queries have no text branch to feed (spec §7.2, §11.4)."""
    by_layer = [
        [layer.has_cross_attention for layer in small(**options).qformer.encoder.layer]
        for options in ({"layers": 4}, {"layers": 2, "cross_attention_frequency": 1})
    ]
    assert by_layer == [[True, False, True, False], [True, True]]
    assert not any("text" in key or key.startswith("embeddings") for key in small().qformer.state_dict())


def test_no_window_is_without_keys():
    """A softmax over nothing is undefined in some kernels: windows behind an utterance's end keep one key."""
    adapter, masks = small(), []
    adapter.qformer.register_forward_pre_hook(
        lambda module, args, kwargs: masks.append(kwargs["encoder_attention_mask"]), with_kwargs=True
    )
    adapter(Frames(torch.randn(2, 11, 6), torch.tensor([11, 2]))).values.sum().backward()
    assert masks[0][:, 0, 0].sum(dim=1).tolist() == [4, 4, 3, 2, 1, 1]
    assert all(p.grad.isfinite().all() for p in adapter.parameters())


def test_queries_start_small_and_differ():
    queries = tiny_adapter("wlq", in_dim=4, out_dim=4, queries=64, dim=32).queries
    assert abs(float(queries.detach().std()) - 0.02) < 0.002
    assert len(queries.detach().unique(dim=0)) == 64


def test_bfloat16_autocast_is_near_float32():
    adapter, frames = small(), Frames(torch.randn(2, 9, 6), torch.tensor([9, 1]))
    expected = adapter(frames).values
    with torch.autocast("cpu", torch.bfloat16):
        values = adapter(frames).values
    assert (values.float() - expected).abs().max() < 0.15
    assert values[1, 1:].abs().sum() == 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"layers": 0}, "`layers` must be 1 or more, but is 0"),
        ({"queries": 0}, "`queries` must be 1 or more"),
        ({"cross_attention_frequency": 0}, "`cross_attention_frequency` must be 1 or more"),
        ({"window_frames": 0}, "`window_frames` must be 1 or more"),
        ({"dim": 10, "heads": 3}, "`dim` must be a multiple of `heads`, but 10"),
        ({"window_seconds": 0.01}, "`window_seconds` must hold a frame, but 0.01 s at 50 Hz hold none; give 0.02"),
    ],
)
def test_wrong_options(options, message):
    with pytest.raises(UserError, match=message):
        tiny_adapter("wlq", in_dim=4, out_dim=4, **options)
