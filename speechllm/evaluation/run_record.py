"""What a test was: everything that someone needs to judge its figures and to run it again, as ``run.json``."""

import hashlib
import json
import math
import os
import platform
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from speechllm.evaluation.breakdown import PartScore
from speechllm.evaluation.scoring import Score
from speechllm.evaluation.test_sets import TestSet, group_by_test_set
from speechllm.predictions import Prediction

RUN_FILE = "run.json"
"""Name of the file, beside the predictions."""

PACKAGES = (
    *("torch", "torchaudio", "transformers", "tokenizers", "lightning", "peft", "bitsandbytes", "lhotse", "numpy"),
    *("rapidfuzz", "sacrebleu", "whisper-normalizer", "unbabel-comet"),
)
"""Packages that figures may depend on."""

Intervals = Mapping[tuple[str, TestSet], tuple[float, float]]
"""Ends of the 95 % interval by name of the figure and test set."""


@dataclass(frozen=True)
class Run:
    """How predictions came about; what is not known is None.

    Attributes:
        command: The command line.
        recipe: The recipe with every default and flag.
        seed: Seed of the run.
        checkpoint: Path, size in bytes and time of the last change of the checkpoint's file.
        step: Optimiser step that it was written after.
        decoding: Options of decoding by name.
        processes: Number of processes that decoded.
        wall_s: Seconds that they took, those of interrupted runs before not included.
        taken_over: Number of utterances that an interrupted run before had decoded.
        decoded: Number of utterances that were decoded, where other segments are scored.
    """

    command: str | None = None
    recipe: dict[str, Any] | None = None
    seed: int | None = None
    checkpoint: dict[str, Any] | None = None
    step: int | None = None
    decoding: dict[str, Any] = field(default_factory=dict)
    processes: int = 1
    wall_s: float | None = None
    taken_over: int = 0
    decoded: int | None = None


def make_record(
    run: Run,
    predictions: Sequence[Prediction],
    scores: Sequence[Score],
    intervals: Intervals,
    parts: Iterable[PartScore],
) -> dict[str, Any]:
    """Return the contents of ``run.json``.

    Args:
        run: How the predictions came about.
        predictions: The predictions.
        scores: Their figures, of test sets and averages.
        intervals: 95 % confidence intervals of scores of test sets.
        parts: The breakdown.
    """
    return {
        "speechllm": version("speechllm"),
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        **asdict(run),
        "packages": package_versions(),
        "git": git_state(Path.cwd()),
        "hardware": hardware(),
        "test_sets": describe_test_sets(predictions),
        "scores": [_score_entry(item, intervals) for item in scores],
        "breakdown": _breakdown_entries(parts),
    }


def write_record(path: Path, record: Mapping[str, Any]) -> None:
    """Write a record as JSON, whole or not at all; numbers that are not finite become null."""
    text = json.dumps(_finite(record), indent=1, ensure_ascii=False, allow_nan=False, default=str)
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        partial.write_text(text + "\n", encoding="utf-8", errors="backslashreplace", newline="\n")
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def describe_test_sets(predictions: Sequence[Prediction]) -> list[dict[str, Any]]:
    """Return name, size and fingerprints of each test set, whichever of its texts are scored."""
    return [
        {
            **_names(test_set),
            "utterances": len(places),
            "audio_s": round(sum(predictions[place].duration_s for place in places), 3),
            "fingerprint": fingerprint([predictions[place] for place in places]),
            "hypotheses": hypotheses_digest([predictions[place] for place in places]),
        }
        for test_set, places in group_by_test_set(predictions, ["answer"]).items()
    ]


def fingerprint(predictions: Iterable[Prediction]) -> str:
    """Return a digest of the utterances and their references, whatever their order and whoever answered.

    Two systems with the same one were tested on the same. Durations count to the hundredth of a second.
    """
    lines = sorted(
        json.dumps(
            [
                *(p.id, p.task, p.source_language, p.target_language),
                *(p.reference_transcript, p.reference_translation, f"{p.duration_s:.2f}"),
            ]
        )
        for p in predictions
    )
    return hashlib.sha256("\n".join(lines).encode("ascii")).hexdigest()


def hypotheses_digest(predictions: Iterable[Prediction]) -> str:
    """Return a digest of what was written, whatever its order; statistics that are kept are of these texts."""
    lines = sorted(json.dumps([p.id, p.hypothesis_transcript, p.hypothesis_translation]) for p in predictions)
    return hashlib.sha256("\n".join(lines).encode("ascii")).hexdigest()


def package_versions() -> dict[str, str]:
    """Return the versions of Python and of those of :data:`PACKAGES` that are installed."""
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def git_state(folder: Path) -> dict[str, Any] | None:
    """Return the commit of a working folder, and whether files that git knows were changed; None outside of git."""
    try:
        commit, changes = (
            subprocess.run(
                ["git", "-C", str(folder), *arguments], capture_output=True, text=True, check=True, timeout=20
            ).stdout
            for arguments in (("rev-parse", "HEAD"), ("status", "--porcelain", "--untracked-files=no"))
        )
    except (OSError, subprocess.SubprocessError):  # no git, no repository, or one without a commit
        return None
    return {"commit": commit.strip(), "dirty": bool(changes.strip())}


def hardware() -> dict[str, Any]:
    """Return processor, cores, memory in GB and names of the GPUs; the latter only where torch is loaded already."""
    torch: Any = sys.modules.get("torch")  # who has decoded has it; a scorer of files does without its three seconds
    gpus: list[str] = []
    if torch is not None and torch.cuda.is_available():
        gpus = [torch.cuda.get_device_name(device) for device in range(torch.cuda.device_count())]
    try:
        memory_gb = round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9, 1)
    except (AttributeError, OSError, ValueError):  # not every system has it
        memory_gb = None
    return {"cpu": _cpu_name(), "cores": os.cpu_count(), "memory_gb": memory_gb, "gpus": gpus}


def _cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
        return next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def _score_entry(score: Score, intervals: Intervals) -> dict[str, Any]:
    interval = intervals.get((score.figure, score.test_set)) if score.kind == "test set" else None
    low, high = interval or (None, None)
    return {
        "figure": score.figure,
        "kind": score.kind,
        **_names(score.test_set),
        "text": score.test_set.text,
        "value": score.value,
        "unit": score.unit,
        "higher_is_better": score.higher_is_better,
        "signature": score.signature,
        "utterances": score.utterances,
        "skipped": score.skipped,
        "sums": None if score.sums is None else dict(score.sums),
        "low": low,
        "high": high,
    }


def _breakdown_entries(parts: Iterable[PartScore]) -> list[dict[str, Any]]:
    """Return an entry a figure, test set and kind of part, with all of its parts."""
    entries: dict[tuple[str, str, TestSet], dict[str, Any]] = {}
    for part in parts:
        names = {"by": part.by, "figure": part.figure, **_names(part.test_set), "text": part.test_set.text, "parts": []}
        entry = entries.setdefault((part.by, part.figure, part.test_set), names)
        entry["parts"].append({"part": part.part, "value": part.value, "utterances": part.utterances})
    return list(entries.values())


def _names(test_set: TestSet) -> dict[str, str]:
    names = asdict(test_set)
    del names["text"]
    return names


def _finite(value: Any) -> Any:
    """Return plain data in which numbers that are not finite are null."""
    if isinstance(value, Mapping):
        return {str(key): _finite(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(inner) for inner in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value
