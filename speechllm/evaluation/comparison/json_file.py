"""The comparison as JSON: every value unrounded, with its interval and both p-values."""

import json
import math
from collections.abc import Mapping
from typing import Any

from speechllm.evaluation.comparison.csv_file import marks_of
from speechllm.evaluation.comparison.measured import DifferenceTest
from speechllm.evaluation.comparison.results import Key, full_name
from speechllm.evaluation.comparison.table import Block, Cell, Row, Table, columns_of


def to_json(table: Table, how: DifferenceTest, compression: Mapping[Key, float]) -> str:
    """Return the comparison; what is not known is null.

    Args:
        table: The table.
        how: How differences were tested.
        compression: Frames of the encoder for each position of the LLM, by system.
    """
    systems = []
    for row in table.rows:
        key = (row.group, row.name)
        baseline = table.baselines.get(key)
        systems.append(
            {
                "group": row.group,
                "system": row.name,
                "published": row.published,
                "baseline": full_name(baseline) if baseline else None,
                "compression": compression.get(key),
                "figures": _figures(table, row),
            }
        )
    contents = {
        "resampling": {"by": how.by, "samples": how.samples, "seed": how.seed, "test": how.test},
        "systems": systems,
        "signatures": [{"figure": title, "signature": signature} for title, signature in table.signatures],
        "notes": table.notes,
    }
    return json.dumps(contents, indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def _figures(table: Table, row: Row) -> list[dict[str, Any]]:
    return [
        _entry(block, name, cell)
        for (block, name), cell in zip(columns_of(table), row.cells, strict=True)
        if cell.value is not None
    ]


def _entry(block: Block, name: str, cell: Cell) -> dict[str, Any]:
    figure, corpus, split, text = block.place
    entry: dict[str, Any] = {"figure": figure, "corpus": corpus, "split": split, "text": text, "languages": name}
    entry |= {"value": cell.value, "printed": cell.printed, "marks": marks_of(cell).split()}
    result = cell.result
    if result is not None and result.interval is not None:
        low, high = map(_finite, result.interval)
        entry |= {"low": low, "high": high, "utterances": result.utterances, "signature": result.signature}
    if result is not None and result.comparison is not None:
        found = result.comparison
        entry["against_baseline"] = {
            "difference": _finite(found.difference),
            "low": _finite(found.low),
            "high": _finite(found.high),
            "p_bootstrap": _finite(found.p_bootstrap),
            "p_randomization": _finite(found.p_randomization),
            "significant": result.significant,
        }
    return entry


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
