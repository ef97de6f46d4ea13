"""``speechllm inspect``: a picture of what a model's adapter does with an utterance."""

from pathlib import Path


def inspect(
    audio: str,
    model: str,
    out: Path | None = None,
    translate_to: str | None = None,
    language: str | None = None,
    offset_s: float = 0.0,
    duration_s: float | None = None,
    num_beams: int = 1,
    device: str | None = None,
) -> None:
    """Draw the spectrogram of an utterance, the adapter's positions over it, and the generated text below.

    Args:
        audio: Audio file: wav, flac, mp3 or ogg, of any sampling rate and channel count.
        model: Run folder or checkpoint file.
        out: Picture: a name that ends in .png, .pdf or .svg; that of the audio file with .png, in the current folder,
            if not given.
        translate_to: Language code to translate into (de, fr, …); a transcript where not given.
        language: Language code of the speech; not needed where the model was trained on a single one.
        offset_s: Where to begin in the file, in seconds.
        duration_s: How much of the file to take, in seconds, at most 30; to its end if not given.
        num_beams: Beams; 1 is greedy.
        device: ``cpu``, ``cuda``, …; a GPU where there is one.

    Raises:
        UserError: If there is no model, the audio cannot be read or is too long, or the picture cannot be written.
    """
    from speechllm.models import SpeechLLM
    from speechllm.models.inspection import check_picture_path, inspect_audio

    path = out or Path(f"{Path(audio).stem}.png")
    check_picture_path(path)
    loaded = SpeechLLM.load(model, device)
    loaded.num_beams = num_beams
    inspection = inspect_audio(loaded, audio, translate_to, language, offset_s=offset_s, duration_s=duration_s)
    inspection.save(path)
    print("\n".join([*inspection.caption(), *(f"{kind}: {text}" for kind, text in inspection.texts)]))
    print(f"Picture: {path}")
