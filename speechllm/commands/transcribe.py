"""``speechllm transcribe``: audio files in, text out."""

import json
from typing import Literal


def transcribe(
    files: list[str],
    model: str,
    translate_to: str | None = None,
    language: str | None = None,
    format: Literal["txt", "jsonl"] = "txt",
    batch_seconds: float = 120.0,
    num_beams: int = 1,
    device: str | None = None,
) -> None:
    """Transcribe or translate audio files with a trained model.

    Prints one line a file, in the order given: the text alone for a single file, else the path, a tab and the text.

    Args:
        files: Audio files: wav, flac, mp3 or ogg, of any sampling rate and channel count.
        model: Run folder or checkpoint file.
        translate_to: Language code to translate into (de, fr, …); a transcript where not given.
        language: Language code of the speech; not needed where the model was trained on a single one.
        format: ``txt``, or ``jsonl`` for one JSON object a file.
        batch_seconds: Seconds of audio decoded at once.
        num_beams: Beams; 1 is greedy.
        device: ``cpu``, ``cuda``, …; a GPU where there is one.
    """
    from speechllm.models import SpeechLLM

    loaded = SpeechLLM.load(model, device)
    loaded.num_beams = num_beams
    if translate_to is None:
        texts = loaded.transcribe(files, source=language, batch_seconds=batch_seconds)
    else:
        texts = loaded.translate(files, target=translate_to, source=language, batch_seconds=batch_seconds)
    for file, text in zip(files, texts, strict=True):
        if format == "jsonl":
            print(
                json.dumps({"file": str(file), "language": translate_to or language, "text": text}, ensure_ascii=False)
            )
        else:
            print(text if len(files) == 1 else f"{file}\t{text}")
