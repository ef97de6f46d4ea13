"""Where a run stands, as Lightning's loops count it, between one batch and the next.

Lightning stores its counters as they are in the hook that a checkpoint is written from, and guesses the hook from them
when the run goes on. For some hooks that repeats or skips a validation, counts an epoch twice, or lets accumulation
begin at another batch. Here the counters are put to one form, whatever the hook: all that has begun is done.
"""

from typing import Any

# Counters of Lightning: ready → started → processed (the step is done) → completed (its hooks are done).


def between_batches(loops: dict[str, Any], validation_due: bool) -> dict[str, Any]:
    """Return the state of the training loop with the counters of a run that is about to take its next batch.

    Args:
        loops: What Lightning's ``fit_loop.state_dict()`` gives.
        validation_due: Whether the validation after the last batch is still to be run.
    """
    state = dict(loops)
    batch = loops["epoch_loop.batch_progress"]
    batches = {kind: batch[kind]["processed"] for kind in ("total", "current")}
    epoch_ended = batch["is_last_batch"] and batch["current"]["ready"] == batches["current"]
    next_epoch = epoch_ended and not validation_due
    if next_epoch:
        batches["current"] = 0
    state["epoch_loop.batch_progress"] = {
        **{kind: _all(count, batch[kind]) for kind, count in batches.items()},
        "is_last_batch": epoch_ended and not next_epoch,
    }
    state["epoch_progress"] = {
        kind: _all(counts["ready"] - (not next_epoch), counts)
        | ({} if next_epoch else {"ready": counts["ready"], "started": counts["ready"]})
        for kind, counts in loops["epoch_progress"].items()
    }
    for key in ("epoch_loop.automatic_optimization.optim_progress", "epoch_loop.scheduler_progress"):
        state[key] = _settled(loops[key], next_epoch)
    state["epoch_loop.val_loop.batch_progress"] = _validation(
        loops["epoch_loop.val_loop.batch_progress"], validation_due
    )
    return state


def _all(count: int, counts: dict[str, int]) -> dict[str, int]:
    return dict.fromkeys(counts, count)


def _settled(progress: Any, next_epoch: bool) -> Any:
    """Return counters, however nested, in which what has begun without being completed has not."""
    if not isinstance(progress, dict):
        return progress
    if "completed" in progress:
        return _all(progress["completed"], progress)
    settled = {key: _settled(value, next_epoch) for key, value in progress.items()}
    if next_epoch and "current" in settled:
        settled["current"] = _all(0, settled["current"])
    return settled


def _validation(progress: dict[str, Any], due: bool) -> dict[str, Any]:
    """Return the counters of validation: done, or, where it is due, as if stopped in its first batch.

    That is what lets Lightning run it when the run goes on, from its beginning.
    """
    done = progress["total"]["completed"]
    total = _all(done, progress["total"])
    current = _all(0 if due else progress["current"]["completed"], progress["current"])
    if due:
        for counts in (total, current):
            counts["ready"] += 1
            counts["started"] += 1
    return {"total": total, "current": current, "is_last_batch": progress["is_last_batch"] and not due}
