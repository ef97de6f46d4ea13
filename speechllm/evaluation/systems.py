"""Systems to compare: what each wrote about the same utterances, from run folders and from files of any origin."""

import dataclasses
import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from speechllm.errors import UserError, did_you_mean
from speechllm.evaluation.hypothesis_files import by_id, is_table, read_table, read_text_lines
from speechllm.evaluation.test_sets import TestSet, group_by_test_set
from speechllm.metrics.base import Text
from speechllm.predictions import Prediction, read_predictions

PREDICTIONS = "predictions.jsonl"
RUN = "run.json"
SHOWN = 3
"""Ids that a message names."""

Column = tuple[str, str, Text]
"""Corpus, languages and text: what is compared, whatever task it came from."""


@dataclass
class System:
    """What one system wrote.

    Attributes:
        name: Name in tables; unique within its group.
        predictions: What it wrote, an entry an utterance, task and target language.
        group: Systems of one group stand together, and the best of them is marked; may be empty.
        run: Contents of its ``run.json``; empty where there is none.
        source: File or folder that it was read from.
    """

    name: str
    predictions: list[Prediction]
    group: str = ""
    run: dict[str, Any] = field(default_factory=dict)
    source: str = ""


def read_system(argument: str, like: Sequence[Prediction] | None = None) -> System:
    """Read what a system wrote.

    Args:
        argument: ``PATH``, ``NAME=PATH`` or ``GROUP/NAME=PATH``. The path is that of a run folder, of a folder of test
            results, of ``predictions.jsonl``, or of hypotheses of another system: lines of text, or a table with the
            columns ``id`` and ``hypothesis``. The name is that of the run folder or of the file where it is not given.
        like: Predictions of a system on the same test set, which give texts and tables their references.

    Raises:
        UserError: If nothing can be read there, or lines or ids are not those of ``like``.
    """
    label, path = _split_argument(argument)
    group, _, name = label.rpartition("/")
    file = _find(path)
    if file.name == PREDICTIONS or holds_predictions(file):
        run = _read_run(file.with_name(RUN))
        name = name or _folder_name(file)
        return _named(System(name, read_predictions(file), group, run, str(path)))
    if like is None:
        msg = (
            f"{path}: hypotheses without references. Name a run folder or a `{PREDICTIONS}` of the same test set "
            "before it, or score it with `speechllm score --references`."
        )
        raise UserError(msg)
    predictions = _from_table(file, like) if is_table(file) else _from_lines(file, like)
    return _named(System(name or file.stem, predictions, group, {}, str(path)))


def split_by_task(system: System) -> list[System]:
    """Return a system for each task, where several of them give the same text of the same languages.

    A model that answers the tasks ``asr`` and ``asr+st`` about one test set is two systems: the name of each then ends
    with its task.
    """
    tasks: dict[Column, set[str]] = {}
    for test_set in group_by_test_set(system.predictions, ("transcript", "translation")):
        tasks.setdefault(column(test_set), set()).add(test_set.task)
    if all(len(found) == 1 for found in tasks.values()):
        return [system]
    return [
        dataclasses.replace(
            system, name=f"{system.name} ({task})", predictions=[p for p in system.predictions if p.task == task]
        )
        for task in sorted({p.task for p in system.predictions})
    ]


def column(test_set: TestSet) -> Column:
    """Return what a test set is compared as."""
    return test_set.corpus, test_set.languages, test_set.text


def check_same_utterances(systems: Sequence[System]) -> list[System]:
    """Check that systems wrote about the same utterances, wherever two have a corpus, languages and text in common.

    Returns:
        The systems with their predictions in one order, so that those of two test sets belong together one by one.

    Raises:
        UserError: If ids or references differ, or no two systems have anything in common.
    """
    seen: dict[Column, tuple[System, dict[str, str]]] = {}
    place: dict[str, int] = {}
    shared = len(systems) < 2
    for system in systems:
        for prediction in system.predictions:
            place.setdefault(prediction.id, len(place))
        for found, references in _references(system).items():
            if found in seen:
                _check_pair(found, *seen[found], system, references)
                shared = True
            seen.setdefault(found, (system, references))
    if not shared:
        listed = "; ".join(f"{system.name}: {', '.join(_shown(c) for c in _references(system))}" for system in systems)
        msg = f"The systems have no test set in common. {listed}."
        raise UserError(msg)
    return [
        dataclasses.replace(system, predictions=sorted(system.predictions, key=lambda p: place[p.id]))
        for system in systems
    ]


def _references(system: System) -> dict[Column, dict[str, str]]:
    texts: dict[Column, dict[str, str]] = {}
    for test_set, places in group_by_test_set(system.predictions, ("transcript", "translation")).items():
        references = texts.setdefault(column(test_set), {})
        for found in (system.predictions[place] for place in places):
            references[found.id] = getattr(found, f"reference_{test_set.text}")
    return texts


def _check_pair(found: Column, first: System, expected: dict[str, str], other: System, given: dict[str, str]) -> None:
    if expected.keys() != given.keys():
        missing = [name for name in expected if name not in given]
        extra = [name for name in given if name not in expected]
        sides = ((first.name, missing), (other.name, extra))
        parts = [f"{len(ids)} only in '{who}' ({_listed(ids)})" for who, ids in sides if ids]
        msg = (
            f"{_shown(found)}: '{first.name}' has {len(expected)} utterances and '{other.name}' {len(given)}; "
            f"{' and '.join(parts)}. Systems are compared on the same utterances only."
        )
        raise UserError(msg)
    for name, reference in expected.items():
        if given[name] != reference:
            msg = (
                f"{_shown(found)}: the reference of '{name}' is {reference!r} for '{first.name}' and {given[name]!r} "
                f"for '{other.name}'. They were tested on different versions of the corpus."
            )
            raise UserError(msg)


def _shown(found: Column) -> str:
    return f"{found[0]} {found[1]} ({found[2]})"


def _listed(ids: Sequence[str]) -> str:
    return ", ".join(f"'{name}'" for name in ids[:SHOWN]) + (", …" if len(ids) > SHOWN else "")


def _split_argument(argument: str) -> tuple[str, Path]:
    """Return label and path; a path that exists is one, whatever stands in it."""
    label, equals, rest = argument.partition("=")
    if not equals or Path(argument).exists():
        return "", Path(argument)
    return label, Path(rest)


def _find(path: Path) -> Path:
    """Return the file to read.

    Raises:
        UserError: If there is none.
    """
    if path.is_file():
        return path
    if not path.is_dir():
        near = [str(other) for other in path.parent.iterdir()] if path.parent.is_dir() else []
        msg = f"'{path}' does not exist.{did_you_mean(str(path), near)}"
        raise UserError(msg)
    for folder in (path, path / "test"):
        if (folder / PREDICTIONS).is_file():
            return folder / PREDICTIONS
    others = sorted(str(file.parent) for file in path.glob(f"*/{PREDICTIONS}"))
    hint = f" There are predictions in {', '.join(others)}." if others else " Run `speechllm test` first."
    msg = f"The folder '{path}' holds no test results: neither `{PREDICTIONS}` nor `test/{PREDICTIONS}`.{hint}"
    raise UserError(msg)


def holds_predictions(file: Path) -> bool:
    """Return whether a file is one of predictions, as ``speechllm test`` writes it."""
    if file.suffix != ".jsonl" or not file.is_file():
        return False
    with file.open("rb") as lines:
        first = lines.readline()
    return b'"hypothesis_transcript"' in first


def _folder_name(file: Path) -> str:
    """Return the name of the run that a file of predictions belongs to."""
    folder = file.resolve().parent
    if file.name != PREDICTIONS:
        return file.stem
    return folder.parent.name if folder.name == "test" else folder.name


def _named(system: System) -> System:
    if not system.predictions:
        msg = f"{system.source}: there are no predictions in it."
        raise UserError(msg)
    return system


def _read_run(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        msg = f"{path}: not valid JSON: {error}."
        raise UserError(msg) from error
    if not isinstance(found, dict):
        msg = f"{path}: expected a JSON object."
        raise UserError(msg)
    return found


def _from_lines(file: Path, like: Sequence[Prediction]) -> list[Prediction]:
    lines = read_text_lines(file)
    if len(lines) != len(like):
        counts = Counter(f"{p.corpus} {p.task} {p.source_language}-{p.target_language}" for p in like)
        listed = ", ".join(f"{count} of {name}" for name, count in counts.items())
        msg = (
            f"{file}: {len(lines)} lines for {len(like)} utterances ({listed}). A file of lines needs one for each "
            "utterance, in the order of the test set; a table with the columns id and hypothesis may have any order."
        )
        raise UserError(msg)
    return [_rewritten(p, line) for p, line in zip(like, lines, strict=True)]


def _from_table(file: Path, like: Sequence[Prediction]) -> list[Prediction]:
    rows = by_id(read_table(file))
    ids = Counter(p.id for p in like)
    name, count = ids.most_common(1)[0]
    if count > 1:
        msg = (
            f"{file}: the test set has '{name}' {count} times, for several tasks or target languages, which a table by "
            "id cannot tell apart. Give a file of lines, or the predictions of one task and language first."
        )
        raise UserError(msg)
    unknown = [row for name, row in rows.items() if name not in ids]
    if unknown:
        name = unknown[0].cells["id"]
        msg = (
            f"{unknown[0].where}: the test set has no utterance '{name}'.{did_you_mean(name, ids)} "
            f"{len(unknown)} of {len(rows)} rows are unknown."
        )
        raise UserError(msg)
    absent = [p.id for p in like if p.id not in rows]
    if absent:
        msg = f"{file}: no row for {len(absent)} of {len(ids)} utterances: {_listed(absent)}."
        raise UserError(msg)
    return [_rewritten(p, rows[p.id].cells["hypothesis"]) for p in like]


def _rewritten(prediction: Prediction, hypothesis: str) -> Prediction:
    """Return a prediction of another system: the translation where the task has one, or else the transcript."""
    translates = "st" in prediction.task.split("+")
    return dataclasses.replace(
        prediction,
        task="st" if translates else "asr",
        hypothesis_transcript="" if translates else hypothesis,
        hypothesis_translation=hypothesis if translates else "",
        text=hypothesis,
        decode_s=0.0,
        first_token_s=0.0,
        tokens=0,
        missing_separator=False,
        hit_limit=False,
        statistics={},
    )
