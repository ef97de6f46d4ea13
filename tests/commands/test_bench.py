"""Measured steps: figures that hang together, a table, a section that is replaced and not repeated."""

import json

import pytest
import torch

from speechllm.cli import main
from speechllm.models.sizing.benchmarking import PHASES, Bench, endless
from speechllm.models.sizing.random_twin import random_twin
from speechllm.models.sizing.synthetic_load import Noise, draw_batches, log_normal_durations
from tests.tiny import SIZES

QUICK = ["--steps", "2", "--warmup", "1", "--scale", "tiny", "--new_tokens", "3", "--data.batch_seconds", "12"]


def test_several_recipes_at_once(capsys, tmp_path):
    page = tmp_path / "performance.md"
    page.write_text("# Performance\n\nWords.\n\n## More\n", encoding="utf-8")
    recipes = ["quickstart", "connect/seamless_ctc_mistral", "parallel/whisper_mhubert_projector_qwen_2"]
    main(["bench", "--config", *recipes, *QUICK, "--write", str(page)])
    printed = capsys.readouterr().out
    assert all(f"\n{recipe}" in printed for recipe in recipes)
    assert "not searched" in printed
    text = page.read_text(encoding="utf-8")
    assert text.startswith("# Performance\n\nWords.\n\n## More\n")
    assert "speechllm bench --config quickstart connect/seamless_ctc_mistral" in text
    assert f"torch {torch.__version__.split('+')[0]}" in text
    assert text.count("<!-- bench:") == 1
    main(["bench", "--config", "quickstart", *QUICK, "--write", str(page)])
    again = page.read_text(encoding="utf-8")
    assert again.count("<!-- bench:") == again.count("| quickstart |") == 1
    assert "seamless" not in again


def test_figures_hang_together(capsys):
    main(["bench", "--config", "connect/whisper_ctc_llama", *QUICK, "--json"])
    (found,) = json.loads(capsys.readouterr().out)
    assert found["scale"] == "tiny"
    assert found["tflop_per_s"] == pytest.approx(found["samples_per_s"] * found["gflop_per_sample"] / 1e3)
    assert sum(found["shares"].values()) == pytest.approx(1)
    assert found["speech_positions_per_s_of_audio"] == pytest.approx(50 / 13, rel=0.1), "runs as of a trained head"
    assert found["mfu"] is None
    assert found["decode_tokens_per_s"] > 0


def tiny_bench(**options):
    model = {
        "encoder": {"name": "whisper", "config": {"d_model": 16, "encoder_layers": 1, "encoder_attention_heads": 2}},
        "adapter": {"name": "conv", "layers": 2, "dim": 16, "heads": 2},
        "decoder": {"name": "causal_lm", "config": {"model_type": "llama", **SIZES, "num_key_value_heads": 1}},
    }
    for part, changed in options.items():
        model[part] |= changed
    return Bench(random_twin(model), torch.device("cpu"))


def test_phases():
    """Each is marked once a step, in order; a trained encoder has its own way back."""
    noise = Noise(4.0, "st")
    batches = [[2.0, 1.5], [3.0]]
    frozen = tiny_bench().steps(endless(noise.batch, batches), 4, 0)
    assert frozen.utterances == 6
    assert frozen.audio_s == pytest.approx(13.0)
    assert frozen.shares["encoder backward"] == 0
    assert all(frozen.shares[phase] > 0 for phase in PHASES if phase != "encoder backward")
    trained = tiny_bench(encoder={"tuning": "full"}).steps(endless(noise.batch, batches), 2, 0)
    assert all(trained.shares[phase] > 0 for phase in PHASES)


def test_sizes_are_those_of_the_model():
    bench = tiny_bench()
    seen = []
    forward = bench.model.decoder.forward
    bench.model.decoder.forward = lambda speech, batch: seen.append(forward(speech, batch)) or seen[-1]
    measured = bench.steps(endless(Noise(4.0, "asr").batch, [[2.0, 1.5]]), 1, 0)
    assert measured.llm_positions == int(seen[0].stats["llm_positions"])
    assert measured.speech_positions == int(seen[0].stats["speech_positions"])


def test_it_trains():
    bench = tiny_bench()
    before = [p.detach().clone() for p in bench.trained]
    bench.steps(endless(Noise(4.0, "asr").batch, [[2.0]]), 1, 0)
    assert any(not torch.equal(old, new) for old, new in zip(before, bench.trained, strict=True))


def test_the_largest_batch_is_found(monkeypatch):
    bench, noise = tiny_bench(), Noise(10.0, "asr")
    tried = []
    monkeypatch.setattr(bench, "_fits", lambda seconds, *_: tried.append(seconds) or seconds <= 137)
    found = bench.largest_batch_seconds(40.0, 10.0, 100, noise)
    assert 137 * 0.94 < found <= 137
    assert len(tried) < 12
    assert bench.largest_batch_seconds(40.0, 10.0, 8, noise) == 80, "no batch can be larger"
    monkeypatch.setattr(bench, "_fits", lambda *_: False)
    assert bench.largest_batch_seconds(40.0, 10.0, 100, noise) is None


def test_out_of_memory_is_no_end(monkeypatch):
    bench = tiny_bench()

    def fail(*_):
        raise torch.cuda.OutOfMemoryError

    monkeypatch.setattr(bench, "step", fail)
    assert not bench._fits(10.0, 5.0, 8, Noise(5.0, "asr"))


def test_durations():
    durations = log_normal_durations(5000, 30.0)
    assert sum(durations) / len(durations) == pytest.approx(5.6, abs=0.15)
    assert min(durations) >= 1.0
    assert max(durations) <= 30.0
    assert durations == log_normal_durations(5000, 30.0)


def test_batches_are_within_the_budget_and_of_like_duration():
    batches = draw_batches(log_normal_durations(2000, 30.0), 50, 100.0, 16, 30)
    assert len(batches) == 50
    assert all(len(batch) <= 16 and max(batch) * len(batch) <= 100.0 for batch in batches)
    padding = sum(max(batch) * len(batch) for batch in batches) / sum(map(sum, batches))
    assert padding < 1.2


def test_cpu_takes_tiny_sizes_of_large_recipes_by_itself(capsys):
    main(["bench", "--config", "connect/whisper_conv_llama", "--steps", "1", "--warmup", "0", "--new_tokens", "1"])
    assert "tiny sizes" in capsys.readouterr().out


def test_wrong_input(capsys):
    for arguments, message in (
        (["--scale", "huge"], "`--scale` must be one of full, tiny"),
        (["--steps", "0"], "`--steps` must be at least 1"),
        (["--write", "nowhere/page.md"], "does not exist"),
        (["--device", "cuda"], "there is no GPU that torch can use"),
    ):
        with pytest.raises(SystemExit) as exit_:
            main(["bench", "--config", "quickstart", *arguments])
        assert exit_.value.code == 2
        assert message in capsys.readouterr().err


def test_a_device_that_is_none(capsys):
    with pytest.raises(SystemExit):
        main(["bench", "--config", "quickstart", "--device", "tpu"])
    assert "`--device` must be cpu or cuda, but is 'tpu'" in capsys.readouterr().err
