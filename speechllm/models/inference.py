"""A trained model on files and arrays: read, batch by duration, decode, put back in order."""

import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
import torch
from torch import Tensor

from speechllm.audio import prepare_samples, read_audio
from speechllm.batch import SAMPLE_RATE, Batch, Hypothesis
from speechllm.errors import UserError
from speechllm.languages import check_language

if TYPE_CHECKING:
    from speechllm.models.base import SpeechToText

Audio: TypeAlias = str | Path | np.ndarray | Tensor
"""A path, or samples (T,)."""


@dataclass(frozen=True)
class Request:
    """What is asked of a model.

    Attributes:
        task: ``asr`` or ``st``.
        source: Language of the speech; None where the model was trained on a single one.
        target: Language of the translation; None for ``asr``.
        sampling_rate: Rate of arrays in Hz; None for 16 kHz.
        batch_seconds: Seconds of audio decoded at once.
    """

    task: str
    source: str | None
    target: str | None
    sampling_rate: int | None
    batch_seconds: float


def answer(model: "SpeechToText", audio: Audio | Sequence[Audio], request: Request) -> list[Hypothesis]:
    """Return one hypothesis an input, in order.

    Args:
        model: A loaded model.
        audio: One input or several.
        request: Task, languages and batch size.

    Raises:
        UserError: If an input cannot be read, is too long, or a language is not known.
    """
    if isinstance(audio, str | Path | np.ndarray | Tensor):
        audio = [audio]
    task, source, target = choose_task(model.trained_on, request)
    clips = [_load(item, request.sampling_rate) for item in audio]
    names = [str(item) if isinstance(item, str | Path) else f"input {index}" for index, item in enumerate(audio)]
    hypotheses = [Hypothesis()] * len(clips)
    was_training = model.training
    model.eval()
    with torch.inference_mode():
        for rows in _batches([len(clip) for clip in clips], request.batch_seconds):
            batch = _collate([clips[row] for row in rows], [names[row] for row in rows], rows, (task, source, target))
            for row, hypothesis in zip(rows, model.decode(batch.to(model.device), model.num_beams), strict=True):
                hypotheses[row] = hypothesis
    model.train(was_training)
    return hypotheses


def choose_task(trained_on: set[tuple[str, str, str]], request: Request) -> tuple[str, str, str]:
    """Return task, source and target language for a request, from what the model was trained on.

    A model that was trained to give transcript and translation in one decode is asked for both.

    Args:
        trained_on: Triples of task, source and target language.
        request: What the user asked for.

    Raises:
        UserError: If the source language is needed and not given, or a language is not known.
    """
    for code in (request.source, request.target):
        if code is not None:
            check_language(code)
    sources = sorted({source for _, source, _ in trained_on})
    if request.source is None and len(sources) != 1:
        known = ", ".join(sources) or "the codes that the model was trained on"
        msg = f"Say which language is spoken: `source=` one of {known}."
        raise UserError(msg)
    source = request.source or sources[0]
    target = request.target or source
    if (request.task, source, target) in trained_on:
        return request.task, source, target
    joint = [triple for triple in sorted(trained_on) if triple[0] == "asr+st" and triple[1] == source]
    joint = [triple for triple in joint if request.target in (None, triple[2])]
    if joint:
        return joint[0]
    if trained_on:
        known = ", ".join(f"{task} {src}→{tgt}" for task, src, tgt in sorted(trained_on))
        warnings.warn(
            f"The model was not trained for {request.task} {source}→{target}, only for: {known}.", stacklevel=3
        )
    return request.task, source, target


def _load(item: Audio, sampling_rate: int | None) -> Tensor:
    if isinstance(item, str | Path):
        return read_audio(item)
    return prepare_samples(item, sampling_rate or SAMPLE_RATE)


def _batches(lengths: list[int], batch_seconds: float) -> Iterator[list[int]]:
    """Yield rows, longest first, such that a batch's padded audio stays within ``batch_seconds``."""
    batch: list[int] = []
    for row in sorted(range(len(lengths)), key=lambda row: -lengths[row]):
        if batch and (len(batch) + 1) * lengths[batch[0]] > batch_seconds * SAMPLE_RATE:
            yield batch
            batch = []
        batch.append(row)
    if batch:
        yield batch


def _collate(clips: list[Tensor], names: list[str], rows: list[int], task: tuple[str, str, str]) -> Batch:
    size = len(clips)
    return Batch(
        audio=torch.nn.utils.rnn.pad_sequence(clips, batch_first=True),
        audio_lengths=torch.tensor([len(clip) for clip in clips]),
        ids=names,
        tasks=[task[0]] * size,
        source_languages=[task[1]] * size,
        target_languages=[task[2]] * size,
        transcripts=[""] * size,
        translations=[""] * size,
        corpora=[""] * size,
        rows=rows,
    )
