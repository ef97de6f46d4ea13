"""Predictions made by hand."""

from speechllm.predictions import Prediction


def predicted(row, **changes):
    """Return a prediction of the task ``asr``; one word of four is wrong unless the texts are given."""
    values = {
        "id": f"u{row}",
        "row": row,
        "corpus": "fake",
        "split": "test",
        "task": "asr",
        "source_language": "en",
        "target_language": "en",
        "reference_transcript": "one two three four",
        "reference_translation": "",
        "hypothesis_transcript": "one two tree four",
        "hypothesis_translation": "",
        "text": "one two tree four",
        "duration_s": 2.0,
        "decode_s": 0.5,
        "tokens": 5,
        "readable": True,
        "missing_separator": False,
        "hit_limit": False,
        "first_token_s": 0.1,
        "speaker": "anna",
        "recording": f"clips/{row}.wav",
    }
    return Prediction(**(values | changes))


def translated(row, **changes):
    """Return a prediction of the task ``st`` from English to German."""
    values = {
        "task": "st",
        "target_language": "de",
        "reference_transcript": "the dog barks",
        "reference_translation": "der Hund bellt laut",
        "hypothesis_transcript": "",
        "hypothesis_translation": "der Hund bellt leise",
        "text": "der Hund bellt leise",
    }
    return predicted(row, **(values | changes))
