"""What a test and a prediction leave behind: written by the first process, known to all."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from lightning.pytorch import Trainer

from speechllm.evaluation.long_form import realign
from speechllm.evaluation.run_record import Run
from speechllm.evaluation.scoring import by_test_set, summarize
from speechllm.evaluation.test_folder import PREDICTIONS_FILE, SEGMENTS_FILE, write_test_folder
from speechllm.models.decoding_run import DecodingRun, describe_checkpoint
from speechllm.models.processes import Processes
from speechllm.predictions import write_predictions
from speechllm.registry import METRICS
from speechllm.talk_references import TalkReference


def results_folder(trainer: Trainer, stage: str) -> Path:
    """Return the folder of results of ``test`` or ``predict``; a test has one of its own for each noise."""
    name = getattr(getattr(trainer, "datamodule", None), f"{stage}_name", stage)
    return Path(trainer.default_root_dir) / name


def write_test(
    run: DecodingRun,
    processes: Processes,
    folder: Path,
    specs: Sequence[Mapping[str, Any]],
    origin: Run,
    talk_references: Sequence[TalkReference] = (),
) -> dict[str, float]:
    """Score every utterance of a test once, write and print the results, and return the figures for logs.

    All processes must call it. Only the first scores, since a metric may be a large model.

    Args:
        run: What was decoded.
        processes: The processes that decoded it.
        folder: Folder of the results.
        specs: Metric specs.
        origin: How the predictions came about, as far as it was known before.
        talk_references: References of whole talks, where the test set is in segments of its own. What was decoded
            goes to ``segments.jsonl``, and the segments of the references are scored, of which no speed is known.

    Raises:
        UserError: If a metric cannot score them; on all processes. What was decoded is kept for the next test.
    """
    predictions, wall_s = run.gather()

    def work() -> dict[str, float]:
        record = replace(origin, processes=processes.count, wall_s=round(wall_s, 3), taken_over=run.taken_over)
        scored, fit = predictions, specs
        if talk_references:
            write_predictions(folder / SEGMENTS_FILE, predictions)
            scored, record = realign(predictions, talk_references), replace(record, decoded=len(predictions))
            fit = [spec for spec in specs if METRICS.get(spec["name"]).scores != ("answer",)]
        results = write_test_folder(folder, scored, fit, record)
        run.forget()
        print(f"\n{results.report}\n\nResults: {folder}")
        return {**by_test_set(results.scored_sets), **summarize(results.scored_sets)}

    return processes.on_first(work)


def write_prediction(run: DecodingRun, processes: Processes, folder: Path) -> None:
    """Write what was predicted; all processes must call it."""
    predictions, _ = run.gather()

    def work() -> None:
        write_predictions(folder / PREDICTIONS_FILE, predictions)
        run.forget()
        print(f"Predictions: {folder / PREDICTIONS_FILE}")

    processes.on_first(work)


def describe_run(trainer: Trainer, origin: Run, decoding: Mapping[str, Any]) -> Run:
    """Return what is known of a test before its end.

    Args:
        trainer: The trainer.
        origin: Where the model comes from.
        decoding: Options of decoding by name.
    """
    path, seed = trainer.ckpt_path, os.environ.get("PL_GLOBAL_SEED")  # where Lightning's seed_everything leaves it
    return replace(
        origin,
        seed=None if seed is None else int(seed),
        checkpoint=None if path is None else describe_checkpoint(path),
        decoding={**decoding, "precision": str(trainer.precision)},
    )
