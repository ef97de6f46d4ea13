"""The types that cross the borders between data, encoders, adapters and models.

Shape legend, used in the whole package: ``B`` utterances of a batch, ``T`` audio samples, ``F`` encoder frames,
``E`` encoder width, ``S`` speech positions of the LLM (adapter output), ``H`` LLM width, ``U`` target tokens, ``V``
vocabulary size. A mask is True where a position is valid, and valid positions stand at the left.

Lengths stay on the CPU, wherever the values are: shapes follow from lengths, and a shape that had to be asked of a GPU
would make every step wait for it. :func:`to_device` and :func:`lengths_to_mask` bring them to the values. What a GPU
has to be asked nevertheless goes through :func:`to_host`, and through nothing else.
"""

from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from typing import Any, Self

import torch
from torch import Tensor

SAMPLE_RATE = 16_000
"""Sampling rate of all audio inside the package, in Hz."""

TASKS = ("asr", "st", "asr+st")
"""Tasks: transcript, translation, and both in one decode."""


@dataclass
class Batch:
    """Utterances as the data layer gives them to a model.

    Attributes:
        audio: (B, T) float32, 16 kHz mono in [-1, 1], right-padded with zeros.
        audio_lengths: (B,) int64 on the CPU, valid samples; 0 where the clip could not be read (test splits only), so
            that a model answers with an empty hypothesis.
        ids: Utterance ids, unique within a split.
        tasks: One of :data:`TASKS` for each utterance.
        source_languages: BCP-47 code of what is spoken.
        target_languages: BCP-47 code of the translation; the source language where the task is ``asr``.
        transcripts: Text in the source language; empty where there is none (inference).
        translations: Text in the target language; empty where there is none.
        corpora: Name of the corpus that each utterance comes from.
        rows: Position of each utterance in its split; predictions are written in this order.
        audio_of: Position of the first utterance with the very same audio, for each utterance, which is its own where
            there is no other; encoders run once for each audio. All are their own where nothing is given.
        speakers: Speaker of each utterance, as the corpus calls it; empty where it does not.
        recordings: Path of the audio file of each utterance, a talk for instance; empty where there is none.
        offsets_s: Where each utterance begins in that file, in seconds.
        skipped: One message for each clip that was left out of this batch as unreadable (training only).
        features: Frames of each utterance that were read from a cache instead of computed, by the key of the cache;
            empty where there is none. An utterance that a cache does not have has a length of 0 there. The audio of
            one that all caches have is zero, and as short as the others allow; its length is that of the clip.
    """

    audio: Tensor
    audio_lengths: Tensor
    ids: list[str]
    tasks: list[str]
    source_languages: list[str]
    target_languages: list[str]
    transcripts: list[str]
    translations: list[str]
    corpora: list[str]
    rows: list[int]
    audio_of: list[int] = field(default_factory=list)
    speakers: list[str] = field(default_factory=list)
    recordings: list[str] = field(default_factory=list)
    offsets_s: list[float] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)
    features: dict[str, "Frames"] = field(default_factory=dict)

    def __post_init__(self) -> None:
        size = len(self.ids)
        self.audio_of = self.audio_of or list(range(size))
        self.speakers = self.speakers or [""] * size
        self.recordings = self.recordings or [""] * size
        self.offsets_s = self.offsets_s or [0.0] * size

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def durations_s(self) -> list[float]:
        """Duration of each utterance in seconds."""
        return [length / SAMPLE_RATE for length in self.audio_lengths.tolist()]

    def to(self, device: torch.device | str, non_blocking: bool | None = None) -> "Batch":
        """Return the batch with its audio and features on a device; lengths stay on the CPU.

        Args:
            device: Where to.
            non_blocking: Whether the CPU goes on before the copy is done. None, as Lightning's trainer calls it: only
                from the CPU to a GPU, where copying would else wait for the step that the GPU is busy with.
        """
        if non_blocking is None:
            non_blocking = self.audio.device.type == "cpu" and torch.device(device).type == "cuda"
        features = {key: frames.to(device, non_blocking) for key, frames in self.features.items()}
        return replace(self, audio=self.audio.to(device, non_blocking=non_blocking), features=features)

    def pin_memory(self) -> "Batch":
        """Return the batch in page-locked memory, from which a GPU copies while it computes."""
        features = {key: frames.pin_memory() for key, frames in self.features.items()}
        return replace(self, audio=self.audio.pin_memory(), features=features)

    def select(self, rows: list[int]) -> "Batch":
        """Return the batch of the given rows, in that order, trimmed to its longest utterance, without ``skipped``."""
        lengths = self.audio_lengths[rows]
        longest = int(lengths.max()) if rows else 0
        first_of: dict[int, int] = {}
        return Batch(
            audio=self.audio[to_device(torch.tensor(rows, dtype=torch.int64), self.audio.device), :longest],
            audio_lengths=lengths,
            ids=[self.ids[row] for row in rows],
            tasks=[self.tasks[row] for row in rows],
            source_languages=[self.source_languages[row] for row in rows],
            target_languages=[self.target_languages[row] for row in rows],
            transcripts=[self.transcripts[row] for row in rows],
            translations=[self.translations[row] for row in rows],
            corpora=[self.corpora[row] for row in rows],
            rows=[self.rows[row] for row in rows],
            audio_of=[first_of.setdefault(self.audio_of[row], place) for place, row in enumerate(rows)],
            speakers=[self.speakers[row] for row in rows],
            recordings=[self.recordings[row] for row in rows],
            offsets_s=[self.offsets_s[row] for row in rows],
            features={key: frames.select(rows) for key, frames in self.features.items()},
        )


@dataclass
class Frames:
    """Encoder frames of a batch.

    Attributes:
        values: (B, F, E) float, exactly zero past each utterance's length.
        lengths: (B,) int64 on the CPU, at least 1.
        ctc_logits: (B, F, C) float32, what a CTC head that came with the encoder says of each frame; None where the
            encoder has none.
        ctc_blank: Class of ``ctc_logits`` that is the blank.
    """

    values: Tensor
    lengths: Tensor
    ctc_logits: Tensor | None = None
    ctc_blank: int = 0

    def to(self, device: torch.device | str, non_blocking: bool = False) -> Self:
        """Return the frames on a device; lengths stay on the CPU."""
        logits = None if self.ctc_logits is None else self.ctc_logits.to(device, non_blocking=non_blocking)
        return replace(self, values=self.values.to(device, non_blocking=non_blocking), ctc_logits=logits)

    def pin_memory(self) -> Self:
        """Return the frames in page-locked memory."""
        logits = None if self.ctc_logits is None else self.ctc_logits.pin_memory()
        return replace(self, values=self.values.pin_memory(), ctc_logits=logits)

    def select(self, rows: list[int]) -> "Frames":
        """Return the frames of the given utterances, in that order; one may stand there several times."""
        places = to_device(torch.tensor(rows, dtype=torch.int64), self.values.device)
        logits = None if self.ctc_logits is None else self.ctc_logits[places]
        return Frames(self.values[places], self.lengths[rows], logits, self.ctc_blank)


@dataclass
class Spans:
    """Which encoder frames each speech position of one utterance stands for.

    Attributes:
        starts: (S,) float32, where each position begins, in frames from 0.
        ends: (S,) float32, where it ends, in frames.
        labels: Text that the adapter reads into each position, where it has one; a blank is the empty text.
        weights: (F,) float32, what each frame adds to its position, where the adapter weighs frames.
        tokens: Ids of the LLM's tokens that the adapter reads into each position, none for a blank, where it writes in
            these and so has no ``labels``.
    """

    starts: Tensor
    ends: Tensor
    labels: list[str] | None = None
    weights: Tensor | None = None
    tokens: list[list[int]] | None = None


@dataclass
class AdapterOutput:
    """Speech embeddings that take the place of the speech in the LLM's prompt.

    Attributes:
        values: (B, S, H) float, exactly zero past each utterance's length.
        lengths: (B,) int64 on the CPU, at least 1.
        losses: Auxiliary losses by name, each (B,) float32: one value an utterance, not yet weighted.
        stats: Figures to log by name, each a scalar or (B,) tensor; they carry no gradient.
    """

    values: Tensor
    lengths: Tensor
    losses: dict[str, Tensor] = field(default_factory=dict)
    stats: dict[str, Tensor] = field(default_factory=dict)

    def select(self, rows: list[int]) -> "AdapterOutput":
        """Return the embeddings of the given utterances, without losses; one may stand there several times."""
        places = to_device(torch.tensor(rows), self.values.device)
        return AdapterOutput(self.values[places], self.lengths[rows], stats=dict(self.stats))


@dataclass
class Hypothesis:
    """What a model says about one utterance.

    Attributes:
        text: The decoded text as the decoder wrote it, without end-of-sequence tokens.
        transcript: Transcript in the source language; empty where the task has none.
        translation: Translation; empty where the task has none or where the separator is missing.
        tokens: Number of generated tokens, the end-of-sequence token included.
        missing_separator: Whether the task was ``asr+st`` and no separator was found.
        hit_limit: Whether decoding ended at the limit of new tokens and not by the decoder's own end.
        first_token_s: Time from the audio to the first new token of its batch, in seconds; 0 where it was not measured.
            Hypotheses that differ in it alone are equal.
    """

    text: str = ""
    transcript: str = ""
    translation: str = ""
    tokens: int = 0
    missing_separator: bool = False
    hit_limit: bool = False
    first_token_s: float = field(default=0.0, compare=False)


def to_device(host: Tensor, device: torch.device) -> Tensor:
    """Return a small tensor of the CPU on ``device``, without waiting for what that device is busy with."""
    if device.type == "cuda" and host.device.type == "cpu":
        return host.pin_memory().to(device, non_blocking=True)
    return host.to(device)


def to_host(values: Tensor) -> Tensor:
    """Return a tensor on the CPU; where it is on a GPU, the CPU waits until that has computed it."""
    return values.cpu()


def without_autocast(device: torch.device) -> Any:
    """Return a context in which numbers keep their format on ``device``, whatever precision the trainer mixes."""
    if device.type == "meta":  # it has no mixed precision, and says so with an error
        return nullcontext()
    return torch.autocast(device.type, enabled=False)


def lengths_to_mask(lengths: Tensor, size: int | None = None, device: torch.device | None = None) -> Tensor:
    """Return a mask that is True at valid positions.

    Args:
        lengths: (B,) int64, on the CPU or on ``device``.
        size: Width of the mask; the largest length where it is not given.
        device: Where the mask is to be; where the lengths are if not given.

    Returns:
        (B, size) bool.
    """
    size = int(lengths.max()) if size is None else size
    device = lengths.device if device is None else device
    return torch.arange(size, device=device) < to_device(lengths, device)[:, None]


def has_padding(lengths: Tensor, size: int) -> bool:
    """Return whether one of the lengths (B,) is less than ``size``, so that a mask is of use."""
    return len(lengths) > 0 and int(lengths.min()) < size


def zero_padding(values: Tensor, lengths: Tensor) -> Tensor:
    """Return ``values`` (B, N, D) with every position at or past ``lengths`` (B,) set to exactly zero.

    Where there is none, this is ``values`` itself.
    """
    if not has_padding(lengths, values.shape[1]):
        return values
    mask = lengths_to_mask(lengths, values.shape[1], values.device)
    return values.masked_fill(~mask[..., None], 0)
