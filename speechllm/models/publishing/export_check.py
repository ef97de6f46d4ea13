"""Whether a model that was written answers as before: logits on generated audio, before and after."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from speechllm.batch import SAMPLE_RATE, Batch

DURATIONS_S = (0.8, 1.7, 3.1, 5.6)
"""Durations of the generated audio, in seconds."""

ANSWER = "A cat sat by the old stone wall, and 2 dogs ran home."
"""Text whose tokens the logits are of."""

ROUNDING = {torch.float32: 1e-4, torch.bfloat16: 3e-2, torch.float16: 1e-2}
"""Largest difference, in parts of the largest logit, that merging LoRA into weights of a format may make:
W + B A is rounded once, where the two products were rounded apart."""


@dataclass(frozen=True)
class Difference:
    """How far two models are apart.

    Attributes:
        speech: Largest difference in their speech embeddings, which must be none: only the LLM is merged.
        largest: Largest difference of two logits.
        allowed: How large it may be.
        logits: Number of logits that were compared.
        same_choices: Share of positions at which both models choose the same token.
    """

    speech: float
    largest: float
    allowed: float
    logits: int
    same_choices: float

    @property
    def passes(self) -> bool:
        """Whether the difference is allowed."""
        return self.speech == 0 and self.largest <= self.allowed

    def __str__(self) -> str:
        """Return the difference as a sentence."""
        speech = f" Speech embeddings differ by {self.speech:.3g}, and must not." if self.speech else ""
        return (
            f"Largest difference of {self.logits} logits before and after: {self.largest:.3g} "
            f"({self.allowed:.3g} allowed); the same token chosen at {100 * self.same_choices:.1f} % of positions."
            f"{speech}"
        )


def generated_batch(model: Any) -> Batch:
    """Return utterances of sweeping tones in noise, of :data:`DURATIONS_S`, for a task that the model knows."""
    task, source, target = min(model.trained_on, default=("asr", "en", "en"))
    clips = []
    for number, duration_s in enumerate(DURATIONS_S):
        time_s = torch.arange(round(duration_s * SAMPLE_RATE)) / SAMPLE_RATE
        noise = torch.randn(len(time_s), generator=torch.Generator().manual_seed(number))
        phase = 2 * torch.pi * (150 + 60 * number + 200 * time_s) * time_s
        clips.append(0.2 * phase.sin() * (3 * time_s).cos() + 0.02 * noise)
    size = len(clips)
    return Batch(
        audio=torch.nn.utils.rnn.pad_sequence(clips, batch_first=True),
        audio_lengths=torch.tensor([len(clip) for clip in clips]),
        ids=[f"generated {number}" for number in range(size)],
        tasks=[task] * size,
        source_languages=[source] * size,
        target_languages=[target] * size,
        transcripts=[ANSWER] * size,
        translations=[ANSWER] * size,
        corpora=["generated"] * size,
        rows=list(range(size)),
    )


@dataclass(frozen=True)
class Answers:
    """What a model makes of generated audio, on the CPU.

    Attributes:
        speech: (B, S, H) float32, speech embeddings.
        logits: (B, N, V) float32, of the tokens of :data:`ANSWER`.
    """

    speech: Tensor
    logits: Tensor


@torch.no_grad()
def answers(model: Any) -> Answers:
    """Return what a model makes of generated audio."""
    batch = generated_batch(model).to(model.device)
    speech = model.speech(batch)
    logits: Tensor = model.decoder.answer_logits(speech, batch)
    return Answers(speech.values.float().cpu(), logits.float().cpu())


def compare(before: Answers, after: Answers, dtype: torch.dtype | None, tolerance: float | None = None) -> Difference:
    """Compare two models by what they make of the same audio.

    Args:
        before: The model of the run.
        after: The one that was written.
        dtype: Format of the LLM's weights that LoRA was merged into; None where nothing may differ.
        tolerance: Largest difference allowed, in parts of the largest logit; that of :data:`ROUNDING` for
            the format where not given.
    """
    part = 0.0 if dtype is None else ROUNDING.get(dtype, 1e-4) if tolerance is None else tolerance
    if before.speech.shape != after.speech.shape:
        return Difference(float("inf"), float("inf"), 0.0, before.logits.numel(), 0.0)
    allowed = part * float(before.logits.abs().max())
    # Writing a table may make it larger by rows that no token uses.
    vocabulary = min(before.logits.shape[-1], after.logits.shape[-1])
    ours, theirs = before.logits[..., :vocabulary], after.logits[..., :vocabulary]
    same = (ours.argmax(dim=-1) == theirs.argmax(dim=-1)).float().mean()
    speech = _largest(before.speech, after.speech)
    return Difference(speech, _largest(ours, theirs), allowed, ours.numel(), float(same))


def _largest(before: Tensor, after: Tensor) -> float:
    """Return the largest difference; infinity where one is not a number."""
    largest = float((before - after).abs().max())
    return largest if largest >= 0 else float("inf")
