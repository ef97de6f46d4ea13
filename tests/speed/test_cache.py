"""A cache takes the encoder out of a step: its time is that of a step whose frames are there already."""

import statistics
import time

import pytest
import torch

from speechllm.data.dataset import SpeechDataset
from speechllm.data.epoch_plan import Draw
from speechllm.data.utterance import Utterance
from speechllm.feature_cache.reader import FeatureReader
from speechllm.models import SpeechLLM
from tests.data.synthetic_rows import ListedRows
from tests.feature_cache.caches import write_cache, write_clips
from tests.tiny import seconds

DURATIONS_S = (3.1, 4.0, 4.6, 5.2, 5.8, 6.3, 7.0, 8.4)
ENCODER = {
    "name": "whisper",
    "config": {
        "d_model": 384,
        "encoder_layers": 4,
        "encoder_attention_heads": 6,
        "encoder_ffn_dim": 1536,
        "num_mel_bins": 80,
    },
}
DECODER = {
    "name": "causal_lm",
    "config": {
        "model_type": "llama",
        "hidden_size": 256,
        "intermediate_size": 768,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 4,
    },
}
REPEATS = 5


@pytest.mark.speed
def test_a_step_out_of_the_cache_costs_no_encoder(tmp_path):
    """Read, adapter, LLM, backward: as fast as with frames in memory, within a tenth of the encoder's share."""
    paths, clips = write_clips(tmp_path / "clips", seconds(*DURATIONS_S))
    write_cache(tmp_path / "cache", ENCODER, clips, batch_size=8, paths=paths)
    utterances = [
        Utterance(f"u{n}", str(path), 0.0, len(clip) / 16_000, "en", "ten words of text", {"de": "zehn Wörter Text"})
        for n, (path, clip) in enumerate(zip(paths, clips, strict=True))
    ]
    rows, draw = ListedRows(utterances), Draw(list(range(8)), [1.0] * 8, 0)
    live, cached = SpeechDataset(rows, False), SpeechDataset(rows, False, features=FeatureReader([tmp_path / "cache"]))
    adapter = {"name": "conv", "layers": 2, "dim": 256, "heads": 4}
    models = {}
    for name, encoder in (("live", ENCODER), ("cached", {**ENCODER, "cache": str(tmp_path / "cache")})):
        torch.manual_seed(0)
        models[name] = SpeechLLM(encoder, adapter, DECODER)
        models[name].configure_model()
    ready = cached[draw]

    def step(name, batch):
        model = models[name]
        losses = model.losses(batch())
        model._weighted_sum(losses).backward()
        model.zero_grad()
        return float(losses.llm.sum())

    runs = {
        "encoder in the step": lambda: step("live", lambda: live[draw]),
        "out of the cache": lambda: step("cached", lambda: cached[draw]),
        "frames in memory": lambda: step("cached", lambda: ready),
        "reading the cache": lambda: cached[draw],
        "reading the audio": lambda: live[draw],
    }
    for run in runs.values():
        run()
    times_s = {name: [] for name in runs}
    losses = {}
    for _ in range(REPEATS):
        for name, run in runs.items():
            began_s = time.perf_counter()
            losses[name] = run()
            times_s[name].append(time.perf_counter() - began_s)
    medians = {name: statistics.median(times) for name, times in times_s.items()}
    print()
    for name, median in medians.items():
        print(f"{name:<22}{1000 * median:8.1f} ms")
    share = medians["encoder in the step"] - medians["frames in memory"]
    left = medians["out of the cache"] - medians["frames in memory"]
    print(f"of the encoder's share of a step, {share / medians['encoder in the step']:.0%}, {left / share:.1%} is left")
    assert losses["out of the cache"] == pytest.approx(losses["encoder in the step"], rel=2e-3)
    assert left < 0.1 * share
    assert medians["encoder in the step"] > 1.3 * medians["out of the cache"]
    assert models["cached"].encoder.take_counts()[0] == 0
