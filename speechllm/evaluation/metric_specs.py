"""Metrics as users name them: one, several between commas, or specs with options."""

from collections.abc import Iterable, Mapping
from typing import Any

import yaml

import speechllm.metrics  # noqa: F401  # registers the metrics
from speechllm.errors import UserError
from speechllm.registry import METRICS


def metric_specs(metrics: str | Iterable[str | Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return metrics as specs, each once.

    Args:
        metrics: Names or specs; or one text: names divided by commas, or a spec or list of them as YAML.

    Raises:
        UserError: If a metric or an option of it is not known, or the text is neither names nor YAML.
    """
    named: Any = metrics
    if isinstance(metrics, str):
        named = _parse(metrics) if metrics.strip()[:1] in ("[", "{") else metrics.split(",")
    specs: list[dict[str, Any]] = []
    for metric in named:
        spec = {"name": metric.strip()} if isinstance(metric, str) else dict(metric)
        METRICS.check(spec)
        specs += [spec] if spec not in specs else []
    return specs


def _parse(text: str) -> list[Any]:
    try:
        found = yaml.safe_load(text)
    except yaml.YAMLError:
        found = None
    listed = found if isinstance(found, list) else [found]
    if not all(isinstance(metric, str | dict) for metric in listed):
        msg = (
            f"Metrics are given as 'wer,cer' or '[wer, {{name: wer, normalizer: whisper}}]', but not as '{text}'. "
            f"Registered: {', '.join(METRICS.names())}."
        )
        raise UserError(msg)
    return listed
