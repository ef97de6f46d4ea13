"""One pass over a split: what each process decodes, and all of it in the corpus's order."""

import os
import time
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from lightning.pytorch import Trainer
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn

from speechllm.batch import Batch, Hypothesis
from speechllm.models.journal import Journal
from speechllm.models.processes import Processes
from speechllm.predictions import Prediction

JOURNAL_FOLDER = ".decoded"
"""Folder of the journal, within that of the results."""


class DecodingRun:
    """The predictions of a split while it is decoded.

    Args:
        split: Name of the split.
        processes: The processes that share the split out.
        journal: Where batches are kept until the results are written.
        taken_over: Predictions of a run before, on the first process.
    """

    def __init__(
        self,
        split: str,
        processes: Processes,
        journal: Journal | None = None,
        taken_over: Sequence[Prediction] = (),
    ) -> None:
        self.split, self.taken_over = split, len(taken_over)
        self._processes, self._journal = processes, journal
        self._predictions = list(taken_over)
        self._start_s = time.perf_counter()

    def start_clock(self) -> None:
        """Count the time of decoding from now."""
        self._start_s = time.perf_counter()

    def add(self, batch: Batch, hypotheses: Sequence[Hypothesis], decode_s: float) -> list[Prediction]:
        """Join a batch with its hypotheses, keep and return them.

        Args:
            batch: The utterances.
            hypotheses: One an utterance.
            decode_s: Seconds that the batch took, shared out evenly.
        """
        predictions = make_predictions(batch, hypotheses, decode_s, self.split)
        if self._journal is not None:
            self._journal.append(predictions)
        self._predictions += predictions
        return predictions

    def gather(self) -> tuple[list[Prediction], float]:
        """Return the predictions of all processes by row, each row once, and the seconds since the clock was started.

        On the first process; the others get none. All must call it.
        """
        if self._journal is not None:
            self._journal.close()
        shares = self._processes.gather(self._predictions)
        by_row = {prediction.row: prediction for share in shares for prediction in share}
        self._predictions = []
        return [by_row[row] for row in sorted(by_row)], time.perf_counter() - self._start_s

    def forget(self) -> None:
        """Delete the journal: the results stand elsewhere now. On the first process."""
        if self._journal is not None:
            self._journal.remove()


def begin_run(
    split: str, trainer: Trainer, processes: Processes, folder: Path, settings: Mapping[str, Any]
) -> DecodingRun:
    """Begin to decode the test rows, or go on where a run of the same settings was stopped.

    Rows that are decoded already are left out of the batches. Without a checkpoint, whose weights others could have,
    or where only some batches are decoded, there is nothing to go on with.

    Args:
        split: Name of the split.
        trainer: The trainer, whose data is set up, and whose batches are not yet made.
        processes: Its processes.
        folder: Folder of the results.
        settings: What decoding depends on beside checkpoint and rows, by name.
    """
    data: Any = getattr(trainer, "datamodule", None)
    if not hasattr(data, "test_fingerprint"):
        return DecodingRun(split, processes)
    data.decoded = ()
    limit = trainer.limit_predict_batches if trainer.predicting else trainer.limit_test_batches
    # a limit of 1 is one batch, and one of 1.0 all of them
    limited = limit != 1.0 or isinstance(limit, int)
    if trainer.ckpt_path is None or limited or trainer.fast_dev_run:  # type: ignore[attr-defined]
        return DecodingRun(split, processes)
    checkpoint = trainer.ckpt_path

    def identity() -> dict[str, Any]:
        return {
            "checkpoint": describe_checkpoint(checkpoint),
            **settings,
            "precision": str(trainer.precision),
            "test rows": data.test_fingerprint(),
            **{f"{package} version": version(package) for package in ("speechllm", "torch", "transformers")},
        }

    journal = Journal(folder / JOURNAL_FOLDER, processes.on_first(identity))
    taken_over: list[Prediction] = []

    def take_over() -> list[int]:
        found, differences = journal.take_over()
        taken_over.extend(found)
        if differences:
            rank_zero_warn(
                f"What an interrupted run had decoded is decoded anew. It differs in {'; '.join(differences)}."
            )
        return [prediction.row for prediction in found]

    data.decoded = frozenset(processes.on_first(take_over))
    if taken_over:
        rank_zero_info(f"Going on with an interrupted run: {len(taken_over)} utterances are decoded already.")
    journal.open(processes.rank)
    return DecodingRun(split, processes, journal, taken_over)


def describe_checkpoint(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Return what tells a checkpoint's file from another: path, size in bytes and time of its last change."""
    file = Path(path).resolve()
    status = file.stat()
    return {"path": str(file), "bytes": status.st_size, "changed_ns": status.st_mtime_ns}


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
            decode_s=round(decode_s / len(batch), 6),
            tokens=hypothesis.tokens,
            readable=duration_s > 0,
            missing_separator=hypothesis.missing_separator,
            hit_limit=hypothesis.hit_limit,
            first_token_s=round(hypothesis.first_token_s, 6),
            speaker=batch.speakers[i],
            recording=batch.recordings[i],
            offset_s=batch.offsets_s[i],
        )
        for i, (hypothesis, duration_s) in enumerate(zip(hypotheses, batch.durations_s, strict=True))
    ]
