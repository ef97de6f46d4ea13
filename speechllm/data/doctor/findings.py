"""Findings of a check: gathered in columns, counted, and written as tables."""

from array import array
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from speechllm.data.doctor.corpus import Columns, Finding, Place
from speechllm.data.doctor.rules import REASONS, TRAIN, Rules, Severity
from speechllm.data.doctor.text import visible
from speechllm.data.exclusions import listable
from speechllm.data.manifest import replacing

EXAMPLES = 5
"""Ids that are named for each reason."""


class Counted(NamedTuple):
    """A reason in a split: how severe it is there, how many utterances it concerns, and ids of some."""

    reason: str
    severity: Severity
    utterances: int
    examples: list[str]


@dataclass
class _SplitFindings:
    rows: "array[int]"
    reasons: "array[int]"
    details: list[str]
    others: list[Place | None]

    def in_order(self) -> list[int]:
        """Return positions by row; findings of one row in the order in which they were made."""
        order: list[int] = np.argsort(np.frombuffer(self.rows, dtype=np.uint64), kind="stable").tolist()
        return order


class Findings:
    """What was found in a corpus.

    Args:
        columns: Utterances of the corpus.
        rules: How severe each reason is.
    """

    def __init__(self, columns: Columns, rules: Rules) -> None:
        self.columns, self.rules = columns, rules
        self._names = list(REASONS)
        self._numbers = {name: number for number, name in enumerate(self._names)}
        self._splits = {split: _SplitFindings(array("L"), array("B"), [], []) for split in columns.splits}

    def add(self, finding: Finding) -> None:
        """Add a finding."""
        held = self._splits[finding.place.split]
        held.rows.append(finding.place.row)
        held.reasons.append(self._numbers[finding.reason])
        held.details.append(finding.detail)
        held.others.append(finding.other)

    def counts(self, split: str) -> list[Counted]:
        """Return what was found in a split, the severest first, and the most frequent of these."""
        held, ids = self._splits[split], self.columns.splits[split].ids
        rows, reasons = np.frombuffer(held.rows, dtype=np.uint64), np.frombuffer(held.reasons, dtype=np.uint8)
        found = []
        for number in np.unique(reasons).tolist():
            concerned = np.unique(rows[reasons == number]).tolist()
            reason = self._names[number]
            examples = [ids[row] for row in concerned[:EXAMPLES]]
            found.append(Counted(reason, self.rules.severity(reason, split), len(concerned), examples))
        return sorted(found, key=lambda count: (list(Severity).index(count.severity), -count.utterances))

    def concerned(self, split: str) -> dict[Severity, int]:
        """Return the number of utterances by the severest of what was found about them."""
        worst: dict[int, Severity] = {}
        held = self._splits[split]
        order = {severity: number for number, severity in enumerate(Severity)}
        for row, number in zip(held.rows, held.reasons, strict=True):
            severity = self.rules.severity(self._names[number], split)
            if row not in worst or order[severity] < order[worst[row]]:
                worst[row] = severity
        totals = dict.fromkeys(Severity, 0)
        for severity in worst.values():
            totals[severity] += 1
        return totals

    def exclusions(self) -> dict[tuple[str, str], str]:
        """Return the reasons of utterances of ``train`` to leave out; ids that no list can hold are not among them."""
        found: dict[tuple[str, str], list[str]] = {}
        for split, row, reason, _, _ in self._all(TRAIN):
            name = self.columns.splits[split].ids[row]
            if self.rules.severity(reason, split) == Severity.EXCLUDE and listable(name):
                reasons = found.setdefault((split, name), [])
                if reason not in reasons:
                    reasons.append(reason)
        return {key: "; ".join(reasons) for key, reasons in found.items()}

    def write(self, path: Path) -> None:
        """Write one row a finding, in the order of the corpus."""
        with (
            replacing(path) as partial,
            partial.open("w", encoding="utf-8", errors="backslashreplace", newline="\n") as file,
        ):
            file.write("split\tid\tseverity\treason\tdetail\taudio\n")
            for held in self._splits:
                for split, row, reason, detail, other in self._all(held):
                    if other is not None:
                        partner = f"as '{self.columns.splits[other.split].ids[other.row]}' in {other.split}"
                        detail = f"{detail}; {partner}" if detail else partner
                    kept = self.columns.splits[split]
                    fields = (split, kept.ids[row], self.rules.severity(reason, split), reason, detail, kept.audio[row])
                    file.write("\t".join(map(visible, fields)) + "\n")

    def _all(self, split: str) -> Iterator[tuple[str, int, str, str, Place | None]]:
        if split in self._splits:
            held = self._splits[split]
            for number in held.in_order():
                reason = self._names[held.reasons[number]]
                yield split, held.rows[number], reason, held.details[number], held.others[number]
