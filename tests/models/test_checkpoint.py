"""Checkpoints of LoRA and QLoRA, and weights that training starts from."""

import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint

import speechllm.encoders
import speechllm.fusions  # noqa: F401
from speechllm.errors import UserError
from speechllm.models import SpeechLLM
from speechllm.models.checkpoint import saved_keys
from speechllm.models.initial_weights import average
from speechllm.registry import ADAPTERS, ENCODERS
from tests.models.conftest import SPECS
from tests.named import save_llm, save_whisper

LORA = {"r": 2, "dropout": 0.0}
CONV = SPECS["adapter"]


@pytest.fixture(scope="module")
def named(tmp_path_factory):
    """Specs of an encoder and an LLM that have names."""
    folder = tmp_path_factory.mktemp("named")
    torch.manual_seed(1)
    return {"encoder": save_whisper(folder / "whisper"), "decoder": save_llm(folder / "llama")}


@pytest.fixture
def fit(build, trainer, eight, as_loader, tmp_path):
    """Return a function that trains a recipe for some steps and saves its run; it returns the model and the folder."""

    def fit(run, ckpt_path=None, max_steps=2, **options):
        model = build(**options)
        fitted = trainer(max_steps=max_steps)
        fitted.fit(model, as_loader([eight] * max_steps), ckpt_path=ckpt_path, weights_only=True)
        fitted.save_checkpoint(tmp_path / run / "checkpoints" / "last.ckpt")
        return model.eval(), tmp_path / run

    return fit


def tuned(spec, tuning, **lora):
    return {**spec, "tuning": tuning, "lora": {**LORA, **lora}}


def state_of(run):
    return torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]


def losses(model, batch):
    with torch.no_grad():
        return model.eval().losses(batch).llm


@pytest.mark.parametrize("tuning", ["lora", "qlora"])
def test_a_checkpoint_holds_the_matrices_of_lora_alone(tuning, fit, named):
    """Neither the weights below them nor their four bits: names bring those back (spec §14.6)."""
    model, run = fit("run", encoder=tuned(named["encoder"], tuning), decoder=tuned(named["decoder"], tuning))
    matrices = {key for key, _ in model.named_parameters() if ".lora_" in key}
    assert len(matrices) == 2 * (2 * 2 + 2 * 7)
    assert set(state_of(run)) == matrices | {f"adapter.{key}" for key in model.adapter.state_dict()}


@pytest.mark.parametrize("tuning", ["lora", "qlora"])
@pytest.mark.parametrize("kind", ["random", "named"])
def test_a_run_with_lora_loads_exactly(kind, tuning, fit, named, eight):
    """Random weights under LoRA are in the checkpoint, in four bits where they are so: not a bit is different."""
    specs = named if kind == "named" else SPECS
    model, run = fit("run", encoder=tuned(specs["encoder"], tuning), decoder=tuned(specs["decoder"], tuning))
    torch.manual_seed(99)
    loaded = SpeechLLM.load(run, device="cpu")
    assert torch.equal(losses(loaded, eight), losses(model, eight))
    assert loaded.decode(eight, 1) == model.decode(eight, 1)


@pytest.mark.parametrize("tuning", ["lora", "qlora"])
def test_resuming_lora_gives_the_weights_of_a_run_that_never_stopped(
    tuning, build, trainer, eight, as_loader, named, tmp_path
):
    options = {"encoder": named["encoder"], "decoder": tuned(named["decoder"], tuning), "warmup_steps": 1}
    batches = [eight] * 2
    whole = build(**options)
    saving = ModelCheckpoint(tmp_path, filename="{epoch}", save_top_k=-1)
    trainer(max_steps=4, enable_checkpointing=True, callbacks=[saving]).fit(whole, as_loader(batches))
    second = build(**options)
    trainer(max_steps=4).fit(second, as_loader(batches), ckpt_path=tmp_path / "epoch=0.ckpt", weights_only=True)
    assert second.global_step == 4
    for key, value in whole.state_dict().items():
        assert torch.equal(value, second.state_dict()[key]), key


def test_a_checkpoint_of_lora_with_another_scale(fit, build, trainer, eight, as_loader, named):
    """No tensor holds alpha: with another one the same matrices would be another model."""
    decoder = tuned(named["decoder"], "lora", alpha=4)
    _, run = fit("run", encoder=named["encoder"], decoder=decoder)
    other = build(encoder=named["encoder"], decoder=tuned(named["decoder"], "lora", alpha=8))
    with pytest.raises(UserError, match="alpha / r of the decoder's LoRA is 2 in the checkpoint and 4 here"):
        trainer().test(other, as_loader([eight]), ckpt_path=run / "checkpoints" / "last.ckpt")


def test_parts_inside_a_part_are_judged_one_by_one(named, build):
    """Two parallel encoders with names, one under LoRA: its matrices and the fusion are saved, nothing else of them."""
    tiny = ENCODERS.get("parallel").tiny
    encoders = [tuned(named["encoder"], "lora"), named["encoder"]]
    model = build(encoder={"name": "parallel", **tiny, "encoders": encoders}, decoder=named["decoder"])
    encoder = {key for key in saved_keys(model) if key.startswith("encoder.")}
    layers = [f"encoder.first.encoder.layers.{i}.self_attn.{name}" for i in (0, 1) for name in ("q_proj", "v_proj")]
    matrices = {f"{layer}.lora_{matrix}.default.weight" for layer in layers for matrix in "AB"}
    assert encoder == matrices | {f"encoder.fusion.{key}" for key in model.encoder.fusion.state_dict()}


# Two stages


def test_the_second_stage_starts_where_the_first_ended(fit, named, eight, capsys):
    """Stage 1 trains the adapter, stage 2 adds LoRA of the LLM (spec §15.4): the same losses before its first step."""
    first, run = fit("first", **named)
    second, _ = fit("second", **two_stages(named, run), lr=0.0)
    assert torch.equal(losses(second, eight), losses(first, eight))
    for key, value in first.adapter.state_dict().items():
        assert torch.equal(value, second.adapter.state_dict()[key])


def two_stages(named, run):
    return {"encoder": named["encoder"], "decoder": tuned(named["decoder"], "lora"), "init_from": str(run)}


def test_a_part_of_another_kind_begins_anew(fit, build, named):
    """`base` has tensors of the same names and shapes as `conv`, but they are not the same layers' weights."""
    parts = {"encoder": {**named["encoder"], "tuning": "full"}, "decoder": named["decoder"]}
    first, run = fit("first", **parts)
    parts["adapter"] = {"name": "base", **ADAPTERS.get("base").tiny}
    second, _ = fit("second", **parts, init_from=str(run), lr=0.0)
    assert torch.equal(second.encoder.encoder.conv1.weight, first.encoder.encoder.conv1.weight)
    assert first.adapter.in_proj[0].weight.shape == second.adapter.in_proj[0].weight.shape
    assert torch.equal(second.adapter.in_proj[0].weight, build(**parts).adapter.in_proj[0].weight)


def test_what_was_loaded_is_said_in_one_line(fit, build, named, caplog):
    adapter = {"name": "mlp", **ADAPTERS.get("mlp").tiny}
    encoder = {**named["encoder"], "tuning": "full"}
    _, run = fit("first", encoder=encoder, decoder=named["decoder"])
    count = {part: sum(key.startswith(part) for key in state_of(run)) for part in ("encoder", "adapter")}
    with caplog.at_level("INFO"):
        second, _ = fit(
            "second", encoder=encoder, adapter=adapter, decoder=tuned(named["decoder"], "lora"), init_from=str(run)
        )
    (line,) = [record.getMessage() for record in caplog.records if "Weights from" in record.getMessage()]
    new = len(second.adapter.state_dict())
    assert line == (
        f"Weights from {run / 'checkpoints' / 'last.ckpt'}: loaded {count['encoder']} of encoder; "
        f"new {new} of adapter, 28 of decoder; left out {count['adapter']} of adapter."
    )


@pytest.mark.parametrize("tuning", ["frozen", "lora", "qlora"])
@pytest.mark.parametrize("part", ["encoder", "decoder"])
def test_a_part_trained_in_full_goes_on_frozen_or_below_lora(part, tuning, fit, build, named, eight):
    """Its name no longer brings its weights back: they stay in the checkpoints, and reload exactly."""
    _, run = fit("first", **{**named, part: {**named[part], "tuning": "full"}})
    spec = tuned(named[part], tuning) if tuning != "frozen" else named[part]
    second, again = fit("second", **{**named, part: spec}, init_from=str(run))
    assert sum(key.startswith(part) for key in state_of(again)) > 16
    expected = state_of(run)
    module = second.get_submodule(part)
    key = "encoder.layers.0.self_attn.q_proj" if part == "encoder" else "llm.model.layers.0.self_attn.q_proj"
    layer = module.get_submodule(key)
    weight = getattr(layer, "base_layer", layer).weight
    if tuning == "qlora":
        full = expected[f"{part}.{key}.weight"]
        # Half the widest gap between two values of NF4 is 0.152 of a block's largest weight.
        assert (weight - full).abs().max() < 0.153 * full.abs().max()
    else:
        assert torch.equal(weight, expected[f"{part}.{key}.weight"])
    assert not torch.equal(weight, build(**{**named, part: spec}).get_submodule(f"{part}.{key}").weight)
    loaded = SpeechLLM.load(again, device="cpu")
    assert torch.equal(losses(loaded, eight), losses(second, eight))
    _, resumed = fit(
        "third", ckpt_path=again / "checkpoints" / "last.ckpt", max_steps=3, **{**named, part: spec}, init_from=str(run)
    )
    assert set(state_of(resumed)) == set(state_of(again))


def test_lora_adapts_a_trained_model_with_everything_else_frozen(fit, named, eight):
    """Domain adaptation (spec §10.6): the adapter is that of the first run, in evaluation mode, and stays so."""
    first, run = fit("first", **named, adapter={**CONV, "dropout": 0.5})
    second, again = fit(
        "second", **two_stages(named, run), adapter={**CONV, "dropout": 0.5}, freeze=["adapter"], weight_decay=0.1
    )
    second.train()
    assert not second.adapter.training
    assert second.decoder.training
    for key, value in first.adapter.state_dict().items():
        assert torch.equal(value, second.adapter.state_dict()[key])
    assert {key for key, p in second.named_parameters() if p.requires_grad} == {
        key for key, _ in second.named_parameters() if ".lora_" in key
    }
    loaded = SpeechLLM.load(again, device="cpu")
    assert torch.equal(losses(loaded, eight), losses(second, eight))
    assert not torch.equal(losses(second, eight), losses(first, eight))


def test_lora_goes_on_from_lora(fit, named, eight):
    options = {"encoder": named["encoder"], "decoder": tuned(named["decoder"], "lora")}
    first, run = fit("first", **options)
    second, _ = fit("second", **options, init_from=str(run), lr=0.0)
    assert torch.equal(losses(second, eight), losses(first, eight))


def test_lora_that_is_left_out_is_said(fit, named, caplog):
    _, run = fit("first", encoder=named["encoder"], decoder=tuned(named["decoder"], "lora"))
    with caplog.at_level("INFO"):
        fit("second", **named, init_from=str(run))
    assert "left out 28 of decoder. What its LoRA has learned is left out: merge that run first" in caplog.text


def test_resuming_wins_over_the_run_before(fit, named, eight):
    _, run = fit("first", **named)
    options = two_stages(named, run)
    second, again = fit("second", **options)
    resumed, _ = fit("third", ckpt_path=again / "checkpoints" / "last.ckpt", max_steps=2, **options)
    assert torch.equal(losses(resumed, eight), losses(second, eight))


def test_testing_does_not_look_for_the_run_before(fit, named, build, trainer, eight, as_loader, tmp_path):
    _, run = fit("first", **named)
    _, again = fit("second", **two_stages(named, run))
    run.rename(tmp_path / "gone")
    model = build(**two_stages(named, run))
    trainer().test(model, as_loader([eight]), ckpt_path=again / "checkpoints" / "last.ckpt", verbose=False)
    fit("third", ckpt_path=again / "checkpoints" / "last.ckpt", max_steps=3, **two_stages(named, run))
    with pytest.raises(UserError, match="There is no trained model at"):
        fit("fourth", **two_stages(named, run))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"adapter": {**CONV, "dim": 8}}, r"does not fit: adapter\..* is \(16, 16\) there and \(8, 16\) in the recipe"),
        ({"adapter": {"name": "mlp", "hidden_dim": 16}}, "does not fit: none of its tensors is in this recipe"),
    ],
)
def test_a_run_that_does_not_fit(change, message, fit, named):
    _, run = fit("first", **named)
    with pytest.raises(UserError, match=message):
        fit("second", **{**named, **change}, init_from=str(run))


def test_starting_from_the_mean_of_several_checkpoints(fit, named):
    """Paper D's second stage starts from the mean of the three best of its first (spec §15.4)."""
    runs = [fit(f"run{steps}", max_steps=steps, **named)[1] for steps in (1, 2, 3)]
    second, _ = fit("second", **two_stages(named, None) | {"init_from": [str(run) for run in runs]}, lr=0.0)
    states = [state_of(run) for run in runs]
    for key, value in second.adapter.state_dict().items():
        mean = torch.stack([state[f"adapter.{key}"] for state in states]).mean(dim=0)
        torch.testing.assert_close(value, mean, rtol=0, atol=1e-7)


def test_averages_by_hand():
    states = [
        {"a": torch.tensor([1.0, 5.0]), "n": torch.tensor(3)},
        {"a": torch.tensor([2.0, 1.0]), "n": torch.tensor(3)},
    ]
    assert torch.equal(average(states)["a"], torch.tensor([1.5, 3.0]))
    assert average([{"a": torch.ones(2, dtype=torch.bfloat16)}] * 3)["a"].dtype == torch.bfloat16
    with pytest.raises(UserError, match="of different recipes: 'n'"):
        average([states[0], {"a": torch.zeros(2)}])
    with pytest.raises(UserError, match="of different recipes: 'a'"):
        average([states[0], {"a": torch.zeros(3), "n": torch.tensor(3)}])
    with pytest.raises(UserError, match="'n' holds whole numbers that differ"):
        average([states[0], {**states[1], "n": torch.tensor(4)}])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"freeze": ["adaptor"]},
            r"`freeze` names 'adaptor'\. Did you mean 'adapter'[?] Names begin with: encoder, adapter",
        ),
        ({"freeze": ["decoder"]}, r"frozen by its own option: `decoder: \{…, tuning: frozen\}`"),
        ({"decoder": {**SPECS["decoder"], "tuning": "lora", "lora": {"rank": 2}}}, "`lora` does not take 'rank'"),
        (
            {"encoder": {"name": "parallel", "encoders": [{"name": "whisper", "tuning": "qlor"}] * 2, "fusion": {}}},
            "Unknown tuning 'qlor'. Did you mean 'qlora'",
        ),
    ],
)
def test_tuning_is_checked_before_anything_is_built(change, message):
    with pytest.raises(UserError, match=message):
        SpeechLLM(**{**SPECS, **change})


def test_freezing_a_module_that_is_not_there(build):
    with pytest.raises(UserError, match=r"`freeze` names 'adapter\.in_prj', but 'adapter' holds only: .*in_proj"):
        build(freeze=["adapter.in_prj"])


def test_freezing_a_module_inside_a_part(build):
    model = build(freeze=["adapter.in_proj"])
    assert not any(p.requires_grad for p in model.adapter.in_proj.parameters())
    assert any(p.requires_grad for p in model.adapter.parameters())
    model.train()
    assert model.adapter.training
    assert not model.adapter.in_proj.training
