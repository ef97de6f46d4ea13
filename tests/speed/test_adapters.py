"""What the length adapters with content cost: against a linear layer, and against a loop over frames.

Sizes are those of Whisper's 30 s at the width of the adapters: 10 utterances of 1,500 frames, 768 wide. Both directions
are timed, forward and backward, with gradients of the frames, and of the weights in integrate-and-fire.
"""

import statistics
import time

import pytest
import torch

from speechllm.adapters.integrate_and_fire import integrate_and_fire
from speechllm.adapters.runs import find_runs, pool, weigh_frames

pytestmark = pytest.mark.speed
UTTERANCES, FRAMES, WIDTH = 10, 1500, 768
RUN_FRAMES = 13
"""Frames of a run, on average: paper A's ratio of CTC compression."""
REPEATS, LOOPS = 9, 3


def make_inputs():
    """Return frames, their weights, positions to fire (50 to 69 an utterance) and labels."""
    values = torch.randn(UTTERANCES, FRAMES, WIDTH, requires_grad=True)
    weights = torch.rand(UTTERANCES, FRAMES, requires_grad=True)
    labels = (torch.rand(UTTERANCES, FRAMES) < 1 / RUN_FRAMES).long().cumsum(dim=1)
    return values, weights, torch.randint(50, 70, (UTTERANCES,)), labels


def loop_and_fire(values, weights, targets):
    """Integrate frame by frame, all utterances at once: fill, fire, carry on; no frame fires twice."""
    scaled = weights * (targets / weights.sum(dim=1))[:, None]
    filled, state = torch.zeros(UTTERANCES), torch.zeros(UTTERANCES, WIDTH)
    states, fired = [], []
    for weight, value in zip(scaled.unbind(1), values.unbind(1), strict=True):
        fires = filled + weight >= 1 - 1e-6
        part = torch.where(fires, 1 - filled, weight)
        state = state + part[:, None] * value
        states.append(state)
        fired.append(fires)
        rest = weight - part
        state = torch.where(fires[:, None], rest[:, None] * value, state)
        filled = torch.where(fires, rest, filled + weight)
    return torch.stack(states, dim=1)[torch.stack(fired, dim=1)]


def loop_over_runs(values, labels):
    """Pool frame by frame, an utterance after another."""
    positions = []
    for row, frames in zip(labels.tolist(), values.unbind(0), strict=True):
        state, count, before = None, 0, None
        for label, frame in zip(row, frames.unbind(0), strict=True):
            if label == before:
                state, count = state + frame, count + 1
                continue
            if count:
                positions.append(state / count)
            state, count, before = frame, 1, label
        positions.append(state / count)
    return torch.stack(positions)


def compress(values, labels):
    runs = find_runs(labels, torch.full((UTTERANCES,), FRAMES))
    return pool(values, runs, weigh_frames(runs, torch.ones(UTTERANCES, FRAMES)))


def flat(values, lengths):
    return torch.cat([row[:length] for row, length in zip(values, lengths.tolist(), strict=True)])


def time_s(function, inputs, repeats):
    """Return the median time of each function forward and backward, in seconds, taken in turns."""
    times = {name: [] for name in function}
    for turn in range(repeats + 1):
        for name, call in function.items():
            for tensor in inputs:
                tensor.grad = None
            start_s = time.perf_counter()
            call().sum().backward()
            if turn:  # the first one warms up
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
        "CIF": lambda: loop_and_fire(values, weights, targets),
        "CTC compression": lambda: loop_over_runs(values, labels),
    }
    with torch.no_grad():
        fired = integrate_and_fire(values, weights, lengths, targets)
        torch.testing.assert_close(flat(fired.values, fired.lengths), loops["CIF"](), rtol=0, atol=1e-3)
        runs = find_runs(labels, lengths)
        torch.testing.assert_close(flat(fast["CTC compression"](), runs.lengths), loops["CTC compression"]())
    times, loop_times = time_s(fast, (values, weights), REPEATS), time_s(loops, (values, weights), LOOPS)
    with capsys.disabled():
        print(f"\nForward and backward at ({UTTERANCES}, {FRAMES}, {WIDTH}):")
        print(f"  linear layer {1e3 * times['linear layer']:.1f} ms")
        for name, loop_s in loop_times.items():
            share, gain = times[name] / times["linear layer"], loop_s / times[name]
            print(f"  {name} {1e3 * times[name]:.1f} ms: {share:.2f} of it, {gain:.0f} times faster than the loop")
    for name, loop_s in loop_times.items():
        assert times[name] <= times["linear layer"]
        assert loop_s >= 20 * times[name]
