"""What a check says in the end: printed tables, and files to look through, to train with and for programs."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from speechllm.data.doctor.corpus import chars_limits
from speechllm.data.doctor.findings import Counted, Findings
from speechllm.data.doctor.picture import draw, save
from speechllm.data.doctor.rules import REASONS, Severity
from speechllm.data.doctor.text import visible
from speechllm.data.exclusions import EXCLUSIONS, write_exclusions
from speechllm.data.manifest import replacing
from speechllm.report import format_table

FORMAT = 1
"""Version of ``check.json``."""

MAX_EXAMPLE = 40
"""Longest id in the printed table, in characters."""


@dataclass(frozen=True)
class SplitReport:
    """What a check says about a split.

    Attributes:
        utterances: Number of utterances.
        hours: Duration as the manifest has it, in hours.
        concerned: Number of utterances by the severest of what was found about them.
        found: What was found.
    """

    utterances: int
    hours: float
    concerned: dict[Severity, int]
    found: list[Counted]

    def percent(self, count: Counted) -> float:
        """Return how many of the utterances something was found about, in percent."""
        return 100 * count.utterances / self.utterances


@dataclass(frozen=True)
class Report:
    """What a check says; as a string, it is a table for each split and one of the findings.

    Attributes:
        out: Folder of the files that were written.
        splits: What is said about each split.
        excluded: Number of utterances in ``exclude.tsv``.
        decoded_s: Audio that was decoded, in seconds; what was measured before was not.
        elapsed_s: How long it took to go through all utterances, in seconds.
    """

    out: Path
    splits: dict[str, SplitReport]
    excluded: int
    decoded_s: float
    elapsed_s: float

    def __str__(self) -> str:
        totals: list[tuple[str | float, ...]] = [
            (split, one.utterances, one.hours, *(one.concerned[severity] for severity in Severity))
            for split, one in self.splits.items()
        ]
        found = [
            (split, str(count.severity), count.reason, count.utterances, one.percent(count), _example(count))
            for split, one in self.splits.items()
            for count in one.found
        ]
        tables = [format_table(totals, ("split", "utterances", "hours", *map(str, Severity)))]
        if found:
            tables.append(format_table(found, ("split", "severity", "reason", "utterances", "%", "example")))
        done = f"Decoded {self.decoded_s / 3600:,.2f} h of audio in {self.elapsed_s:,.1f} s"
        lines = [
            f"{done}; what was measured before was not decoded again.",
            f"To look through: {self.out / 'check.png'}, {self.out / 'findings.tsv'}",
            f"To leave out of training: {self.excluded:,} utterances, {self.out / EXCLUSIONS}",
        ]
        return "\n\n".join([*tables, "\n".join(lines)])


def write_report(out: Path, findings: Findings, name: str, decoded_s: float, elapsed_s: float) -> Report:
    """Write the files of a check and return its report.

    Args:
        out: Folder that is there.
        findings: What was found.
        name: What was checked, for the picture.
        decoded_s: Audio that was decoded, in seconds.
        elapsed_s: How long that took, in seconds.

    Raises:
        OSError: If a file cannot be written.
    """
    columns, rules = findings.columns, findings.rules
    exclusions = findings.exclusions()
    splits = {
        split: SplitReport(
            utterances=len(kept),
            hours=float(np.frombuffer(kept.duration_s, dtype=np.float32).sum(dtype=np.float64)) / 3600,
            concerned=findings.concerned(split),
            found=findings.counts(split),
        )
        for split, kept in columns.splits.items()
    }
    limits = {
        (kind, language): chars_limits(kind, language, figures, rules.thresholds)
        for (kind, language), figures in sorted(columns.chars_per_s.items())
    }
    findings.write(out / "findings.tsv")
    write_exclusions(out / EXCLUSIONS, exclusions)
    _write_json(
        out / "check.json",
        {
            "format": FORMAT,
            "splits": {split: _plain(report) for split, report in splits.items()},
            "excluded": len(exclusions),
            "characters_per_second": [
                {"text": kind, "language": language, "texts": limit.texts}
                | {name: round(getattr(limit, name), 3) for name in ("median", "low", "high")}
                for (kind, language), limit in limits.items()
            ],
            "thresholds": asdict(rules.thresholds),
            "severities": dict(rules.severities),
        },
    )
    utterances, hours = sum(len(kept) for kept in columns.splits.values()), sum(one.hours for one in splits.values())
    figure = draw(columns, limits, rules.thresholds, f"{name}: {utterances:,} utterances, {hours:,.1f} hours")
    with replacing(out / "check.png") as partial:
        save(figure, partial)
    return Report(out, splits, len(exclusions), decoded_s, elapsed_s)


def _plain(report: SplitReport) -> dict[str, object]:
    """Return a split's report as plain data, with the meaning of each reason."""
    found = {
        count.reason: {
            "severity": str(count.severity),
            "utterances": count.utterances,
            "percent": round(report.percent(count), 4),
            "meaning": REASONS[count.reason][1],
            "examples": count.examples,
        }
        for count in report.found
    }
    concerned = {str(severity): count for severity, count in report.concerned.items()}
    return {"utterances": report.utterances, "hours": round(report.hours, 4), "concerned": concerned, "found": found}


def _write_json(path: Path, content: Mapping[str, object]) -> None:
    with replacing(path) as partial:
        text = json.dumps(content, indent=2, ensure_ascii=False) + "\n"
        partial.write_text(text, encoding="utf-8", errors="backslashreplace")


def _example(count: Counted) -> str:
    name = visible(count.examples[0])
    return name if len(name) <= MAX_EXAMPLE else f"{name[: MAX_EXAMPLE - 3]}..."
