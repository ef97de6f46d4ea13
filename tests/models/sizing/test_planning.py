"""Memory and lengths of a recipe's model that is never built in memory."""

import pytest
import torch

from speechllm.costs.memory import LABEL_BYTES
from speechllm.models.sizing.planning import ModelPlan, Workload
from speechllm.registry import ADAPTERS
from tests.tiny import SIZES

MODEL = {
    "encoder": {"name": "whisper", "config": {"d_model": 16, "encoder_layers": 1, "encoder_attention_heads": 2}},
    "adapter": {"name": "conv", "layers": 2, "dim": 16, "heads": 2},
    "decoder": {"name": "causal_lm", "config": {"model_type": "llama", **SIZES, "num_key_value_heads": 1}},
}
WORK = Workload([2.0, 6.0], 60.0, 16, 10.0, None, devices=2, accumulated=4, steps=100)


def test_no_memory_is_taken():
    assert {p.device.type for p in ModelPlan(MODEL).model.parameters()} == {"meta"}


def test_lengths_are_those_of_the_parts():
    size = ModelPlan(MODEL).sizes([2.0, 6.0])
    assert size.encoder_frames == [100, 300]
    assert size.speech_positions == [25, 75]
    assert size.target_tokens == [1 + 5, 1 + 16]
    assert size.llm_positions == [20 + 25 + 6, 20 + 75 + 17]


def test_assumed_compression():
    ctc = {**MODEL, "adapter": {**MODEL["adapter"], "name": "ctc", "vocabulary": "characters"}}
    assert ModelPlan(ctc).compression == 13
    assert ModelPlan(ctc).sizes([2.6]).speech_positions == [10]
    assert ModelPlan(ctc, compression=5).sizes([2.0]).speech_positions == [20]
    assert ModelPlan(MODEL, compression=5).sizes([2.0]).speech_positions == [25], "conv itself says"


def test_workload():
    assert WORK.mean_s == 4.0
    assert WORK.batch_utterances == 15.0
    assert WORK.utterances == 100 * 2 * 4 * 15.0


def test_more_takes_more_and_what_fits_fits():
    plan = ModelPlan(MODEL)
    small, large = (plan.largest_memory(WORK, seconds).total for seconds in (10.0, 100.0))
    assert small < large
    middle = (small + large) / 2
    seconds = plan.largest_batch_seconds(WORK, middle)
    assert plan.largest_memory(WORK, seconds).total <= middle
    assert plan.largest_memory(WORK, seconds + 30).total > middle
    assert plan.largest_batch_seconds(WORK, 0.1) is None
    assert plan.largest_memory(WORK, checkpoint_all=True).llm < plan.largest_memory(WORK).llm
    assert plan.largest_memory(WORK, shards=4).optimizer == pytest.approx(plan.largest_memory(WORK).optimizer / 4)


def test_what_a_head_keeps_of_a_label():
    """The logarithm of each score; all else is small beside 20,000 labels."""
    from speechllm.batch import Frames

    adapter = ADAPTERS.build(
        {"name": "ctc", "dim": 16, "heads": 2, "layers": 2}, in_dim=16, out_dim=16, vocab_size=20_000, frame_rate=50.0
    ).train()
    weights = {parameter.untyped_storage().data_ptr() for parameter in adapter.parameters()}
    kept = {}

    def keep(tensor):
        if tensor.untyped_storage().data_ptr() not in weights:
            kept[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    frames = Frames(torch.randn(1, 200, 16), torch.tensor([200]))
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor), torch.autocast("cpu", torch.bfloat16):
        adapter(frames, [torch.arange(20)])
    per_label = sum(tensor.untyped_storage().nbytes() for tensor in kept.values()) / (200 * 20_001)
    assert per_label == pytest.approx(LABEL_BYTES, rel=0.3)
