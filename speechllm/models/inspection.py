"""What the adapter of a model does with one utterance: its positions, what it reads into them, and the text."""

import io
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from speechllm.audio import prepare_samples, read_audio
from speechllm.batch import SAMPLE_RATE, Spans
from speechllm.encoders.whisper import HOP, LogMel
from speechllm.errors import UserError
from speechllm.models.inference import Audio, Request, answer
from speechllm.models.picture import draw

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from speechllm.models.speech_llm import SpeechLLM

MAX_DURATION_S = 30.0
"""Longest audio of which a picture is made, in seconds; on a slide, more could not be told apart."""

MEL_BINS = 80

FORMATS = (".png", ".pdf", ".svg")
"""Suffixes of pictures."""


@dataclass(frozen=True)
class Inspection:
    """One utterance on its way through a model; a notebook shows it as its picture.

    Attributes:
        name: File name of the audio.
        offset_s: Where the utterance begins in the file, in seconds.
        duration_s: Duration in seconds.
        log_mel: (N, M) float32, 100 Hz.
        frames: Number of encoder frames F.
        frame_rate: Frames per second, in Hz.
        spans: The frames behind each of the S speech positions.
        parts: Names of encoder and adapter.
        texts: Pairs of kind (``transcript``, ``translation (de)``) and generated text.
    """

    name: str
    offset_s: float
    duration_s: float
    log_mel: Tensor
    frames: int
    frame_rate: float
    spans: Spans
    parts: tuple[str, str]
    texts: list[tuple[str, str]]

    @property
    def positions(self) -> int:
        """Number of speech positions S that the LLM is given."""
        return len(self.spans.starts)

    @property
    def compression_ratio(self) -> float:
        """Encoder frames per speech position."""
        return self.frames / self.positions

    @property
    def positions_per_second(self) -> float:
        """Speech positions per second of audio."""
        return self.positions / self.duration_s

    def caption(self) -> tuple[str, str]:
        """Return what stands above the picture: which utterance, and what became of it."""
        end_s = self.offset_s + self.duration_s
        stretch = f", {self.offset_s:.2f} to {end_s:.2f} s" if self.offset_s else ""
        return (
            f"{self.name}{stretch}  ({self.duration_s:.2f} s)",
            f"{self.parts[0]}: {self.frames:,} frames, {self.frame_rate:g} per second  →  "
            f"{self.parts[1]}: {self.positions:,} positions, {self.positions_per_second:.1f} per second  "
            f"({self.compression_ratio:.1f} : 1)",
        )

    def figure(self) -> "Figure":
        """Return the picture as a matplotlib figure of its own, unknown to ``pyplot``."""
        return draw(self)

    def save(self, path: str | Path) -> None:
        """Write the picture.

        Args:
            path: File that ends in one of :data:`FORMATS`.

        Raises:
            UserError: If the format is not known or the file cannot be written.
        """
        check_picture_path(path)
        try:
            self.figure().savefig(path, dpi=200)
        except OSError as error:
            msg = f"The picture '{path}' cannot be written: {error}. Name another file."
            raise UserError(msg) from error

    def _repr_png_(self) -> bytes:
        png = io.BytesIO()
        self.figure().savefig(png, format="png", dpi=110)
        return png.getvalue()


def inspect_audio(
    model: "SpeechLLM",
    audio: Audio,
    target: str | None = None,
    source: str | None = None,
    sampling_rate: int | None = None,
    offset_s: float = 0.0,
    duration_s: float | None = None,
) -> Inspection:
    """Send one utterance through a model and keep what its adapter does with it.

    Args:
        model: A trained model.
        audio: Path of an audio file, or an array of samples, at most :data:`MAX_DURATION_S` long.
        target: Language code to translate into; a transcript where not given.
        source: Language code of the speech; not needed where the model was trained on a single one.
        sampling_rate: Rate of an array in Hz; 16 kHz where not given.
        offset_s: Where to begin in a file, in seconds.
        duration_s: How much of a file to take, in seconds; to its end where not given.

    Raises:
        UserError: If the audio cannot be read, is too short or too long, or a language is not known.
    """
    if isinstance(audio, str | Path):
        name, samples = Path(audio).name, read_audio(audio, offset_s, duration_s)
    elif offset_s or duration_s is not None:
        msg = "`offset_s` and `duration_s` are for files; cut the array itself."
        raise UserError(msg)
    else:
        name, samples = "audio", prepare_samples(audio, sampling_rate or SAMPLE_RATE)
    seconds = len(samples) / SAMPLE_RATE
    if seconds > MAX_DURATION_S:
        msg = (
            f"'{name}' lasts {seconds:.2f} s, and a picture takes at most {MAX_DURATION_S:g} s. Choose a stretch with "
            f"`offset_s` and `duration_s`."
        )
        raise UserError(msg)
    model.encoder.check_durations(torch.tensor([len(samples)]), [name])
    request = Request("asr" if target is None else "st", source, target, None, MAX_DURATION_S)
    (hypothesis,) = answer(model, samples, request)
    texts = []
    if target is None or hypothesis.transcript:
        texts.append(("transcript", hypothesis.transcript))
    if target is not None or hypothesis.translation:
        texts.append((f"translation ({target})" if target else "translation", hypothesis.translation))
    frames, spans = _positions(model, samples)
    return Inspection(
        name=name,
        offset_s=offset_s,
        duration_s=seconds,
        log_mel=log_mel(samples),
        frames=frames,
        frame_rate=float(model.encoder.frame_rate),
        spans=spans,
        parts=(model.specs["encoder"]["name"], model.specs["adapter"]["name"]),
        texts=texts,
    )


def check_picture_path(path: str | Path) -> None:
    """Check that a picture can be written to a path, before a model is loaded for it.

    Raises:
        UserError: If its suffix is not one of :data:`FORMATS`, or its folder does not exist.
    """
    path = Path(path)
    if path.suffix.lower() not in FORMATS:
        msg = f"A picture's name ends in one of {', '.join(FORMATS)}, but this is '{path}'."
        raise UserError(msg)
    if not path.parent.is_dir():
        msg = f"The picture '{path}' cannot be written: there is no folder '{path.parent}'. Make it, or name another."
        raise UserError(msg)


def log_mel(samples: Tensor) -> Tensor:
    """Return the log-mel spectrogram (80, M) float32 of at most 30 s (T,), at 100 Hz, whatever the model's encoder."""
    lengths = torch.tensor([len(samples)])
    features: Tensor = LogMel(MEL_BINS)(samples[None], lengths, -(-len(samples) // HOP))
    return features[0]


def _positions(model: "SpeechLLM", samples: Tensor) -> tuple[int, Spans]:
    """Return the number of encoder frames, and the frames behind each speech position, on the CPU."""
    was_training = model.training
    model.eval()
    with torch.inference_mode():
        frames = model.encoder(samples[None].to(model.device), torch.tensor([len(samples)]))
        weight = next(model.adapter.parameters(), frames.values)
        frames = replace(frames, values=frames.values.to(weight.dtype))
        (spans,) = model.adapter.spans(frames)
    model.train(was_training)
    weights = None if spans.weights is None else spans.weights.float().cpu()
    labels = spans.labels
    if labels is None and spans.tokens is not None:
        labels = [_text(model.decoder.tokenizer, ids) for ids in spans.tokens]
    return int(frames.lengths[0]), Spans(spans.starts.float().cpu(), spans.ends.float().cpu(), labels, weights)


def _text(tokenizer: Any, ids: list[int]) -> str:
    """Return the text of some tokens, with the space before them that SentencePiece drops from the first."""
    if not ids:
        return ""
    text = str(tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False))
    space = tokenizer.convert_ids_to_tokens(ids[0]).startswith("▁")
    return f" {text.lstrip()}" if space else text
