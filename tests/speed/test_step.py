"""A training step against the stock path: time, memory and the same losses, in one run on two CPU cores."""

import json
import statistics
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from tests.speed.step_paths import STEPS, build, make_batch, save_tokenizer, stock_loss

ROOT = Path(__file__).parents[2]
REPEATS = 3
LEAST_SPEED_UP = 4.0
MOST_MEMORY = 0.5

pytestmark = pytest.mark.speed


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    return save_tokenizer(tmp_path_factory.mktemp("tokenizer"))


def timed(step, model, batch):
    start_s = time.perf_counter()
    step(model, batch)
    elapsed_s = time.perf_counter() - start_s
    model.zero_grad()
    return elapsed_s


def test_time(tokenizer):
    """Stock and ours take turns; packed sequences, which a CPU does not pack by itself, are timed beside them."""
    torch.set_num_threads(2)
    batch, times_s = make_batch(), {"stock": [], "ours": [], "ours, packed": []}
    models = {name: build(tokenizer, packing=True if "packed" in name else "auto") for name in times_s}
    for repeat in range(REPEATS + 1):
        for name, model in models.items():
            elapsed_s = timed(STEPS[name.split(",")[0]], model, batch)
            if repeat:  # the first of each warms up
                times_s[name].append(elapsed_s)
    medians_s = {name: statistics.median(values) for name, values in times_s.items()}
    for name, median_s in medians_s.items():
        print(f"{name}: {median_s:.3f} s a step, {medians_s['stock'] / median_s:.2f} times as fast as the stock path")
    assert medians_s["stock"] >= LEAST_SPEED_UP * medians_s["ours"]


def test_memory(tokenizer):
    """By how much the resident memory rises at its peak in a step, each path in a fresh process."""
    added = {}
    for path, packing in (("stock", "padded"), ("ours", "padded"), ("ours", "packed")):
        command = [sys.executable, "-m", "tests.speed.step_paths", path, tokenizer, packing]
        result = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True)
        added[path, packing] = json.loads(result.stdout.splitlines()[-1])["added_bytes"]
        share = added[path, packing] / added["stock", "padded"]
        print(f"{path}, {packing}: {added[path, packing] / 2**20:.0f} MiB, {share:.0%} of the stock path")
    assert added["ours", "padded"] <= MOST_MEMORY * added["stock", "padded"]


@pytest.mark.parametrize("packing", [False, True])
def test_losses_are_the_models_own(tokenizer, packing):
    """On the same speech embeddings, the LLM's own forward over all positions with its own loss gives our loss."""
    model, batch = build(tokenizer, packing=packing), make_batch()
    losses = model.losses(batch)
    speech = model.speech(batch)
    expected = stock_loss(model, batch, speech.values, speech.lengths)
    torch.testing.assert_close(losses.llm.sum() / losses.target_lengths.sum(), expected, rtol=1e-5, atol=1e-5)


def test_frames_of_30_s_are_the_stock_encoders(tokenizer):
    """With ``pad_to_30s`` the encoder gives the stock frames; without, utterances do not attend to silence."""
    model, batch = build(tokenizer, packing=False), make_batch()
    encoder = model.encoder
    encoder.pad_to_30s = encoder.trim_to_speech = True
    with torch.no_grad():
        stock = encoder.encoder(encoder.log_mel(batch.audio, batch.audio_lengths, 3000)).last_hidden_state
        frames = encoder(batch.audio, batch.audio_lengths)
    for row, length in enumerate(frames.lengths.tolist()):
        torch.testing.assert_close(frames.values[row, :length], stock[row, :length], rtol=1e-4, atol=1e-4)
