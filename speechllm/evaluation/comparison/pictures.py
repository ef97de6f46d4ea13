"""The pictures of a comparison: those that have something to show, and why there are no others."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from speechllm.evaluation.comparison import duration_bars, tradeoff
from speechllm.evaluation.comparison.measured import DifferenceTest, Scored
from speechllm.evaluation.comparison.results import Key, full_name
from speechllm.evaluation.comparison.style import save
from speechllm.evaluation.comparison.table import Table
from speechllm.evaluation.comparison.tradeoff import Cost
from speechllm.evaluation.systems import System


def write_pictures(
    folder: Path, table: Table, scored: Sequence[Scored], compression: Mapping[Key, float], how: DifferenceTest
) -> tuple[list[str], list[str]]:
    """Write the pictures.

    Args:
        folder: Folder that exists.
        table: The table.
        scored: Systems whose predictions are at hand.
        compression: Frames of the encoder for each position of the LLM, of the systems for which it is known.
        how: How intervals are resampled.

    Returns:
        Names of the pictures, and a sentence for each that has nothing to show or lacks a system.
    """
    names, notes = [], []
    speeds = {item.key: speed for item in scored if (speed := real_time_factor(item.system)) is not None}
    costs = {
        "quality_compression": Cost("compression: encoder frames for each LLM position", compression),
        "quality_cost": Cost("real-time factor: seconds of decoding for each of audio", speeds, lower_is_better=True),
    }
    for name, cost in costs.items():
        (folder / f"{name}.png").unlink(missing_ok=True)
        what = cost.label.partition(":")[0]
        if not tradeoff.drawable(table, cost):
            notes.append(f"No picture of quality against {what}: it takes two systems whose {what} is known.")
            continue
        lacking = [full_name((row.group, row.name)) for row in table.rows if (row.group, row.name) not in cost.values]
        if lacking:
            notes.append(f"Not in the picture of quality against {what}, which is not known: {', '.join(lacking)}.")
        save(tradeoff.draw(table, cost), folder / f"{name}.png")
        names.append(f"{name}.png")
    for old in folder.glob("by_duration_*.png"):
        old.unlink()
    for block in table.blocks:
        bins = duration_bars.measure_bins(scored, block, how)
        if not any(bins.values()):
            if scored:
                notes.append(f"No picture of {block.title} by duration: no system has durations and all its languages.")
            continue
        name = f"by_duration_{re.sub(r'[^A-Za-z0-9]+', '_', block.title).strip('_').lower()}.png"
        save(duration_bars.draw(bins, block), folder / name)
        names.append(name)
    return names, notes


def real_time_factor(system: System) -> float | None:
    """Return seconds of decoding for each second of audio; None where times were not measured."""
    audio_s = sum(p.duration_s for p in system.predictions)
    decode_s = sum(p.decode_s for p in system.predictions)
    return decode_s / audio_s if audio_s > 0 and decode_s > 0 else None
