"""Progress: of the whole run, seldom, and never waiting for the device."""

import re

import pytest
import torch

from speechllm.models.watching import progress
from speechllm.models.watching.progress import LateFigure, RunBar, RunLines, choose_progress, clock


def test_lines_tell_of_the_whole_run(build, trainer, eight, as_loader, capsys):
    lines = RunLines(first_s=0.0, every_s=0.0)
    options = {"max_steps": 4, "max_epochs": -1, "log_every_n_steps": 2, "limit_val_batches": 1}
    options |= {"check_val_every_n_epoch": None, "val_check_interval": 3, "num_sanity_val_steps": 0}
    trainer(**options, enable_progress_bar=True, callbacks=[lines]).fit(
        build(), as_loader([eight.select([0])] * 3), as_loader([eight.select([1])])
    )
    printed = [line for line in capsys.readouterr().out.splitlines() if re.match(r"\d\d:\d\d:\d\d ", line)]
    assert len(printed) == 5
    assert re.fullmatch(
        r"\d\d:\d\d:\d\d step 2/4 \(50 %\), 0:00:\d\d, 0:00:\d\d left, loss \d\.\d+, utt/s \d[\d.]*, lr 0\.\d+",
        printed[1],
    )
    assert re.match(r".{8} step 3, validation, utt/s|.{8} step 3, validation, val_", printed[3])
    assert "val_bleu" in printed[3]
    assert "step 4/4 (100 %)" in printed[4]
    assert "val_bleu" in printed[4], "what validation said last is shown on"


def test_lines_are_few(build, trainer, eight, as_loader, capsys):
    trainer(max_steps=5, enable_progress_bar=True, callbacks=[RunLines()]).fit(build(), as_loader([eight] * 5))
    assert "step" not in capsys.readouterr().out


def test_lines_of_a_test(build, trainer, eight, as_loader, capsys):
    lines = RunLines(first_s=0.0, every_s=0.0)
    trainer(enable_progress_bar=True, callbacks=[lines]).predict(build(), as_loader([eight.select([0])] * 2))
    assert re.search(r"predict: batch 2/2, 0:00:\d\d", capsys.readouterr().out)


@pytest.mark.parametrize(("max_steps", "total"), [(6, 6), (-1, 3)])
def test_the_bar_is_over_the_run_and_seldom_refreshed(max_steps, total, build, trainer, eight, as_loader, monkeypatch):
    bar, shown = RunBar(), []
    monkeypatch.setattr(bar, "get_metrics", lambda *args: shown.append(args) or {})
    fitted = trainer(max_steps=max_steps, max_epochs=2, enable_progress_bar=True, callbacks=[bar])
    fitted.fit(build(), as_loader([eight.select([0])] * 3))
    assert bar.train_progress_bar.total == total
    assert bar.train_progress_bar.n == total
    assert len(shown) <= 5, "two epochs of three quick steps are refreshed once or twice, and at ends"


def test_a_bar_goes_on_where_a_run_was_stopped(build, trainer, eight, as_loader, tmp_path):
    batches = as_loader([eight.select([0])] * 2)
    first = trainer(max_steps=2, max_epochs=-1)
    first.fit(build(), batches)
    first.save_checkpoint(tmp_path / "two.ckpt")
    bar = RunBar()
    seen = []
    bar.on_train_epoch_start = lambda *args: seen.append((bar.train_progress_bar.n, bar.train_progress_bar.initial))
    second = trainer(max_steps=4, max_epochs=-1, enable_progress_bar=True, callbacks=[bar])
    second.fit(build(), batches, ckpt_path=tmp_path / "two.ckpt", weights_only=True)
    assert seen[0] == (2, 2)


def test_a_figure_of_the_device_is_shown_when_it_is_there(monkeypatch):
    figure = LateFigure()
    assert figure.update(None) is None
    assert figure.update(torch.tensor(2.5)) == 2.5

    class Event:
        done = False

        def record(self):
            pass

        def query(self):
            return self.done

    class OnGpu:
        device = torch.device("cuda")

        def __init__(self, value):
            self.value = value

        def detach(self):
            return self

        def to(self, device, non_blocking):
            assert (device, non_blocking) == ("cpu", True)
            return self.value

    monkeypatch.setattr(torch.cuda, "Event", Event)
    assert figure.update(OnGpu(7.0)) == 2.5
    assert figure.update(OnGpu(8.0)) == 2.5, "it is on its way"
    monkeypatch.setattr(Event, "done", True)
    assert figure.update(None) == 7.0


def test_a_terminal_gets_a_bar_and_a_file_lines(monkeypatch):
    for terminal, kind in ((True, RunBar), (False, RunLines)):
        monkeypatch.setattr(progress.sys.stdout, "isatty", lambda terminal=terminal: terminal, raising=False)
        assert isinstance(choose_progress(), kind)


def test_clock():
    assert [clock(seconds) for seconds in (0, 59.6, 3600, 90_061)] == ["0:00:00", "0:01:00", "1:00:00", "25:01:01"]
