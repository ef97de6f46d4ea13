"""``speechllm cache``: compute the frames of a recipe's frozen encoders once, for every run that reads them."""

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Literal

from speechllm.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from speechllm.feature_cache.filling import Counts
    from speechllm.feature_cache.folder import CacheSettings


def cache(
    splits: list[Literal["train", "dev", "test"]] = ["train", "dev", "test"],  # noqa: B006 (shown by --help as it is)
    devices: int | None = None,
    accelerator: Literal["auto", "cpu", "cuda"] = "auto",
    part: str = "1/1",
    batch_seconds: float | None = None,
    verify: bool = False,
) -> None:
    """Compute the frames of a recipe's frozen encoders once, for every run that reads them.

    The recipe's encoder names the folder: `encoder: {name: whisper, …, cache: DIR}`. What is there already is not
    computed again, so that an interrupted fill goes on where it stopped, and several processes and machines may fill
    one folder.

    Args:
        splits: Splits of the corpus to compute.
        devices: Number of processes, each with a GPU of its own where there are any; all GPUs, or one process on a CPU,
            where not given.
        accelerator: ``cuda``, ``cpu``, or GPUs where there are any.
        part: Share of this machine where several fill the cache: ``2/4`` is the second of four.
        batch_seconds: Seconds of audio encoded at once, padding included; the recipe's ``eval_batch_seconds`` where not
            given.
        verify: Read all that is there first, and compute anew what is damaged.
    """


def run(arguments: list[str]) -> None:
    """Run the command.

    Args:
        arguments: The rest of the command line: a recipe, overrides of it, and the command's own options.

    Raises:
        UserError: If the recipe names no cache, the one it names is of another encoder, or the disk is too small.
    """
    if {"-h", "--help"} & set(arguments):
        print(_help())
        return
    from speechllm.encoders.cached import cached_specs
    from speechllm.models.feature_caches import check_unchanged_audio
    from speechllm.recipe_parser import read_recipe

    recipe = read_recipe("cache", cache, arguments)
    options = recipe.options
    specs = cached_specs(recipe.model.specs["encoder"])
    if not specs:
        msg = "The recipe names no cache. Give its encoder one: `--model.encoder.cache DIR`."
        raise UserError(msg)
    if "train" in options["splits"]:
        check_unchanged_audio(recipe.data)
    from speechllm.data.unique_rows import unique_rows

    share = parse_part(options["part"])
    recipe.data.prepare_data()
    rows = unique_rows(recipe.data, options["splits"])
    for spec in specs:
        fill(spec, recipe, rows, share)


def _help() -> str:
    """Return the help of the command's own options, without loading those of the recipe."""
    from docstring_parser import parse
    from jsonargparse import ArgumentParser

    from speechllm.command_help import HelpFormatter

    description = (
        f"{parse(cache.__doc__ or '').description}\n\nOptions of the recipe may follow, as for fit: "
        f"--model.encoder.cache DIR, --data.num_workers 8."
    )
    parser = ArgumentParser(prog="speechllm cache", description=description, formatter_class=HelpFormatter)
    parser.add_argument(
        "--config", type=str, required=True, help="Recipe, by path or name; a further --config changes those before it"
    )
    parser.add_function_arguments(cache, as_group=False, fail_untyped=False)
    return str(parser.format_help()).rstrip()


def parse_part(part: str) -> tuple[int, int]:
    """Return which of how many parts ``2/4`` means, from 0: (1, 4).

    Raises:
        UserError: If it means none.
    """
    number, _, count = part.partition("/")
    if not (number.isdigit() and count.isdigit() and 1 <= int(number) <= int(count)):
        msg = f"`part` must be such as 1/4, 2/4, 3/4 or 4/4, but is '{part}'."
        raise UserError(msg)
    return int(number) - 1, int(count)


def fill(spec: "Mapping[str, Any]", recipe: Any, rows: Any, share: tuple[int, int]) -> None:
    """Fill the cache of one encoder, and print what came of it.

    Args:
        spec: Spec of the encoder.
        recipe: The recipe, a :class:`speechllm.recipe_parser.Recipe`.
        rows: What there is to encode, an utterance each.
        share: This machine's part and the number of parts.
    """
    from tqdm import tqdm

    from speechllm.commands.cache_filling import Job, look_up, run_job
    from speechllm.data.unique_rows import PickedRows
    from speechllm.encoders.cached import parse_cache, plain_spec
    from speechllm.feature_cache.filling import Counts, check_space, forecast_bytes
    from speechllm.feature_cache.folder import SHARDS
    from speechllm.feature_cache.shards import remove_leftovers

    folder, _ = parse_cache(spec)
    settings, state = _open(spec, recipe.seed)
    if removed := remove_leftovers(folder / SHARDS):
        print(f"Removed {removed} unfinished files of processes that have ended.")
    _set_damaged_aside(folder, recipe.options["verify"])
    with tqdm(total=len(rows), unit="utt", desc="looking up", file=sys.stderr, leave=False) as bar:
        numbers, file_keys = look_up(rows, folder, share, bar.update)
    left = PickedRows(rows, numbers)
    needed = forecast_bytes(settings, left.durations_s)
    free = check_space(folder, needed)
    print(_forecast(folder, len(rows), left.durations_s, needed, free))
    total, began_s = Counts(), time.monotonic()
    if len(left):
        devices = _devices(recipe.options)
        batch_seconds = recipe.options["batch_seconds"] or recipe.data.eval_batch_seconds
        plain = plain_spec(spec)
        workers = recipe.data.num_workers
        job = Job(plain, state, folder, settings, left, file_keys, batch_seconds, devices, workers)
        with _progress(float(left.durations_s.sum())) as advance:

            def report(counts: Counts) -> None:
                nonlocal total
                total += counts
                advance(counts.done_s)

            run_job(job, report)
    print(_summary(folder, total, time.monotonic() - began_s))


def _open(spec: "Mapping[str, Any]", seed: int) -> "tuple[CacheSettings, dict[str, Any] | None]":
    """Return what a cache holds, after it is described where it is new, and the encoder's weights if they are random.

    Raises:
        UserError: If the folder holds a cache of another encoder.
    """
    import torch

    from speechllm.encoders.cached import describe_encoder, parse_cache, plain_spec, refuse, settings_differences
    from speechllm.feature_cache.folder import create_folder, read_settings
    from speechllm.registry import ENCODERS

    folder, storage = parse_cache(spec)
    found = read_settings(folder)
    if found is not None:
        refuse(folder, settings_differences(spec, found))  # before weights are loaded
        if spec.get("pretrained") is not None:
            return found, None
    torch.manual_seed(seed)
    encoder = ENCODERS.build(plain_spec(spec)).eval()
    wanted = describe_encoder(spec, encoder, storage or (found.storage if found else "bf16"))
    settings = found or create_folder(folder, wanted)
    refuse(folder, settings_differences(spec, settings, wanted.weights))
    return settings, encoder.state_dict() if spec.get("pretrained") is None else None


def _set_damaged_aside(folder: "Path", verify: bool) -> None:
    """Rename damaged shards, so that what they held is computed anew."""
    from speechllm.feature_cache.store import FeatureStore

    store = FeatureStore(folder)
    damaged = {*store.damaged, *(store.verify() if verify else ())}
    if damaged:
        print(f"Damaged shards are renamed to *.damaged, and computed anew: {', '.join(sorted(damaged))}")
        store.set_aside(sorted(damaged))
    elif verify:
        print(f"Verified {len(store):,} utterances: all are as they were written.")


def _devices(options: dict[str, Any]) -> list[str]:
    """Return the device of each process.

    Raises:
        UserError: If there are fewer GPUs than were asked for.
    """
    import torch

    gpus = 0 if options["accelerator"] == "cpu" else torch.cuda.device_count()
    asked = options["devices"]
    if asked is not None and asked < 1:
        msg = f"`devices` must be at least 1, but is {asked}."
        raise UserError(msg)
    if not gpus and options["accelerator"] != "cuda":
        return ["cpu"] * (asked or 1)
    if (asked or 1) > gpus:
        msg = f"`--devices {asked or 1}` asks for more GPUs than the {gpus} of this machine."
        raise UserError(msg)
    return [f"cuda:{number}" for number in range(asked or gpus)]


@contextmanager
def _progress(seconds: float) -> Iterator[Any]:
    """Show how much of the audio is done, how fast, and how long the rest will take."""
    from tqdm import tqdm

    form = "{desc}: {percentage:3.0f}%|{bar}| {n:.2f}/{total:.2f} h [{elapsed}<{remaining}]"
    hours = seconds / 3600
    with tqdm(total=hours, desc="encoding", bar_format=form, file=sys.stderr) as bar:
        yield lambda done_s: bar.update(min(done_s / 3600, hours - bar.n))


def _forecast(folder: "Path", utterances: int, durations_s: Any, needed: int, free: int) -> str:
    from speechllm.feature_cache.filling import gigabytes

    hours = durations_s.sum() / 3600
    return (
        f"Cache '{folder}': {len(durations_s):,} of {utterances:,} utterances to read, {hours:.2f} h of audio, at most "
        f"about {gigabytes(needed)}; {gigabytes(free)} are free."
    )


def _summary(folder: "Path", total: "Counts", took_s: float) -> str:
    from speechllm.batch import SAMPLE_RATE
    from speechllm.feature_cache.filling import gigabytes
    from speechllm.feature_cache.store import FeatureStore

    store = FeatureStore(folder)
    error = (store.squares[0] / store.squares[1]) ** 0.5 if store.squares[1] else 0.0
    rate = f", {total.added_s / took_s:,.0f} times faster than real time" if total.added else ""
    lines = [
        f"Added {total.added:,} utterances ({total.added_s / 3600:.2f} h) in {took_s:,.0f} s{rate}.",
        f"The cache holds {len(store):,} utterances, {store.samples.sum() / SAMPLE_RATE / 3600:.2f} h, "
        f"{gigabytes(store.bytes)} in {store.settings.storage}; what is stored differs from what was computed by "
        f"{error:.2%} (root mean square, relative).",
    ]
    notes = {
        "had the same audio as another": total.known,
        "could not be read": total.unreadable,
        "are too short or too long for the encoder": total.unfit,
    }
    return "\n".join([*lines, *(f"{count:,} utterances {what}." for what, count in notes.items() if count)])
