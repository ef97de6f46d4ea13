"""Two processes, by DDP and by FSDP2, do what one does: updates, validation, checkpoints in both directions."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from lightning.pytorch.strategies import FSDPStrategy, ModelParallelStrategy

from speechllm.errors import UserError
from speechllm.models.sharding import check_strategy, find_layers, load_state
from tests.models import shared_run
from tests.tiny import tiny_decoder, tiny_encoder

QLORA = {"decoder": "qlora", "encoder": "frozen"}
RUNS = [
    {"name": "plain"},
    {"name": "resumed", "steps": 4, "resume": "of_one"},
    {"name": "qlora", "parts": QLORA, "trainer": {"accumulate_grad_batches": 2, "val_check_interval": 4}},
    {"name": "bf16", "trainer": {"precision": "bf16-mixed"}},
    {"name": "started", "steps": 1, "init_from": "{folder}/of_one.ckpt"},
]
"""Runs of each strategy, all of whose results are compared with those of a single process."""


def start(strategy, folder):
    runs = [{**options, "folder": str(folder / strategy)} for options in RUNS]
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
    programs = [start(strategy, folder) for strategy in ("auto", "ddp", "fsdp2")]
    for program in programs:
        printed, _ = program.communicate(timeout=300)
        assert program.returncode == 0, printed[-4000:]
    return folder


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


@pytest.mark.parametrize("strategy", [ModelParallelStrategy(), FSDPStrategy()])
def test_other_ways_of_sharing_are_refused(strategy):
    with pytest.raises(UserError, match=r"Use `strategy: fsdp2` .* Tensor parallelism is not supported"):
        check_strategy(strategy)


def test_layers_are_found():
    assert len(find_layers(tiny_decoder())) == 2
    assert len(find_layers(tiny_decoder("gpt_neox"))) == 2
    assert len(find_layers(tiny_encoder("whisper"))) == 2
    assert len(find_layers(tiny_encoder("hubert"))) == 2


def test_load_state_of_a_whole_model():
    model = torch.nn.Linear(2, 1)
    load_state(model, {"weight": torch.ones(1, 2)})
    assert model.weight.tolist() == [[1, 1]]
