"""The arithmetic of a step, on shapes small enough for the back of an envelope."""

import pytest

from speechllm.costs.flops import (
    FlopByPart,
    ModelShape,
    StepSize,
    Work,
    inference_flop,
    model_flop_utilization,
    training_flop,
)

SIZE = StepSize(encoder_frames=[10, 4], speech_positions=[5, 2], llm_positions=[9, 6], target_tokens=[3, 3])


def shape(**parts):
    return ModelShape(**{"encoder": (), "adapter": (), "llm": (), "output": (), **parts})


@pytest.mark.parametrize(
    ("work", "forward", "backward"),
    [
        (Work("encoder", forward=7), 2 * 7 * 14, 0),
        (Work("speech", forward=7, input_gradient=7), 2 * 7 * 7, 2 * 7 * 7),
        (Work("llm", forward=7, input_gradient=7, weight_gradient=2), 2 * 7 * 15, 2 * 9 * 15),
        (Work("target", forward=1), 2 * 6, 0),
        (Work("encoder", rate=8, offset=-4, forward=1), 2 * (76 + 28), 0),
        (Work("encoder", rate=0.25, offset=-2, forward=1), 2 * 0.5, 0),
        (Work("llm", pairs=3, pair_gradient=3), 2 * 3 * (81 + 36), 4 * 3 * (81 + 36)),
        (Work("llm", pairs=3, window=8), 2 * 3 * (72 + 36), 0),
    ],
)
def test_work(work, forward, backward):
    assert work.forward_flop(SIZE) == pytest.approx(forward)
    assert work.backward_flop(SIZE) == pytest.approx(backward)


def test_parts_are_kept_apart_and_recomputation_is_no_work_of_the_model():
    llm = Work("llm", forward=10, input_gradient=10)
    found = training_flop(
        shape(
            encoder=(Work("encoder", forward=1),),
            adapter=(Work("frames", forward=2, weight_gradient=2),),
            llm=(llm,),
            output=(Work("target", forward=5, input_gradient=5),),
            recomputed=(llm,),
        ),
        SIZE,
    )
    assert found == FlopByPart(encoder=28, adapter=112, llm=600, output=120, recomputed=300)
    assert (found.total, found.computed) == (860, 1160)


def test_cached_frames_cost_no_encoder_but_an_adapter():
    model = shape(encoder=(Work("encoder", forward=1),), adapter=(Work("frames", forward=1),))
    cached = StepSize([], [5, 2], [9, 6], [3, 3], adapter_frames=[10, 4])
    assert training_flop(model, cached) == FlopByPart(0, 28, 0, 0)
    assert training_flop(model, SIZE).adapter == 28


def test_inference_goes_forward_only():
    model = shape(llm=(Work("llm", forward=10, input_gradient=10, weight_gradient=10),))
    assert inference_flop(model, SIZE).total == training_flop(model, SIZE).total / 3 == 300


def test_utilization():
    assert model_flop_utilization(flop=494.5e12, time_s=2.0, bf16_tflops=989, gpus=1) == pytest.approx(0.25)
    assert model_flop_utilization(flop=494.5e12, time_s=0.5, bf16_tflops=989, gpus=4) == pytest.approx(0.25)
