"""Where a run stands, as Lightning's own actions tell."""

import time

import pytest
from lightning.pytorch.profilers import SimpleProfiler

from speechllm.models.watching import phases
from speechllm.models.watching.phases import Phase, PhaseClock, phase_of


@pytest.mark.parametrize(
    ("action", "phase"),
    [
        ("[_TrainingEpochLoop].train_dataloader_next", Phase.DATA),
        ("[Strategy]DDPStrategy.training_step", Phase.FORWARD),
        ("[Strategy]ModelParallelStrategy.backward", Phase.BACKWARD),
        ("[LightningModule]SpeechLLM.optimizer_step", Phase.OPTIMISER),
        ("run_training_epoch", Phase.BETWEEN),
        ("run_training_batch", None),
        ("save_checkpoint", Phase.CHECKPOINT),
        ("[_EvaluationLoop].val_next", Phase.VALIDATION),
        ("[Strategy]DDPStrategy.test_step", Phase.VALIDATION),
        ("[LightningModule]SpeechLLM.on_validation_epoch_end", Phase.SCORING),
        ("[LightningModule]SpeechLLM.on_test_epoch_end", Phase.SCORING),
        ("[Callback]ModelCheckpoint{'monitor': 'a.b'}.on_validation_epoch_end", None),
        ("[LightningModule]SpeechLLM.on_train_epoch_end", None),
        ("[LightningModule]SpeechLLM.lr_scheduler_step", None),
    ],
)
def test_phases_of_actions(action, phase):
    assert phase_of(action) == phase


@pytest.fixture
def now(monkeypatch):
    """A clock that stands until it is set."""
    at = [100.0]
    monkeypatch.setattr(phases.time, "monotonic", lambda: at[0])
    return at


def test_seconds_go_to_the_innermost_phase(now):
    clock = PhaseClock(SimpleProfiler())
    with clock.profile("run_training_epoch"):
        now[0] += 1
        with clock.profile("run_training_batch"), clock.profile("[LightningModule]M.optimizer_step"):
            now[0] += 2
            with clock.profile("[Strategy]S.training_step"):
                now[0] += 4
                assert clock.place == (Phase.FORWARD, 103.0)
                assert clock.seconds()[Phase.FORWARD] == 4
            now[0] += 8
        clock.start("[Callback]C.on_validation_start")
        clock.stop("[Callback]C.on_validation_start")
        now[0] += 16
        assert clock.place[0] == Phase.VALIDATION
        with clock.profile("[LightningModule]M.on_validation_epoch_end"):
            now[0] += 32
        with clock.profile("[LightningModule]M.on_validation_end"), clock.profile("save_checkpoint"):
            now[0] += 64
        assert clock.place[0] == Phase.BETWEEN
    assert clock.place[0] == Phase.OTHER
    expected = {"between steps": 1, "optimiser": 10, "forward": 4, "validation": 16, "scoring": 32, "checkpoint": 64}
    assert {phase.value: seconds for phase, seconds in clock.seconds().items() if seconds} == expected
    assert (clock.steps, clock.median_step_s) == (1, 15)


def test_an_exception_leaves_no_phase_open(now):
    clock = PhaseClock(SimpleProfiler())
    clock.start("[Strategy]S.backward")
    clock.start("[_TrainingEpochLoop].train_dataloader_next")
    clock.stop("[Strategy]S.backward")
    assert clock.place[0] == Phase.OTHER


def test_the_profiler_of_the_user_goes_on(build, trainer, eight, as_loader):
    profiler = SimpleProfiler()
    fitted = trainer(profiler=profiler, max_steps=2)
    fitted.fit(build(), as_loader([eight] * 2))
    assert len(profiler.recorded_durations["[_TrainingEpochLoop].train_dataloader_next"]) == 2
    seconds = PhaseClock.of(fitted).seconds()
    assert PhaseClock.of(fitted).steps == 2
    assert all(seconds[phase] > 0 for phase in (Phase.DATA, Phase.FORWARD, Phase.BACKWARD, Phase.OPTIMISER))


def test_waiting_for_data_is_seen(build, trainer, eight, as_loader):
    class Slow(list):
        def __getitem__(self, index):
            time.sleep(0.2)
            return super().__getitem__(index)

    model = build()
    trainer(max_steps=3, log_every_n_steps=3).fit(model, as_loader(Slow([eight.select([0])] * 3)))
    assert 0.6 <= model.meter.totals.seconds[Phase.DATA] < 1.0
