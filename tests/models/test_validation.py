"""Validation: what is logged under which name, that a failing metric ends nothing, and text for TensorBoard."""

import math
import re

import pytest
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from speechllm.errors import UserError
from speechllm.models.monitors import check_monitors, mode_of
from speechllm.models.validation import (
    blank_predictions,
    build_metrics,
    escape,
    log_samples,
    logged_names,
    missing_monitors,
    score_validation,
    validation_score,
)
from tests.evaluation.predicted import predicted, translated

ASR = [{"name": "wer"}, {"name": "wer", "normalizer": "whisper"}, {"name": "cer"}]
ALL = [*ASR, {"name": "bleu"}, {"name": "speed"}]
ENGLISH = ("fake", "asr", "en", "en")
GERMAN = ("fake", "st", "en", "de")


def test_names_of_one_test_set():
    values = score_validation([predicted(0), predicted(1, hypothesis_transcript="one two three four")], ASR)
    assert values["val_wer"] == 12.5
    assert set(values) == {f"val_{rate}{kind}" for rate in ("wer", "wer_whisper", "cer") for kind in ("", "_macro")}


def test_names_of_several_test_sets():
    predictions = [predicted(0), predicted(1, corpus="other", hypothesis_transcript="")]
    values = score_validation(predictions, [{"name": "wer"}])
    assert values["val_wer"] == 62.5
    assert (values["val_wer/fake_en"], values["val_wer/other_en"]) == (25.0, 100.0)


def test_two_texts_of_one_test_set_are_not_two():
    values = score_validation([translated(0, task="asr+st", hypothesis_transcript="the dog barks")], ALL)
    assert values["val_wer"] == 0
    assert "val_bleu" in values
    assert not [name for name in values if "/" in name]


def test_speed_is_left_out():
    assert score_validation([predicted(0)], [{"name": "speed"}]) == {}
    assert not any("real_time_factor" in name for name in logged_names(ALL, [ENGLISH]))


def test_what_is_logged_is_known_before():
    """Names without figures, for the check at the start, are those that validation then logs."""
    predictions = [predicted(0), translated(1), predicted(2, corpus="other"), translated(3, task="asr+st")]
    kinds = {(p.corpus, p.task, p.source_language, p.target_language) for p in predictions}
    expected = logged_names([*ALL, {"name": "health"}], kinds)
    logged = set(score_validation(predictions, [*ALL, {"name": "health"}]))
    assert logged <= set(expected)
    assert all("hallucination" in name or "copy" in name for name in set(expected) - logged), "NaN is left out"
    assert expected["val_wer_whisper/other_en"] is False
    assert expected["val_bleu"] is True
    assert expected["val_length_ratio_transcript"] is None
    assert [p.task for p in blank_predictions(kinds)] == ["asr", "asr+st", "st", "asr"]


def test_a_test_set_that_cannot_be_scored_ends_nothing():
    """References of one test set are all empty; the figures of the other are there all the same."""
    predictions = [predicted(0), predicted(1, corpus="silent", reference_transcript="")]
    with pytest.warns(UserWarning, match="Validation goes on without a figure: silent"):
        values = score_validation(predictions, [{"name": "wer"}])
    assert values == {"val_wer": 25.0, "val_wer_macro": 25.0}
    with pytest.warns(UserWarning, match="goes on without"):
        assert score_validation(predictions[1:], [{"name": "wer"}]) == {}


def test_two_metrics_of_one_name():
    with pytest.raises(UserError, match=r"'wer': \{'name': 'wer'\} and \{'name': 'wer', 'normalizer': 'none'\}"):
        build_metrics([{"name": "wer"}, {"name": "wer", "normalizer": "none"}])
    assert len(build_metrics(ALL)) == 5


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({"val_loss": 2.0, "val_wer": 30.0, "val_bleu": 12.0, "val_chrf": 40.0}, 12.0),
        ({"val_loss": 2.0, "val_wer": 30.0, "val_chrf": 40.0}, 40.0),
        ({"val_loss": 2.0, "val_wer": 30.0, "val_comet": 81.5}, 81.5),
        ({"val_loss": 2.0, "val_wer": 30.0, "val_mer": 20.0}, 80.0),
        ({"val_loss": 2.0, "val_wer": 30.0, "val_wer_whisper": 25.0, "val_cer": 10.0}, 70.0),
        ({"val_loss": 2.0, "val_wer_whisper_macro": 20.0, "val_wer_whisper": 25.0, "val_cer": 10.0}, 75.0),
        ({"val_loss": 2.0, "val_cer_macro": 20.0, "val_cer": 10.0, "val_cer/fake_en": 1.0}, 90.0),
        ({"val_loss": 2.0, "val_wer": 30.0, "val_chrf++": 40.0, "val_chrf++/fake_en-de": 1.0}, 40.0),
        ({"val_loss": 2.0, "val_wer": 30.0, "val_comet_XCOMET-XL": 70.0}, 70.0),
        ({"val_loss": 2.0, "val_empty_rate": 1.0}, -2.0),
    ],
)
def test_checkpoints_are_chosen_by_what_is_measured(values, expected):
    """A score that never moves would keep the first checkpoint for the best."""
    assert validation_score(values) == expected


@pytest.mark.parametrize(
    ("monitor", "mode"),
    [
        ("val_wer", "min"),
        ("val_wer_whisper/fake_en", "min"),
        ("val_bleu", "max"),
        ("val_empty_rate_transcript", "min"),
        ("val_score", "max"),
        ("val_loss", "min"),
        ("train_loss_ctc", "min"),
        ("step", "max"),
        ("val_length_ratio", None),
        ("val_nonsense", None),
        (None, None),
    ],
)
def test_direction_of_a_monitor(monitor, mode):
    assert mode_of(monitor, [*ALL, {"name": "health"}]) == mode


def test_monitors_are_checked():
    logged = logged_names([*ALL, {"name": "health"}], [ENGLISH, GERMAN])
    for monitor, mode in (("val_score", "max"), ("val_wer", "min"), ("val_bleu/fake_en-de", "max"), ("epoch", "max")):
        check_monitors([ModelCheckpoint(monitor=monitor, mode=mode), EarlyStopping("val_loss")], logged)
    with pytest.raises(
        UserError, match=r"`monitor: val_wr`: no such .* Did you mean 'val_wer'\? Logged .* val_score, "
    ):
        check_monitors([ModelCheckpoint(monitor="val_wr")], logged)
    with pytest.raises(UserError, match=r"Did you mean 'val_wer/fake_en'"):
        check_monitors([ModelCheckpoint(monitor="val_wer/fake_fr")], logged)
    with pytest.raises(UserError, match="neither its high nor its low"):
        check_monitors([ModelCheckpoint(monitor="val_length_ratio_transcript")], logged)
    with pytest.raises(UserError, match=r"EarlyStopping looks for the worst val_bleu: give it `mode: max`"):
        check_monitors([EarlyStopping("val_bleu")], logged)


def test_a_figure_that_a_checkpoint_looks_at_is_logged_as_no_number():
    callbacks = [ModelCheckpoint(monitor="val_wer"), ModelCheckpoint()]
    assert missing_monitors(callbacks, {"val_wer": 1.0}) == {}
    with pytest.warns(UserWarning, match="`monitor: val_wer` has no value in this validation"):
        assert math.isnan(missing_monitors(callbacks, {"val_cer": 1.0})["val_wer"])


def test_samples_in_tensorboard(tmp_path):
    predictions = [
        predicted(row, hypothesis_transcript="a | b\n*c* <b>") if row % 2 else translated(row) for row in range(8)
    ]
    loggers = [TensorBoardLogger(tmp_path), CSVLogger(tmp_path)]
    log_samples(loggers, predictions, step=7)
    log_samples(loggers, [], step=8)
    loggers[0].finalize("success")
    events = EventAccumulator(loggers[0].log_dir)
    events.Reload()
    (event,) = events.Tensors("val_samples/text_summary")
    assert event.step == 7
    head, rule, *rows = event.tensor_proto.string_val[0].decode().split("\n")
    assert (head, rule) == ("| | reference | hypothesis |", "|---|---|---|")
    assert rows[0] == "| u0 → de | der Hund bellt laut | der Hund bellt leise |"
    assert len(rows) == 4
    log_samples(loggers, predictions[1:], step=9)  # other utterances, an asr one first
    assert escape("a | b\n*c* <b> x_1") == r"a \| b \*c\* &lt;b&gt; x\_1"
    assert not re.search(r"(?<!\\)[|*_`]", escape("|*_`"))
