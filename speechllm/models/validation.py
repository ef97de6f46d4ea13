"""Figures while a model is trained: what validation logs, and which of it says that a checkpoint is the best."""

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from lightning.pytorch import Callback
from lightning.pytorch.loggers import Logger, TensorBoardLogger, WandbLogger
from lightning.pytorch.utilities import rank_zero_warn

from speechllm.errors import UserError
from speechllm.evaluation.scoring import ScoredSet, by_test_set, check_metrics, score, summarize
from speechllm.evaluation.test_sets import group_by_test_set
from speechllm.metrics.base import Metric
from speechllm.predictions import Prediction
from speechllm.registry import METRICS

NOT_IN_VALIDATION = ("speed",)
"""Metrics that say nothing about what was learned; training shares the machine with what they measure."""

SCORE_FIGURES = ("bleu", "chrf", "comet", "mer", "wer", "cer")
"""Figures that ``val_score`` is taken from: the first of them that is measured. Error rates are taken from 100."""

SAMPLES = 4
"""Number of utterances whose hypotheses are logged as text."""


def metric_specs(metrics: Sequence[str | Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return metrics, given by name or by spec, as specs."""
    return [{"name": metric} if isinstance(metric, str) else dict(metric) for metric in metrics]


def build_metrics(specs: Sequence[Mapping[str, Any]]) -> list[Metric]:
    """Build each metric once, for English, to find out before decoding whether it can be.

    Raises:
        UserError: If a metric cannot run, or two of them have figures of the same name.
    """
    metrics: list[Metric] = [METRICS.build(spec, language="en") for spec in specs]
    taken: dict[str, Mapping[str, Any]] = {}
    for spec, metric in zip(specs, metrics, strict=True):
        for figure in metric.figures:
            if figure.name in taken:
                msg = (
                    f"Two metrics of the recipe give the figure '{figure.name}': {dict(taken[figure.name])} and "
                    f"{dict(spec)}. Leave one out, or give it options of its own that stand in its name."
                )
                raise UserError(msg)
            taken[figure.name] = spec
    return metrics


def check_at_start(specs: Sequence[Mapping[str, Any]], data: Any) -> None:
    """Find out before weights are loaded what metrics cannot do, and warn of figures that will not be given.

    Args:
        specs: Metric specs.
        data: Datamodule whose test rows are to be scored, if it is known and can say of what kinds they are.

    Raises:
        UserError: If a metric cannot run, or two of them have figures of the same name.
    """
    build_metrics(specs)
    if hasattr(data, "eval_kinds"):
        for sentence in check_metrics(blank_predictions(data.eval_kinds("test"), "test"), specs):
            rank_zero_warn(sentence)


def score_validation(predictions: Sequence[Prediction], specs: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Return each figure by the name that it is logged under: ``val_wer``, and ``val_wer/must_c_en`` of several sets.

    A metric that cannot score a test set is left out with a warning: it must not end the training.
    """
    scored: list[ScoredSet] = []
    for spec in validated(specs):
        for part in _by_kind(predictions):
            try:
                scored += score(part, [spec])
            except UserError as error:
                rank_zero_warn(f"Validation goes on without a figure: {error}")
    return {name: value for name, value in logged_figures(scored).items() if not math.isnan(value)}


def logged_names(
    specs: Sequence[Mapping[str, Any]], kinds: Iterable[tuple[str, str, str, str]]
) -> dict[str, bool | None]:
    """Return the names of the figures that validation logs, and which way is better.

    Args:
        specs: Metric specs.
        kinds: Corpora, tasks, source and target languages that occur together in the validation rows.
    """
    rows = blank_predictions(kinds)
    empty: list[ScoredSet] = []
    directions: dict[str, bool | None] = {}
    for spec in validated(specs):
        for test_set in group_by_test_set(rows, METRICS.get(spec["name"]).scores):
            metric = METRICS.build(spec, language=test_set.language)
            if metric.objection([]):
                continue
            empty.append(ScoredSet(test_set, metric, np.zeros(0, np.int64), np.zeros((0, len(metric.columns)))))
            directions |= {figure.name: figure.higher_is_better for figure in metric.figures}
    # the figures of nothing, whose names are those of something
    return {name: directions[_figure_of(name, directions)] for name in logged_figures(empty)}


def logged_figures(scored: Sequence[ScoredSet]) -> dict[str, float]:
    """Return figures by the names that they are logged under in validation."""
    values = {f"val_{name}": value for name, value in summarize(scored).items()}
    if len({replace(item.test_set, text="answer") for item in scored}) > 1:  # both texts of one set are not two sets
        values |= {f"val_{name}": value for name, value in by_test_set(scored).items()}
    return values


def blank_predictions(kinds: Iterable[tuple[str, str, str, str]], split: str = "dev") -> list[Prediction]:
    """Return an utterance of each kind, of which nothing else is known.

    Args:
        kinds: Corpora, tasks, source and target languages that occur together.
        split: Name of the split.
    """
    return [
        Prediction(
            *(f"{row}", row, corpus, split, task, source, target),
            reference_transcript="",
            reference_translation="",
            hypothesis_transcript="",
            hypothesis_translation="",
            text="",
            duration_s=0.0,
            decode_s=0.0,
            tokens=0,
            readable=True,
            missing_separator=False,
            hit_limit=False,
        )
        for row, (corpus, task, source, target) in enumerate(sorted(kinds))
    ]


def validated(specs: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Return the specs of metrics that are part of validation."""
    return [spec for spec in specs if spec["name"] not in NOT_IN_VALIDATION]


def validation_score(values: Mapping[str, float]) -> float:
    """Return what checkpoints are chosen by if nothing else is named; higher is better.

    The first of :data:`SCORE_FIGURES` that was measured, error rates taken from 100, else the loss, turned around.

    Args:
        values: Figures of a validation by the names that they are logged under, ``val_loss`` among them.
    """
    for name in SCORE_FIGURES:
        # figures carry what differs from their metric's defaults in their names, such as wer_whisper
        found = [key for key in values if re.fullmatch(rf"val_{name}(\+\+)?(_(?!macro)[^/]+)?", key)]
        if found:
            value = values[min(found, key=lambda key: (key != f"val_{name}", len(key), key))]
            return value if name in ("bleu", "chrf", "comet") else 100.0 - value
    return -values["val_loss"]


def missing_monitors(callbacks: Iterable[Callback], values: Mapping[str, float]) -> dict[str, float]:
    """Return NaN for figures that checkpoints look at and this validation has not, with a warning.

    Checkpoints raise if one is not logged.
    """
    monitors = [getattr(callback, "monitor", None) or "" for callback in callbacks]
    missing = [name for name in monitors if name.startswith("val_") and name not in values]
    for name in missing:
        rank_zero_warn(f"`monitor: {name}` has no value in this validation, which can choose no checkpoint by it.")
    return dict.fromkeys(missing, math.nan)


def log_samples(loggers: Iterable[Logger], predictions: Sequence[Prediction], step: int) -> None:
    """Write a few utterances, the same each time, as a table to TensorBoard and Weights & Biases."""
    count = min(SAMPLES, len(predictions))
    shown = [predictions[index * len(predictions) // count] for index in range(count)]
    text = "\n".join(
        ["| | reference | hypothesis |", "|---|---|---|", *(row for p in shown for row in _sample_rows(p))]
    )
    for logger in loggers:
        if isinstance(logger, TensorBoardLogger) and shown:
            logger.experiment.add_text("val_samples", text, step)
        if isinstance(logger, WandbLogger) and shown:
            rows = [list(texts) for prediction in shown for texts in _sample_texts(prediction)]
            logger.log_text("val_samples", ["utterance", "reference", "hypothesis"], rows, step=step)


def _sample_texts(prediction: Prediction) -> list[tuple[str, str, str]]:
    """Return name, reference and hypothesis of each text of an utterance."""
    texts = []
    if "asr" in prediction.task.split("+"):
        texts.append((prediction.id, prediction.reference_transcript, prediction.hypothesis_transcript))
    if "st" in prediction.task.split("+"):
        name = f"{prediction.id} → {prediction.target_language}"
        texts.append((name, prediction.reference_translation, prediction.hypothesis_translation))
    return texts


def _sample_rows(prediction: Prediction) -> list[str]:
    return [f"| {' | '.join(map(escape, texts))} |" for texts in _sample_texts(prediction)]


def escape(text: str) -> str:
    """Return a text that Markdown shows as it is, in one line."""
    text = text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return re.sub(r"([\\`*_\[\]|~$])", r"\\\1", " ".join(text.split()))


def _by_kind(predictions: Sequence[Prediction]) -> list[list[Prediction]]:
    """Return the predictions of each corpus, task and pair of languages."""
    kinds: dict[tuple[str, str, str, str], list[Prediction]] = {}
    for p in predictions:
        kinds.setdefault((p.corpus, p.task, p.source_language, p.target_language), []).append(p)
    return list(kinds.values())


def _figure_of(name: str, figures: Iterable[str]) -> str:
    """Return the figure that a logged name is of: the longest that it begins with."""
    bare = name.removeprefix("val_").partition("/")[0]
    return max((figure for figure in figures if bare == figure or bare.startswith(f"{figure}_")), key=len)
