"""From predictions to figures: one decode, every metric."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

from speechllm.batch import Batch, Hypothesis
from speechllm.evaluation.scoring import Score
from speechllm.evaluation.test_sets import short_names
from speechllm.predictions import Prediction
from speechllm.report import format_examples, format_table


def make_predictions(batch: Batch, hypotheses: Sequence[Hypothesis], decode_s: float, split: str) -> list[Prediction]:
    """Join a batch with its hypotheses.

    Args:
        batch: The utterances.
        hypotheses: One an utterance.
        decode_s: Seconds that the batch took, shared out evenly.
        split: Name of the split.
    """
    return [
        Prediction(
            id=batch.ids[i],
            row=batch.rows[i],
            corpus=batch.corpora[i],
            split=split,
            task=batch.tasks[i],
            source_language=batch.source_languages[i],
            target_language=batch.target_languages[i],
            reference_transcript=batch.transcripts[i],
            reference_translation=batch.translations[i],
            hypothesis_transcript=hypothesis.transcript,
            hypothesis_translation=hypothesis.translation,
            text=hypothesis.text,
            duration_s=duration_s,
            decode_s=decode_s / len(batch),
            tokens=hypothesis.tokens,
            readable=duration_s > 0,
            missing_separator=hypothesis.missing_separator,
            hit_limit=hypothesis.hit_limit,
            speaker=batch.speakers[i],
            recording=batch.recordings[i],
            offset_s=batch.offsets_s[i],
        )
        for i, (hypothesis, duration_s) in enumerate(zip(hypotheses, batch.durations_s, strict=True))
    ]


def measure_speed(predictions: Sequence[Prediction], wall_s: float) -> dict[str, float]:
    """Return hypotheses per second and the real-time factor (seconds of decoding per second of audio).

    Args:
        predictions: Predictions of all processes.
        wall_s: Time that decoding took, in seconds, on the slowest process.
    """
    audio_s = sum(p.duration_s for p in predictions)
    return {
        "hypotheses_per_second": len(predictions) / max(wall_s, 1e-9),
        "real_time_factor": wall_s / max(audio_s, 1e-9),
    }


def count_problems(predictions: Sequence[Prediction]) -> dict[str, int]:
    """Return how many utterances could not be read, lack the separator, or were cut off at the limit of tokens."""
    return {
        "utterances": len(predictions),
        "unreadable": sum(not p.readable for p in predictions),
        "missing_separator": sum(p.missing_separator for p in predictions),
        "hit_limit": sum(p.hit_limit for p in predictions),
        "empty": sum(not p.text.strip() for p in predictions),
    }


def write_metrics(
    folder: Path, predictions: Sequence[Prediction], scores: Sequence[Score], speed: Mapping[str, float], text: str
) -> None:
    """Write ``metrics.json`` for programs and ``report.txt`` for people into ``folder``.

    Args:
        folder: Folder that exists.
        predictions: Predictions that were scored.
        scores: Their scores.
        speed: Figures of :func:`measure_speed`.
        text: Report of :func:`report`.
    """
    results = {"scores": [asdict(item) for item in scores], "speed": dict(speed), "counts": count_problems(predictions)}
    (folder / "metrics.json").write_text(json.dumps(results, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    (folder / "report.txt").write_text(text + "\n", encoding="utf-8")


def report(
    predictions: Sequence[Prediction], scores: Sequence[Score], speed: Mapping[str, float], examples: int = 3
) -> str:
    """Return the table of figures, what went wrong, and a few utterances, as text for a terminal."""
    names = short_names(item.test_set for item in scores)
    rows: list[tuple[str, str, str, str]] = [
        (item.figure, names[item.test_set], f"{item.value:.2f}", item.signature) for item in scores
    ]
    rows += [
        ("hypotheses/s", "", f"{speed['hypotheses_per_second']:.2f}", f"{len(predictions)} utterances"),
        ("real-time factor", "", f"{speed['real_time_factor']:.4f}", "decoding time / audio time"),
    ]
    table = format_table(rows, ["metric", "test set", "value", "signature"])
    counts = count_problems(predictions)
    notes = {
        "unreadable": "clips could not be read and are scored as empty output",
        "missing_separator": "answers lack the separator: their translation counts as empty",
        "hit_limit": "answers were cut off at the limit of new tokens",
        "empty": "answers are empty",
    }
    lines = [f"{counts[key]} of {counts['utterances']} {text}." for key, text in notes.items() if counts[key]]
    return "\n".join([table, "", *lines, *([""] if lines else []), format_examples(predictions, examples)])
