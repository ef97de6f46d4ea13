"""``speechllm prepare``: write a corpus's manifests ahead of training, check its audio, cut it into shards."""

import ast
import inspect
import json
import pkgutil
from pathlib import Path
from typing import Any

from speechllm.errors import UserError, did_you_mean
from speechllm.worker_pool import available_cores

CORPORA_FOLDER = Path(__file__).resolve().parents[1] / "data" / "corpora"

NOT_OF_THE_CORPUS = {"self", "root", "tasks", "test_splits", "kwargs"}
"""Arguments of a datamodule that are about training and scoring, not about what manifests hold."""

FLAGS = {"check": "decode every clip and report what is wrong with audio and texts, in OUT/check"}
"""Options without a value."""


def corpora() -> dict[str, str]:
    """Return the first line about each corpus that can be prepared, by name, without loading its code."""
    found = {}
    for module in pkgutil.iter_modules([str(CORPORA_FOLDER)]):
        text = ast.get_docstring(ast.parse((CORPORA_FOLDER / f"{module.name}.py").read_text(encoding="utf-8"))) or ""
        found[module.name] = text.split("\n")[0]
    return found


def prepare(
    corpus: str,
    root: Path,
    out: Path | None = None,
    check: bool = False,
    exclude: Path | None = None,
    shards: str | None = None,
    shard_utterances: int = 500,
    workers: int | None = None,
    **options: Any,
) -> None:
    """Write the manifests of a corpus, and print what they hold and what was rejected.

    Training does the same when it finds none. Manifests that are there and current stay as they are. An option that is
    not given has the default of the corpus's datamodule.

    Args:
        corpus: Name of the corpus.
        root: Folder of the corpus.
        out: Folder of the manifests; where recipes look for them, below ROOT/manifests, if not given.
        check: Whether to decode every clip and report what is wrong with audio and texts, in OUT/check.
        exclude: List of utterances that training is to leave out, as --check writes it; it is put beside the manifests.
        shards: Folder or address (s3://bucket/folder) to write the corpus to as shards, for training from object
            storage or slow disks; read by ShardedDataModule.
        shard_utterances: Utterances of a shard.
        workers: Processes that decode audio, for --check and --shards; one a core where not given.
        **options: Options of the corpus's datamodule.

    Raises:
        UserError: If the corpus is unknown, does not take an option, or is not in its folder.
    """
    datamodule_class = _datamodule(corpus)
    allowed = corpus_options(datamodule_class)
    if unknown := [name for name in options if name not in allowed]:
        hint = "".join(did_you_mean(name, allowed) for name in unknown)
        takes = ", ".join(f"--{name}" for name in allowed) or "none"
        msg = (
            f"The corpus {corpus} does not take {', '.join(f'--{name}' for name in unknown)}.{hint} It takes: {takes}."
        )
        raise UserError(msg)
    datamodule = datamodule_class(root=str(root), manifest_dir=str(out) if out else None, **options)
    datamodule.prepare_data()
    folder = datamodule.manifest_dir
    print(_table(json.loads((folder / "corpus.json").read_text(encoding="utf-8")), datamodule.corpus.published()))
    print(f"Manifests: {folder}")
    if exclude is not None:
        from speechllm.data.exclusions import install_exclusions

        print(install_exclusions(exclude, folder))
    if check:
        from speechllm.data.doctor.check import check_corpus

        print(check_corpus(folder, workers=workers))
    if shards is not None:
        from speechllm.data.shards import write_shards

        written = write_shards(folder, shards, shard_utterances, workers or available_cores())
        counts = ", ".join(f"{split} {len(some)}" for split, some in written["shards"].items())
        print(f"Shards: {shards} ({counts})")


def run(arguments: list[str]) -> None:
    """Run the command: the first argument names the corpus, which has options of its own.

    Args:
        arguments: The rest of the command line.
    """
    from jsonargparse import ArgumentParser

    if not arguments or arguments[0].startswith("-"):
        if arguments and arguments[0] not in ("-h", "--help"):
            msg = (
                f"Name the corpus first: speechllm prepare CORPUS {' '.join(arguments)}. Known: {', '.join(corpora())}."
            )
            raise UserError(msg)
        print(_help())
        return
    corpus = arguments[0]
    datamodule_class = _datamodule(corpus)
    parser = ArgumentParser(prog=f"speechllm prepare {corpus}", description=f"{corpora()[corpus]} {_first_lines()}")
    parser.add_function_arguments(prepare, skip={"corpus", *FLAGS})
    for name, text in FLAGS.items():
        parser.add_argument(f"--{name}", action="store_true", help=text)
    inherited = {name for parent in datamodule_class.__mro__[1:] for name in inspect.signature(parent).parameters}
    own = corpus_options(datamodule_class)
    parser.add_class_arguments(datamodule_class, skip=(NOT_OF_THE_CORPUS | inherited | {"manifest_dir"}) - set(own))
    options = parser.parse_args(arguments[1:]).as_dict()
    given = {name: value for name, value in options.items() if name not in own or value != own[name]}
    prepare(corpus, **given)


def corpus_options(datamodule_class: type[Any]) -> dict[str, Any]:
    """Return the options that decide what a corpus's manifests hold, with their defaults."""
    parameters = inspect.signature(datamodule_class).parameters
    return {name: parameter.default for name, parameter in parameters.items() if name not in NOT_OF_THE_CORPUS}


def _datamodule(corpus: str) -> type[Any]:
    known = corpora()
    if corpus not in known:
        msg = f"Unknown corpus '{corpus}'.{did_you_mean(corpus, known)} Known: {', '.join(known)}."
        raise UserError(msg)
    from speechllm.data import datamodules

    module = f"speechllm.data.corpora.{corpus}"
    return next(found for found in datamodules().values() if found.__module__ == module)


def _first_lines() -> str:
    return " ".join((inspect.getdoc(prepare) or "").split("\n\n")[:2]).replace("\n", " ")


def _help() -> str:
    width = max(map(len, corpora()))
    lines = [
        "usage: speechllm prepare CORPUS --root FOLDER [options]",
        "",
        "Write the manifests of a corpus, and print what they hold and what was rejected.",
        "",
        "corpora:",
        *(f"  {name:<{width}}  {text}" for name, text in corpora().items()),
        "",
        "`speechllm prepare CORPUS --help` shows a corpus's options. One's own files: `speechllm prepare table`.",
    ]
    return "\n".join(lines)


def _count(number: int | None) -> str:
    return "?" if number is None else f"{number:,}"


def _table(summary: dict[str, Any], published: dict[str, int]) -> str:
    head = f"{'split':<16}{'utterances':>12}{'published':>12}{'hours':>10}{'rejected':>10}{'changed':>10}"
    lines = [head if published else head.replace(f"{'published':>12}", "")]
    for name, split in summary["splits"].items():
        rejected, changed = (sum(split[key].values()) for key in ("rejected", "changed"))
        counts = f"{split['utterances']:>12,}" + (f"{_count(published.get(name)):>12}" if published else "")
        lines.append(f"{name:<16}{counts}{split['hours']:>10.2f}{rejected:>10,}{changed:>10,}")
        for key in ("rejected", "changed"):
            lines += [f"  {key}: {reason}: {count:,}" for reason, count in split[key].items()]
    return "\n".join(lines)
