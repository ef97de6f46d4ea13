"""What the length adapters with content cost: against a linear layer, and against a loop over frames.

Sizes are those of Whisper's 30 s at the width of the adapters: 10 utterances of 1,500 frames, 768 wide. Both directions
are timed, forward and backward, with gradients of the frames, and of the weights in integrate-and-fire.
"""

import statistics
import time
from functools import partial

import pytest
import torch

from speechllm.adapters.integrate_and_fire import integrate_and_fire
from speechllm.adapters.runs import find_runs, pool, weigh_frames

pytestmark = pytest.mark.speed
UTTERANCES, FRAMES, WIDTH = 10, 1500, 768
RUN_FRAMES = 13
"""Frames of a run, on average: paper A's ratio of CTC compression."""
REPEATS = 9
LEAST_GAIN = 20


def make_inputs():
    """Return frames, their weights, positions to fire (50 to 69 an utterance) and labels."""
    values = torch.randn(UTTERANCES, FRAMES, WIDTH, requires_grad=True)
    weights = torch.rand(UTTERANCES, FRAMES, requires_grad=True)
    labels = (torch.rand(UTTERANCES, FRAMES) < 1 / RUN_FRAMES).long().cumsum(dim=1)
    return values, weights, torch.randint(50, 70, (UTTERANCES,)), labels


def each_frame(values, apart):
    """Give (B, D) of one frame after another: taken by its index, as one writes it, or all taken apart at once.

    The gradient of what is taken by index is as large as all frames, for each of them.
    """
    return values.unbind(1) if apart else (values[:, frame] for frame in range(values.shape[1]))


def loop_and_fire(values, weights, targets, apart=False):
    """Integrate frame by frame, all utterances at once: fill, fire, carry on; no frame fires twice."""
    scaled = weights * (targets / weights.sum(dim=1))[:, None]
    filled, state = torch.zeros(UTTERANCES), torch.zeros(UTTERANCES, WIDTH)
    states, fired = [], []
    for weight, value in zip(each_frame(scaled, apart), each_frame(values, apart), strict=True):
        fires = filled + weight >= 1 - 1e-4  # what float32 loses in a sum of weights
        part = torch.where(fires, 1 - filled, weight)
        state = state + part[:, None] * value
        states.append(state)
        fired.append(fires)
        rest = weight - part
        state = torch.where(fires[:, None], rest[:, None] * value, state)
        filled = torch.where(fires, rest, filled + weight)
    return torch.stack(states, dim=1)[torch.stack(fired, dim=1)]


def loop_over_runs(values, labels, apart=False):
    """Pool frame by frame, all utterances at once: add to a run, or begin another."""
    begins = torch.nn.functional.pad(labels[:, 1:] != labels[:, :-1], (1, 1), value=True)
    count, state = torch.zeros(UTTERANCES, 1), torch.zeros(UTTERANCES, WIDTH)
    means = []
    for new, value in zip(begins[:, :-1].unbind(1), each_frame(values, apart), strict=True):
        state = torch.where(new[:, None], value, state + value)
        count = torch.where(new[:, None], 1.0, count + 1)
        means.append(state / count)
    return torch.stack(means, dim=1)[begins[:, 1:]]


def compress(values, labels):
    runs = find_runs(labels, torch.full((UTTERANCES,), FRAMES))
    return pool(values, runs, weigh_frames(runs, torch.ones(UTTERANCES, FRAMES)))


def flat(values, lengths):
    return torch.cat([row[:length] for row, length in zip(values, lengths.tolist(), strict=True)])


def time_s(function, inputs, repeats):
    """Return the median time of each function forward and backward, in seconds, taken in turns."""
    times = {name: [] for name in function}
    for _ in range(repeats):
        for name, call in function.items():
            for tensor in inputs:
                tensor.grad = None
            start_s = time.perf_counter()
            call().sum().backward()
            times[name].append(time.perf_counter() - start_s)
    return {name: statistics.median(values) for name, values in times.items()}


@pytest.fixture
def two_threads():
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(threads)


def test_length_adapters(two_threads, capsys):
    values, weights, targets, labels = make_inputs()
    lengths = torch.full((UTTERANCES,), FRAMES)
    linear = torch.nn.Linear(WIDTH, WIDTH)
    fast = {
        "linear layer": lambda: linear(values),
        "CIF": lambda: integrate_and_fire(values, weights, lengths, targets).values,
        "CTC compression": lambda: compress(values, labels),
    }
    loops = {
        "CIF": lambda apart=False: loop_and_fire(values, weights, targets, apart),
        "CTC compression": lambda apart=False: loop_over_runs(values, labels, apart),
    }
    with torch.no_grad():
        fired = integrate_and_fire(values, weights, lengths, targets)
        torch.testing.assert_close(flat(fired.values, fired.lengths), loops["CIF"](), rtol=0, atol=1e-3)
        runs = find_runs(labels, lengths)
        torch.testing.assert_close(flat(fast["CTC compression"](), runs.lengths), loops["CTC compression"]())
    times = time_s(fast, (values, weights), REPEATS)
    apart_times = time_s({name: partial(loop, apart=True) for name, loop in loops.items()}, (values, weights), 3)
    loop_times = time_s(loops, (values, weights), 1)
    with capsys.disabled():
        print(f"\nForward and backward at ({UTTERANCES}, {FRAMES}, {WIDTH}):")
        print(f"  linear layer {1e3 * times['linear layer']:.1f} ms")
        for name, loop_s in loop_times.items():
            print(
                f"  {name} {1e3 * times[name]:.1f} ms: {times[name] / times['linear layer']:.2f} of it; "
                f"a loop over frames {loop_s:.1f} s: {loop_s / times[name]:.0f} times as long; one over frames taken "
                f"apart {apart_times[name]:.2f} s: {apart_times[name] / times[name]:.1f} times as long"
            )
    for name, loop_s in loop_times.items():
        assert times[name] <= times["linear layer"]
        assert loop_s >= LEAST_GAIN * times[name]
