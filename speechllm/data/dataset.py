"""From the cuts of a batch to the tensors and texts that a model sees."""

import logging
from collections.abc import Iterable

import torch
from lhotse import MonoCut
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import Dataset

from speechllm.audio import AudioError, read_audio
from speechllm.batch import Batch
from speechllm.data.utterance import Utterance

MIN_SAMPLES = 400
"""Shortest clip that counts as audio: one analysis window of 25 ms, below which no encoder has a frame to give."""

log = logging.getLogger(__name__)


class SpeechDataset(Dataset[Batch]):
    """Map the cuts of one batch, as a sampler gives them, to a :class:`speechllm.batch.Batch`.

    Args:
        keep_unreadable: What becomes of a clip that cannot be read or is below 25 ms. True, for scoring: it stays with
            a length of 0, so that it counts as an empty hypothesis, and a warning is logged. False, for training: it
            is left out and named in ``Batch.skipped``; a batch of nothing else has no rows.
    """

    def __init__(self, keep_unreadable: bool) -> None:
        self.keep_unreadable = keep_unreadable

    def __getitem__(self, cuts: Iterable[MonoCut]) -> Batch:
        """Read the audio of ``cuts``, which :func:`speechllm.data.rows.row_cut` made, and put the batch together."""
        rows: list[tuple[MonoCut, Utterance]] = []
        audio: list[Tensor] = []
        skipped: list[str] = []
        for cut in cuts:
            utterance = Utterance.from_cut(cut)
            # Of the cut, not of its id: a sampler renames the copies that it makes to give every rank a batch.
            utterance.id = cut.supervisions[0].id
            try:
                samples = _read(utterance)
            except AudioError as error:
                if not self.keep_unreadable:
                    skipped.append(f"{utterance.id}: {error}")
                    continue
                log.warning("%s counts as silence: %s", utterance.id, error)
                samples = torch.zeros(0)
            rows.append((cut, utterance))
            audio.append(samples)
        return Batch(
            audio=pad_sequence(audio, batch_first=True) if audio else torch.zeros(0, 0),
            audio_lengths=torch.tensor([len(samples) for samples in audio], dtype=torch.int64),
            ids=[utterance.id for _, utterance in rows],
            tasks=[cut.custom["task"] for cut, _ in rows],
            source_languages=[utterance.source_language for _, utterance in rows],
            target_languages=[cut.custom["target_language"] for cut, _ in rows],
            transcripts=[utterance.transcript for _, utterance in rows],
            translations=[utterance.translations.get(cut.custom["target_language"], "") for cut, utterance in rows],
            corpora=[cut.custom["corpus"] for cut, _ in rows],
            rows=[cut.custom["row"] for cut, _ in rows],
            skipped=skipped,
        )


def _read(utterance: Utterance) -> Tensor:
    samples = read_audio(utterance.audio, utterance.offset_s, utterance.duration_s)
    if len(samples) < MIN_SAMPLES:
        msg = f"The clip has {len(samples)} samples, and needs at least {MIN_SAMPLES}."
        raise AudioError(msg)
    return samples
