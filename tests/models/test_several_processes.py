"""Processes do what one does, by DDP, FSDP2 and tensor parallelism: updates, validation, checkpoints both ways."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from lightning.pytorch.strategies import FSDPStrategy, ModelParallelStrategy

from speechllm.errors import UserError
from speechllm.models import SpeechLLM
from speechllm.models.sharding import FSDP2, check_decoder_shares, check_strategy, find_layers, load_state
from speechllm.registry import ADAPTERS
from tests.models import shared_run
from tests.tiny import tiny_decoder, tiny_encoder


@pytest.fixture(scope="module", autouse=True)
def own_adapter():
    """Forget the adapter of these tests when they are done."""
    yield
    ADAPTERS._parts.pop("headed", None)


QLORA = {"decoder": "qlora", "encoder": "frozen"}
RUNS = [
    {"name": "plain"},
    {"name": "resumed", "steps": 4, "resume": "of_one"},
    {"name": "qlora", "parts": QLORA, "trainer": {"accumulate_grad_batches": 2, "val_check_interval": 4}},
    {"name": "bf16", "trainer": {"precision": "bf16-mixed"}},
    {"name": "started", "steps": 1, "init_from": "{folder}/of_one.ckpt"},
]
"""Runs of each strategy, all of whose results are compared with those of a single process."""

LLAMA = {"family": "llama", "num_attention_heads": 4, "num_key_value_heads": 2}
TWO_HEADS = {"num_key_value_heads": 2}
NO_NOISE = {"attention_bias": False}
"""What is added to all keys alike changes no attention: Adam would make steps out of the rounding of its gradients."""

SPLIT_RUNS = [
    {"name": "plain", "parts": LLAMA},
    {"name": "resumed", "parts": LLAMA, "steps": 4, "resume": "of_one"},
    {"name": "started", "parts": LLAMA, "steps": 1, "init_from": "{folder}/of_one.ckpt"},
    {"name": "neox", "parts": {"family": "gpt_neox", "decoder": "full", **NO_NOISE}},
    {"name": "neox_lora", "parts": {"family": "gpt_neox"}},
    {"name": "qwen2", "parts": {"family": "qwen2", "decoder": "full", **TWO_HEADS}},
    {"name": "qwen3", "parts": {"family": "qwen3", "decoder": "full", "head_dim": 8, **TWO_HEADS}},
    {
        "name": "gemma2",
        "parts": {"family": "gemma2", "decoder": "frozen", **TWO_HEADS},
        "trainer": {"accumulate_grad_batches": 2, "val_check_interval": 4},
    },
]
"""Runs of tensor parallelism: grouped heads, fused ones, biases, norms of heads; LoRA, trained in full, and frozen."""

DROPOUT = {"name": "dropout", "parts": {**LLAMA, "dropout": 0.5}, "steps": 4}


def start(strategy, folder, of_strategy=RUNS):
    runs = [{**options, "folder": str(folder / strategy)} for options in of_strategy]
    text = json.dumps(runs).replace("{folder}", str(folder / strategy))
    command = [sys.executable, "-m", "tests.models.shared_run", strategy, text]
    output = subprocess.PIPE
    return subprocess.Popen(command, cwd=Path(__file__).parents[2], stdout=output, stderr=subprocess.STDOUT, text=True)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Return a folder with the runs of each strategy, after all of them have ended."""
    folder = tmp_path_factory.mktemp("processes")
    for strategy in ("auto", "ddp", "fsdp2"):
        (folder / strategy).mkdir()
        shared_run.run("auto", folder / strategy, "of_one")
    finish([start(strategy, folder) for strategy in ("auto", "ddp", "fsdp2")])
    return folder


def finish(programs):
    for program in programs:
        printed, _ = program.communicate(timeout=300)
        assert program.returncode == 0, printed[-4000:]


def run_split(folder, strategy):
    for kind in ("auto", strategy):
        (folder / kind).mkdir()
        shared_run.run("auto", folder / kind, "of_one", parts=LLAMA)
    finish([start("auto", folder, SPLIT_RUNS), start(strategy, folder, [*SPLIT_RUNS, DROPOUT])])
    return folder


@pytest.fixture(scope="module")
def split(tmp_path_factory):
    """Return a folder with the runs of two processes that share out each layer, and of one."""
    return run_split(tmp_path_factory.mktemp("split"), "tensor")


@pytest.fixture(scope="module")
def split_and_dealt(tmp_path_factory):
    """Return a folder with the runs of two such groups, which share the data out, and of one process."""
    return run_split(tmp_path_factory.mktemp("split_and_dealt"), "tensor_and_data")


def checkpoint(folder, strategy, name):
    return torch.load(folder / strategy / f"{name}.ckpt", weights_only=True)


def first_moments(given):
    return [state["exp_avg"] for state in given["optimizer_states"][0]["state"].values()]


def assert_same(one, two, atol=1e-5):
    """Assert that checkpoints have the same weights and the same state of the optimiser, in the same order."""
    assert list(one["state_dict"]) == list(two["state_dict"])
    for key, value in one["state_dict"].items():
        torch.testing.assert_close(two["state_dict"][key], value, rtol=0, atol=atol, msg=key)
    states = [given["optimizer_states"][0]["state"] for given in (one, two)]
    assert list(states[0]) == list(states[1])
    for number, state in states[0].items():
        for name, value in state.items():
            torch.testing.assert_close(states[1][number][name], value, rtol=0, atol=atol)
    assert one["lr_schedulers"] == two["lr_schedulers"]


@pytest.mark.loopback
@pytest.mark.parametrize("strategy", ["ddp", "fsdp2"])
class TestTwoProcesses:
    @pytest.mark.parametrize("name", [run["name"] for run in RUNS])
    def test_do_what_one_does(self, folder, strategy, name):
        """Shares of all sizes, empty ones too; a head that one process alone has used; weights and optimiser."""
        one, two = (checkpoint(folder, kind, name) for kind in ("auto", strategy))
        if name == "bf16":  # Adam makes steps of the full size out of rounding, so that weights are no measure
            moments = [torch.cat([m.flatten() for m in first_moments(given)]) for given in (one, two)]
            assert torch.nn.functional.cosine_similarity(*moments, dim=0) > 0.99
            return
        assert_same(one, two)
        assert max(moment.abs().max() for moment in first_moments(one)) > 1e-3, "there must have been gradients"

    @pytest.mark.parametrize("name", ["plain", "resumed", "qlora"])
    def test_log_the_same_validation(self, folder, strategy, name):
        one, two = (json.loads((folder / kind / f"{name}.json").read_text()) for kind in ("auto", strategy))
        assert two["logged"] == [pytest.approx(values, abs=1e-4) for values in one["logged"]]
        assert len(one["logged"]) == 1
        assert one["logged"][0]["val_cer"] not in (0, 100)

    def test_write_what_one_process_reads(self, folder, strategy):
        shared_run.run("auto", folder / strategy, "back", steps=4, resume="plain")
        assert_same(checkpoint(folder, "auto", "resumed"), checkpoint(folder, strategy, "back"))

    def test_write_what_was_trained(self, folder, strategy):
        """Frozen weights here are random, have no name, and so are kept; but the file is no larger than one's."""
        sizes = [(folder / kind / "qlora.ckpt").stat().st_size for kind in ("auto", strategy)]
        assert sizes[0] == pytest.approx(sizes[1], rel=0.02)

    def test_hold_a_share_each(self, folder, strategy):
        share = json.loads((folder / strategy / "plain.json").read_text())["share"]
        assert share == 1 if strategy == "ddp" else share < 0.75, "positions of the encoder are frozen, and stay whole"


def assert_same_runs(folder, strategy):
    for name in (run["name"] for run in SPLIT_RUNS):
        one, split = (checkpoint(folder, kind, name) for kind in ("auto", strategy))
        assert_same(one, split)
        assert max(moment.abs().max() for moment in first_moments(one)) > 1e-3, "there must have been gradients"
        one, split = (json.loads((folder / kind / f"{name}.json").read_text()) for kind in ("auto", strategy))
        assert split["texts"] == one["texts"], name
        assert split["logged"] == [pytest.approx(values, abs=1e-4) for values in one["logged"]]
        for figure in ("train_loss", "grad_norm", "utterances", "tflop"):
            assert split["figures"][figure] == pytest.approx(one["figures"][figure], rel=1e-5), "no batch counts twice"
        assert split["in_layers"] < 0.6 * one["in_layers"], "a process must hold half of each matrix"


@pytest.mark.loopback
class TestTensorParallel:
    def test_does_what_one_process_does(self, split):
        assert_same_runs(split, "tensor")
        texts = json.loads((split / "auto" / "neox.json").read_text())["texts"]
        assert len(texts) == 8
        assert len({text for _, text in texts}) > 1

    def test_draws_the_same_random_numbers(self, split):
        one, other = json.loads((split / "tensor" / "dropout.json").read_text())["losses"]
        assert one == other
        without = json.loads((split / "auto" / "resumed.json").read_text())["losses"][0]
        assert one != pytest.approx(without, rel=1e-4), "dropout must have been on"

    def test_writes_what_one_process_reads(self, split):
        shared_run.run("auto", split / "tensor", "back", steps=4, resume="plain", parts=LLAMA)
        assert_same(checkpoint(split, "auto", "resumed"), checkpoint(split, "tensor", "back"))


@pytest.mark.loopback
@pytest.mark.slow
def test_tensor_parallel_groups_share_the_data_out(split_and_dealt):
    assert_same_runs(split_and_dealt, "tensor_and_data")
    result = json.loads((split_and_dealt / "tensor_and_data" / "dropout.json").read_text())
    assert result["losses"][0] == result["losses"][1] != result["losses"][2] == result["losses"][3]
    assert result["share"] < 0.75


@pytest.mark.parametrize("strategy", [ModelParallelStrategy(), FSDPStrategy()])
def test_other_ways_of_sharing_are_refused(strategy):
    with pytest.raises(UserError, match=r"Use `strategy: fsdp2` .* is the option `tensor_parallel_size` of"):
        check_strategy(strategy)


@pytest.mark.parametrize(
    ("size", "spec", "kv_cache", "message"),
    [
        (3, {"config": LLAMA}, "dynamic", "not 4 attention heads and 2 key and value heads and 32 hidden units"),
        (4, {"config": LLAMA}, "dynamic", "must divide .* not 2 key and value heads. Choose"),
        (2, {"config": {"model_type": "gpt2"}}, "dynamic", "but the language model is 'gpt2'"),
        (2, {"tuning": "qlora"}, "dynamic", "does not go with `tuning: qlora`"),
        (2, {"compile": True}, "dynamic", "does not go with `compile: true`"),
        (2, {}, "static", "does not go with `kv_cache: static`"),
    ],
)
def test_decoders_that_cannot_be_split_are_refused_before_weights_are_loaded(size, spec, kv_cache, message):
    if spec.get("config") is LLAMA:
        spec = {"config": shared_run.specs(**LLAMA)["decoder"]["config"]}
    decoder = {"name": "causal_lm", **spec}
    strategy = FSDP2(tensor_parallel_size=size)
    with pytest.raises(UserError, match=message):
        check_decoder_shares(strategy, decoder, kv_cache)
    check_decoder_shares(FSDP2(), decoder, kv_cache)


@pytest.mark.parametrize("size", [3, 0, "auto"])
def test_a_size_that_does_not_divide_the_processes_is_refused(trainer, size):
    two = trainer(devices=2, strategy=FSDP2(tensor_parallel_size=size))
    with pytest.raises(UserError, match=f"divides the 2 processes of the trainer .* but is {size!r}"):
        two.strategy.setup_environment()


def test_a_model_checks_its_decoder_first(trainer):
    one = trainer(strategy=FSDP2(tensor_parallel_size=2))
    model = SpeechLLM(**shared_run.specs("qlora", **LLAMA))
    model._trainer = one
    with pytest.raises(UserError, match="does not go with `tuning: qlora`"):
        model.setup("fit")


def test_layers_are_found():
    assert len(find_layers(tiny_decoder())) == 2
    assert len(find_layers(tiny_decoder("gpt_neox"))) == 2
    assert len(find_layers(tiny_encoder("whisper"))) == 2
    assert len(find_layers(tiny_encoder("hubert"))) == 2


def test_load_state_of_a_whole_model():
    model = torch.nn.Linear(2, 1)
    load_state(model, {"weight": torch.ones(1, 2)})
    assert model.weight.tolist() == [[1, 1]]
