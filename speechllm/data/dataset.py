"""From the rows of a batch to the tensors and texts that a model sees."""

import logging
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import Dataset

from speechllm.audio import AudioError, read_audio
from speechllm.batch import SAMPLE_RATE, Batch
from speechllm.data.augmentation.augment import change_speed
from speechllm.data.epoch_plan import Draw
from speechllm.data.rows import Row, Rows
from speechllm.data.shard_reader import ShardReader, is_in_shard
from speechllm.data.utterance import Utterance
from speechllm.feature_cache.reader import CachedClip, FeatureReader

MIN_SAMPLES = 400
"""Shortest clip that counts as audio: one analysis window of 25 ms, below which no encoder has a frame to give."""

log = logging.getLogger(__name__)


@dataclass
class Clip:
    """What a batch is given of an utterance.

    Attributes:
        samples: (T,) float32, 16 kHz; none where its frames are there already.
        length: Number of its samples.
        frames: Its frames in the caches of the model's encoders.
    """

    samples: Tensor
    length: int
    frames: CachedClip


class SpeechDataset(Dataset[Batch]):
    """Map the rows of one batch, as a sampler draws them, to a :class:`speechllm.batch.Batch`.

    Args:
        rows: The rows.
        keep_unreadable: What becomes of a clip that cannot be read or is below 25 ms. True, for scoring: it stays with
            a length of 0, so that it counts as an empty hypothesis, and a warning is logged. False, for training: it
            is left out and named in ``Batch.skipped``; a batch of nothing else has no rows.
        buffer_shards: Shards that are held in memory; 0 reads each clip in a shard for itself.
        augment: Changes the audio of an utterance, given an epoch, the name of the corpus and the id: the same for the
            same three, whatever the worker and the batch.
        suffix: What the names of corpora are followed by in batches.
        features: Caches of the model's encoders, of audio that nothing changes; what is in all of them is not read.
    """

    def __init__(
        self,
        rows: Rows,
        keep_unreadable: bool,
        buffer_shards: int = 0,
        augment: Callable[[Tensor, int, str, str], Tensor] | None = None,
        suffix: str = "",
        features: FeatureReader | None = None,
    ) -> None:
        self.rows, self.keep_unreadable, self.augment, self.suffix = rows, keep_unreadable, augment, suffix
        self.features = features if augment is None else None
        self._shards = ShardReader(buffer_shards)

    def __getitem__(self, draw: Draw) -> Batch:
        """Read the rows of ``draw`` and put the batch together."""
        rows: list[tuple[int, Row]] = []
        clips: list[Clip] = []
        skipped: list[str] = []
        first_of: dict[tuple[str, str, float], int] = {}
        audio_of: list[int] = []
        for number, speed in zip(draw.rows, draw.speeds, strict=True):
            row = self.rows[number]
            same = (row.corpus, row.utterance.id, speed)
            if same in first_of:
                clip = clips[first_of[same]]
            else:
                try:
                    clip = self._clip(row, speed, draw.epoch)
                except AudioError as error:
                    if not self.keep_unreadable:
                        skipped.append(f"{row.utterance.id}: {error}")
                        continue
                    log.warning("%s counts as silence: %s", row.utterance.id, error)
                    clip = Clip(torch.zeros(0), 0, CachedClip())
            audio_of.append(first_of.setdefault(same, len(clips)))
            rows.append((number, row))
            clips.append(clip)
        utterances = [row.utterance for _, row in rows]
        return Batch(
            audio=pad_sequence([clip.samples for clip in clips], batch_first=True) if clips else torch.zeros(0, 0),
            audio_lengths=torch.tensor([clip.length for clip in clips], dtype=torch.int64),
            ids=[utterance.id for utterance in utterances],
            tasks=[row.task for _, row in rows],
            source_languages=[utterance.source_language for utterance in utterances],
            target_languages=[row.target_language for _, row in rows],
            transcripts=[utterance.transcript for utterance in utterances],
            translations=[row.utterance.translations.get(row.target_language, "") for _, row in rows],
            corpora=[row.corpus + self.suffix for _, row in rows],
            rows=[number for number, _ in rows],
            audio_of=audio_of,
            speakers=[utterance.speaker for utterance in utterances],
            recordings=[utterance.audio for utterance in utterances],
            offsets_s=[utterance.offset_s for utterance in utterances],
            skipped=skipped,
            features=self.features.collate([clip.frames for clip in clips]) if self.features and clips else {},
        )

    def _clip(self, row: Row, speed: float, epoch: int) -> Clip:
        """Return the audio of a row, or its frames where they are known and nothing changes its audio."""
        if self.features is None or speed != 1:
            samples = self._heard(row, speed, epoch)
            return Clip(samples, len(samples), CachedClip())
        given = row.utterance
        known = self.features.recall(given.audio, given.offset_s, given.duration_s, given.channel)
        if known is not None:
            return Clip(torch.zeros(0), known.samples, known)
        samples = self._read(given)
        found = self.features.find(samples)
        return Clip(torch.zeros(0) if found.complete else samples, len(samples), found)

    def _heard(self, row: Row, speed: float, epoch: int) -> Tensor:
        """Return the audio of a row as the model hears it."""
        samples = change_speed(self._read(row.utterance), speed)
        return samples if self.augment is None else self.augment(samples, epoch, row.corpus, row.utterance.id)

    def _read(self, utterance: Utterance) -> Tensor:
        if is_in_shard(utterance.audio):
            samples = self._shards.read(utterance.audio)
            if len(samples) != round(utterance.duration_s * SAMPLE_RATE):
                msg = f"'{utterance.audio}' is not the clip of its manifest. Write the shards anew."
                raise AudioError(msg)
        else:
            samples = read_audio(utterance.audio, utterance.offset_s, utterance.duration_s, utterance.channel)
        if len(samples) < MIN_SAMPLES:
            msg = f"The clip has {len(samples)} samples, and needs at least {MIN_SAMPLES}."
            raise AudioError(msg)
        return samples
