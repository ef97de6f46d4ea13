"""The figures of ``speechllm plan``, and how they are printed."""

import textwrap
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from speechllm.commands.planned_recipe import PlannedRecipe, workload
from speechllm.costs.gpus import GPUS, Gpu
from speechllm.report import format_table

if TYPE_CHECKING:
    from speechllm.models.sizing.planning import ModelPlan, Workload

Figures = dict[str, Any]
WIDTH = 118
"""Columns of the text."""


def figures(
    recipe: PlannedRecipe,
    gpu: Gpu,
    gpus: int | None,
    efficiency: float,
    compression: float | None,
    shown: Sequence[str],
) -> Figures:
    """Return what a recipe takes, as plain data.

    Args:
        recipe: The recipe.
        gpu: GPU to plan for.
        gpus: How many; as many as the recipe says where None.
        efficiency: Share of the GPU's ceiling.
        compression: Frames per position where the audio decides.
        shown: Names of the GPUs of the table.
    """
    from dataclasses import asdict

    from speechllm.costs.gpus import REACHABLE
    from speechllm.models.sizing.planning import ModelPlan

    work, source = workload(recipe)
    model = ModelPlan(recipe.model, str(recipe.trainer.get("precision", "32-true")), compression)
    count = gpus or work.devices
    shards = count if _is_sharded(recipe.trainer.get("strategy")) else 1
    memory = model.largest_memory(work, shards=shards)
    flop = model.flop(work.durations_s)
    frozen = model.cache_bytes_per_hour()
    names = [gpu.name, *(name for name in shown if name != gpu.name)]
    return {
        "recipe": recipe.name,
        "gpu": gpu.name,
        "gpus": count,
        "efficiency": efficiency,
        "parameters": {part: {"all": all_, "trained": trained} for part, (all_, trained) in model.parameters().items()},
        "data": {"hours": work.hours, "source": source, "mean_s": work.mean_s, "longest_s": work.longest_s},
        "positions_per_second": model.positions_per_second(),
        "compression_assumed": model.compression,
        "tflop_per_sample": {part: value / 1e12 for part, value in asdict(flop).items()} | {"total": flop.total / 1e12},
        "memory_gib": asdict(memory) | {"total": memory.total},
        "batch": {"batch_seconds": work.batch_seconds, "max_utterances": work.max_utterances},
        "utterances": work.utterances,
        "forecast": [
            _forecast(GPUS[name], flop.computed, count, efficiency, work.utterances, memory.total) for name in names
        ],
        "ceiling_is": "measured" if gpu.measured_tflops else f"{REACHABLE:.0%} of the data sheet",
        "cache_gb": None if work.hours is None else frozen * work.hours / 1e9,
        "cache_gb_per_1000_h": frozen * 1000 / 1e9,
        "checkpoint_gb": model.checkpoint_bytes() / 1e9,
        "warnings": list(_warnings(recipe, model, work, gpu, count, shards)),
    }


def _forecast(gpu: Gpu, flop: float, gpus: int, efficiency: float, utterances: float | None, needed: float) -> Figures:
    per_gpu = gpu.ceiling_tflops * 1e12 / flop
    rate = per_gpu * efficiency * gpus
    return {
        "gpu": gpu.name,
        "ceiling_tflops": gpu.ceiling_tflops,
        "ceiling_samples_per_s": per_gpu,
        "samples_per_s": rate,
        "hours": None if utterances is None else utterances / rate / 3600,
        "fits": needed <= gpu.memory_gib,
    }


def _is_sharded(strategy: Any) -> bool:
    return "fsdp" in str(strategy).lower() or "ModelParallel" in str(strategy)


def _warnings(
    recipe: PlannedRecipe, model: "ModelPlan", work: "Workload", gpu: Gpu, gpus: int, shards: int
) -> Iterator[str]:
    """Yield what will not fit or will be slow, each with what to change."""
    now = model.largest_memory(work, shards=shards)
    if now.total > gpu.memory_gib:
        yield (
            f"A batch of {work.batch_seconds:g} s takes about {now.total:.0f} GiB; one {gpu.name} has "
            f"{gpu.memory_gib:.0f}. " + _remedies(recipe, model, work, gpu, gpus, shards)
        )
    elif now.total > 0.9 * gpu.memory_gib:
        yield f"A batch of {work.batch_seconds:g} s takes nearly all of a {gpu.name}: {now.total:.0f} GiB by estimate."
    if now.decoding + now.weights > gpu.memory_gib:
        yield "Keys and values of validation do not fit: set `data.eval_batch_seconds` below `batch_seconds`."
    flop = model.flop(work.durations_s)
    frozen = all(spec.get("tuning", "frozen") == "frozen" for spec in _encoder_specs(recipe))
    share = flop.encoder / flop.total
    if frozen and not model.cached and share > 0.05:
        yield (
            f"The frozen encoder is {share:.0%} of the operations of every epoch. `speechllm cache` computes its "
            f"frames once ({model.cache_bytes_per_hour() / 1e6:.0f} MB an hour of speech), with `encoder.cache: DIR`."
        )
    if any(spec.get("pad_to_30s") for spec in _encoder_specs(recipe)):
        yield "`pad_to_30s: true` lets every clip cost the encoder 30 s. Leave it out unless a paper is followed."
    precision = str(recipe.trainer.get("precision", "32-true"))
    if precision.startswith("32"):
        yield "`trainer.precision` is 32 bits; forecasts are of bf16. Set `precision: bf16-mixed` on a GPU."


def _remedies(recipe: PlannedRecipe, model: "ModelPlan", work: "Workload", gpu: Gpu, gpus: int, shards: int) -> str:
    found = []
    seconds = model.largest_batch_seconds(work, gpu.memory_gib, shards=shards)
    if seconds is not None:
        found.append(f"`data.batch_seconds: {seconds:g}` fits")
    options: dict[str, dict[str, Any]] = {"`decoder.checkpoint_layers: all`": {"checkpoint_all": True}}
    if recipe.model["decoder"].get("tuning", "frozen") in ("frozen", "lora"):
        options["`decoder.tuning: qlora` (weights in four bits)"] = {"four_bit": True, "checkpoint_all": True}
    if gpus > 1 and shards == 1:
        options[f"FSDP2 over {gpus} GPUs with `checkpoint_layers: all`"] = {"shards": gpus, "checkpoint_all": True}
    for name, option in options.items():
        option = {"shards": shards, **option}
        total = model.largest_memory(work, **option).total
        if total <= gpu.memory_gib:
            found.append(f"{name} brings it to {total:.0f} GiB")
        elif (fitting := model.largest_batch_seconds(work, gpu.memory_gib, **option)) and fitting > (seconds or 0):
            found.append(f"{name} lets `batch_seconds: {fitting:g}` fit")
    if not found:
        return "Nothing helps by itself: take a GPU with more memory, a smaller LLM, or shorter utterances."
    return "; ".join(found) + "."


def _encoder_specs(recipe: PlannedRecipe) -> list[dict[str, Any]]:
    encoder = recipe.model["encoder"]
    return list(encoder.get("encoders", [encoder]))


# Text


def report(found: Sequence[Figures]) -> str:
    """Return plans as text; of several, one table first."""
    blocks = [] if len(found) == 1 else [summary_table(found)]
    return "\n\n".join([*blocks, *(_one(plan) for plan in found)])


def summary_table(found: Sequence[Figures]) -> str:
    """Return a row for each recipe: operations, ceiling, forecast."""
    first = found[0]
    columns = ["recipe", "positions/s", "TFLOP", "ceiling samples/s/GPU", "samples/s", "hours", "GiB"]
    rows = []
    for plan in found:
        forecast = plan["forecast"][0]
        rows.append(
            [
                plan["recipe"],
                f"{plan['positions_per_second']:.3g}" + ("*" if plan["compression_assumed"] else ""),
                round(plan["tflop_per_sample"]["total"], 2),
                round(forecast["ceiling_samples_per_s"]),
                round(forecast["samples_per_s"]),
                "" if forecast["hours"] is None else round(forecast["hours"], 2),
                round(plan["memory_gib"]["total"]),
            ]
        )
    head = f"{first['gpus']} × {first['gpu']} at {first['efficiency']:.0%} of the ceiling; * assumed compression"
    return f"{head}\n\n{format_table(rows, columns)}"


def _one(plan: Figures) -> str:
    data = plan["data"]
    parameters = [[part, f"{n['all']:,}", f"{n['trained']:,}"] for part, n in plan["parameters"].items()]
    totals = [sum(n[key] for n in plan["parameters"].values()) for key in ("all", "trained")]
    parameters.append(["total", *(f"{total:,}" for total in totals)])
    assumed = plan["compression_assumed"]
    compression = f" (assumed: {assumed:g} frames per position; --compression sets it)" if assumed else ""
    cache = "" if plan["cache_gb"] is None else f"{_size(plan['cache_gb'])}, "
    utterances = "" if plan["utterances"] is None else f"{plan['utterances']:,.0f} utterances in all; "
    gpus = "1 GPU" if plan["gpus"] == 1 else f"{plan['gpus']} GPUs"
    lines = [
        f"Speech positions of the LLM per second: {plan['positions_per_second']:.3g}{compression}",
        f"Data: {_data(data)}",
        f"Checkpoint: {_size(plan['checkpoint_gb'])}",
    ]
    if plan["cache_gb_per_1000_h"]:
        lines.append(
            f"Cache of the frozen encoder's frames, bf16: {cache}{plan['cache_gb_per_1000_h']:,.1f} GB per 1,000 h"
        )
    blocks = [
        plan["recipe"],
        format_table(parameters, ["parameters", "all", "trained"]),
        "\n".join(textwrap.fill(line, WIDTH, subsequent_indent="  ") for line in lines),
        _operations_table(plan["tflop_per_sample"]),
        _memory_table(plan["memory_gib"], plan["batch"]),
        f"{utterances}{gpus} at {plan['efficiency']:.0%} of the ceiling ({plan['gpu']}: "
        f"{plan['ceiling_is']})\n\n{_forecast_table(plan)}",
        *(textwrap.fill(f"! {warning}", WIDTH, subsequent_indent="  ") for warning in plan["warnings"]),
    ]
    return "\n\n".join(blocks)


def _data(data: Figures) -> str:
    """Return what is known of the data, or what is assumed."""
    if data["hours"] is None:
        return str(data["source"])
    digits = 1 if data["hours"] >= 1 else 3
    return f"{data['hours']:,.{digits}f} h; mean {data['mean_s']:.1f} s ({data['source']})"


def _size(gigabytes: float) -> str:
    """Return a size in the unit that suits it."""
    return f"{gigabytes:,.2f} GB" if gigabytes >= 1 else f"{1000 * gigabytes:.3g} MB"


def _operations_table(tflop: Figures) -> str:
    """Return a row with the operations of an utterance, by part."""
    shown = {name: value for name, value in tflop.items() if value or name == "total"}
    unit, scale = ("TFLOP", 1) if tflop["total"] >= 0.1 else ("GFLOP", 1000)
    return format_table([[unit, *(scale * value for value in shown.values())]], ["an utterance", *shown])


def _memory_table(gib: Figures, batch: Figures) -> str:
    """Return rows with the memory of a GPU, by part: of training, and what keys and values of validation take."""
    parts = {name: value for name, value in gib.items() if (value or name == "total") and name != "decoding"}
    limit = f"at most {batch['batch_seconds']:g} s and {batch['max_utterances']} utterances"
    table = format_table([["GiB", *parts.values()]], ["memory of a GPU", *parts])
    note = (
        f"Memory is an estimate, for batches of {limit}; validation adds {gib['decoding']:.1f} GiB of keys and values "
        f"to the weights."
    )
    return f"{table}\n\n{textwrap.fill(note, WIDTH)}"


def _forecast_table(plan: Figures) -> str:
    columns = ["GPU", "ceiling TFLOP/s", "ceiling samples/s/GPU", "samples/s", "hours", "fits"]
    rows = [
        [
            row["gpu"],
            round(row["ceiling_tflops"]),
            round(row["ceiling_samples_per_s"]),
            round(row["samples_per_s"]),
            "" if row["hours"] is None else round(row["hours"], 2),
            "yes" if row["fits"] else "no",
        ]
        for row in plan["forecast"]
    ]
    return format_table(rows, columns)
