"""Which metrics and figures systems are compared by."""

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import speechllm.metrics  # noqa: F401  # registers the metrics
from speechllm.errors import UserError, did_you_mean
from speechllm.evaluation.metric_specs import metric_specs
from speechllm.evaluation.systems import System
from speechllm.registry import METRICS

TRANSCRIPT_METRICS = ("wer",)
TRANSLATION_METRICS = ("bleu", "chrf")
"""Metrics of systems that say nothing of metrics, by what they wrote."""

NOT_QUALITY = ("health", "speed")
"""Metrics that every test has and a table of results has not, unless they are named."""

Spec = dict[str, Any]


def choose_metrics(
    systems: Sequence[System], metrics: str | Iterable[str | Mapping[str, Any]] | None = None
) -> tuple[list[Spec], list[str]]:
    """Return the metrics that systems are compared by, and what was left out.

    Args:
        systems: The systems.
        metrics: Names of metrics, or specs, or a text that names some. Where they are not given, those of quality that
            all systems were tested with, as ``run.json`` says it; hypotheses from other files take what the runs have.

    Returns:
        Metric specs, and a sentence for each that only some systems were tested with.

    Raises:
        UserError: If a metric is not known, or the systems were tested with none in common.
    """
    if metrics is not None:
        return metric_specs(metrics), []
    named = [(system, specs) for system in systems if (specs := tested_with(system.run)) is not None]
    if not named:
        tasks = {task for system in systems for p in system.predictions for task in p.task.split("+")}
        names = TRANSCRIPT_METRICS if "asr" in tasks else ()
        return [{"name": name} for name in (*names, *(TRANSLATION_METRICS if "st" in tasks else ()))], []
    all_specs = {_word(spec): spec for _, specs in named for spec in specs}
    have = {word: [system.name for system, specs in named if spec in specs] for word, spec in all_specs.items()}
    common = [spec for word, spec in all_specs.items() if len(have[word]) == len(named)]
    if not common:
        listed = "; ".join(f"{system.name}: {', '.join(map(_word, specs)) or 'none'}" for system, specs in named)
        msg = f"The systems were not tested with any metric in common ({listed}). Name some: `--metrics '[wer, bleu]'`."
        raise UserError(msg)
    common = [spec for spec in common if spec["name"] not in NOT_QUALITY] or common
    left_out = [
        f"Left out: {word}, which only {' and '.join(names)} {'were' if len(names) > 1 else 'was'} tested with. "
        "Name it with --metrics to add it."
        for word, names in have.items()
        if len(names) < len(named)
    ]
    return common, left_out


def tested_with(run: Mapping[str, Any]) -> list[Spec] | None:
    """Return the metrics that a ``run.json`` was scored by, or those of its recipe; None where it names none."""
    found: Any = run
    for name in ("recipe", "model", "init_args", "metrics"):
        found = found.get(name) if isinstance(found, Mapping) else None
    found = run.get("metrics", found)
    return [_spec(metric) for metric in found] if isinstance(found, list) else None


def can_build(spec: Mapping[str, Any], systems: Sequence[System]) -> bool:
    """Return whether a metric can be built on this machine for the languages of systems."""
    languages = {code for s in systems for p in s.predictions for code in (p.source_language, p.target_language)}
    try:
        for language in languages:
            METRICS.build(spec, language=language)
    except UserError:
        return False
    return True


def check_figures(figures: Sequence[str], available: Iterable[str]) -> None:
    """Check that each figure that was asked for can be shown.

    Raises:
        UserError: If one cannot; the message gives the nearest and all that can.
    """
    known = list(dict.fromkeys(available))
    for figure in figures:
        if figure not in known:
            msg = (
                f"Unknown figure '{figure}'.{did_you_mean(figure, known)} The metrics that are compared give: "
                f"{', '.join(known)}. `--metrics` computes others."
            )
            raise UserError(msg)


def _spec(metric: str | Mapping[str, Any]) -> Spec:
    return {"name": metric} if isinstance(metric, str) else dict(metric)


def _word(spec: Spec) -> str:
    return str(spec["name"]) if set(spec) == {"name"} else json.dumps(spec, sort_keys=True, ensure_ascii=False)
