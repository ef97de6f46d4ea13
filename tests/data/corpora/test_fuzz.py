"""Corpora whose files went bad: a clear error, or every utterance is still there or counted; never anything else.

A case breaks one to three files of a fake corpus, prepares it and reads every batch. More cases than the default:
``SPEECHLLM_FUZZ_CASES=1000 pytest tests/data/corpora/test_fuzz.py``; ``SPEECHLLM_FUZZ_SEED`` is the first one.
"""

import importlib
import json
import logging
import os
import random
import re
import signal
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import pytest

from speechllm.audio import HEADER_TOLERANCE_S
from speechllm.batch import SAMPLE_RATE
from speechllm.data import datamodules
from speechllm.data.manifest import LEARNED_SPLITS, read_manifest
from speechllm.errors import UserError
from tests.data.corpora.test_contract import NAMES, has_row
from tests.data.corruption import AUDIO, Corruption, corrupt, restored

CASES = int(os.environ.get("SPEECHLLM_FUZZ_CASES", "30"))
FIRST_SEED = int(os.environ.get("SPEECHLLM_FUZZ_SEED", "0"))

SECONDS = 20
"""Longest that a case may take; it takes a hundredth of one."""

OF_A_LINE = {"fleurs": 6, "lhotse_cuts": 3}
"""Utterances that one line may be of; 1 in other corpora."""


class Row(NamedTuple):
    """An utterance of a manifest, without its id."""

    audio: str
    offset_ms: int
    channel: int | None
    duration_ms: int
    language: str
    transcript: str
    translations: dict[str, str]


@dataclass
class Reading:
    """What came of reading a corpus.

    Attributes:
        rows: Rows of each split by id.
        counts: What preparing each split counted.
        heard: Samples of each row in batches, by split and id.
        excused: Rows of each split that batches left out or kept without audio, and said so.
        left: Training rows that were left out before there were batches, and counted.
    """

    rows: dict[str, dict[str, Row]] = field(default_factory=dict)
    counts: dict[str, Counter[str]] = field(default_factory=dict)
    heard: dict[str, dict[str, int]] = field(default_factory=dict)
    excused: dict[str, set[str]] = field(default_factory=dict)
    left: int = 0


@dataclass
class Subject:
    """A fake corpus, its datamodule, its files, and what reading it gives while nothing is wrong."""

    name: str
    root: Path
    datamodule_class: type
    options: dict
    files: list[Path]
    intact: Reading


@pytest.fixture(scope="module", params=NAMES)
def subject(request, tmp_path_factory) -> Subject:
    return make_subject(request.param, tmp_path_factory.mktemp(request.param))


def make_subject(name: str, folder: Path) -> Subject:
    """Write a fake corpus and read it."""
    root = folder / "root"
    fake = importlib.import_module(f"tests.corpora.{name}").write_fake(root)
    classes = {found.__module__.rpartition(".")[2]: found for found in datamodules().values()}
    files = sorted(path for path in root.rglob("*") if path.is_file())
    subject = Subject(name, root, classes[name], fake.options, files, Reading())
    subject.intact = read(subject, folder / "intact")
    return subject


def test_nothing_is_lost_silently(subject, tmp_path):
    failures = []
    for seed in range(FIRST_SEED, FIRST_SEED + CASES):
        try:
            run_case(subject, seed, tmp_path / str(seed))
        except AssertionError as error:
            failures.append(f"seed {seed}: {error}")
    assert not failures, "\n".join(failures)


def run_case(subject: Subject, seed: int, folder: Path) -> str:
    """Break some files and read the corpus; return what came of it in a line.

    Raises:
        AssertionError: If anything was lost, or went wrong in another way than with an error for users.
    """
    rng = random.Random(f"{subject.name} {seed}")
    audio = [path for path in subject.files if path.suffix in AUDIO]
    texts = [path for path in subject.files if path.suffix not in AUDIO]
    later = rng.random() < 0.1  # audio that goes bad when the manifests are written
    chosen = [rng.choice(audio if later or rng.random() < 0.3 else texts) for _ in range(rng.choice((1, 1, 1, 2, 3)))]
    chosen = list(dict.fromkeys(chosen))
    done: list[Corruption] = []

    def go_bad() -> None:
        for path in chosen:
            done.append(corrupt(path, rng, may_go=not done))  # nobody misses a recording that goes with its list

    try:
        with restored(*chosen), limited(SECONDS):
            if not later:
                go_bad()
            found = read(subject, folder, go_bad if later else lambda: None)
        result = check_reading(subject, found, done)
    except UserError as error:
        check_error(subject, folder, str(error), done)
        result = str(error)
    except Exception as error:
        what = error if isinstance(error, AssertionError) else f"{type(error).__name__}: {error}"
        msg = f"{what}; after: {done}"
        raise AssertionError(msg) from error
    return f"{' and '.join(map(str, done))} → {result}"


@contextmanager
def limited(seconds: int) -> Iterator[None]:
    """End what takes too long."""

    def stop(*_: object) -> None:
        msg = f"no end after {seconds} s"
        raise AssertionError(msg)

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def read(subject: Subject, folder: Path, between: Callable[[], None] = lambda: None) -> Reading:
    """Prepare a corpus, call ``between``, and read every batch of every loader."""
    common = {"num_workers": 0, "max_val_utterances": None, "max_duration_s": 60.0, "manifest_dir": str(folder)}
    data = subject.datamodule_class(**subject.options | common)
    data.prepare_data()
    between()
    found = Reading()
    summary = json.loads((folder / "corpus.json").read_text(encoding="utf-8"))
    for split, about in summary["splits"].items():
        found.counts[split] = Counter(about["rejected"]) + Counter(about["changed"])
        found.rows[split] = {one.id: as_row(one) for one in read_manifest(folder, split)}
        assert len(found.rows[split]) == about["utterances"]
    wanted = subject.intact.rows or found.rows
    loaders = {"train": data.train_dataloader, "dev": data.val_dataloader, "test": data.test_dataloader}
    for kind, loader in loaders.items():
        splits = [split for split in (data.test_splits if kind == "test" else [kind]) if split in wanted]
        if splits:
            read_batches(data, kind, splits, loader, found)
    return found


def read_batches(data, kind, splits, loader, found: Reading) -> None:
    """Read a loader, check that each row is in a batch or said not to be, and note what was heard."""
    heard: dict[str, int] = {}
    skipped: set[str] = set()
    with silences_logged() as silent:
        for batch in loader():
            for place, name in enumerate(batch.ids):
                row = next(found.rows[split][name] for split in splits if name in found.rows[split])
                assert as_one_line_end(batch.transcripts[place]) == row.transcript
                assert batch.source_languages[place] == row.language
                if batch.tasks[place] != "asr":
                    translation = row.translations[batch.target_languages[place]]
                    assert as_one_line_end(batch.translations[place]) == translation
                heard[name] = int(batch.audio_lengths[place])
            skipped |= {said.partition(": ")[0] for said in batch.skipped}
    assert {name for name, samples in heard.items() if not samples} <= silent
    found.left += sum(data.left_out.values()) if kind == "train" else 0
    for split in splits:
        due = {one.id for one in read_manifest(data.manifest_dir, split) if has_row(data, one, kind)}
        absent = due - heard.keys() - skipped
        assert len(absent) <= (found.left if kind == "train" else 0), f"{absent} of {split} are in no batch"
        found.heard[split] = {name: heard[name] for name in due & heard.keys()}
        found.excused[split] = (skipped | silent) & due


@contextmanager
def silences_logged() -> Iterator[set[str]]:
    """Gather the ids of clips that the log says count as silence."""
    ids: set[str] = set()
    log, handler = logging.getLogger("speechllm.data.dataset"), logging.Handler()
    handler.emit = lambda record: ids.add(str(record.args[0])) if "counts as silence" in record.msg else None
    log.addHandler(handler)
    try:
        yield ids
    finally:
        log.removeHandler(handler)


def as_row(one) -> Row:
    translations = {code: as_one_line_end(text) for code, text in one.translations.items()}
    offset_ms, duration_ms = round(1000 * one.offset_s), round(1000 * one.duration_s)
    transcript = as_one_line_end(one.transcript)
    return Row(one.audio, offset_ms, one.channel, duration_ms, one.source_language, transcript, translations)


def as_one_line_end(text: str) -> str:
    """Return a text with the line ends of Unix, as a cell of a CSV file may hold either."""
    return text.replace("\r\n", "\n")


def check_error(subject: Subject, folder: Path, message: str, done: list[Corruption]) -> None:
    """Check that a message names a file, and that bad audio stops nothing as long as there is other audio."""
    names = {path.name for path in subject.files} | {str(subject.root), str(folder)}
    assert any(name in message for name in names), f"no file in '{message}'"
    if all(one.path.suffix in AUDIO for one in done):
        expected = any(one.absent for one in done) or re.search("left to train on|has no dev row", message)
        assert expected, f"'{message}' after {done}"


def check_reading(subject: Subject, found: Reading, done: list[Corruption]) -> str:
    """Check that nothing was lost that was not counted; return what was counted."""
    gone = sum(one.gone for one in done) * OF_A_LINE.get(subject.name, 1)
    lines = sum(one.lines for one in done) * OF_A_LINE.get(subject.name, 1) + gone
    damaged = {str(one.path) for one in done}
    notes = []
    for split, before in subject.intact.rows.items():
        after, more = found.rows[split], found.counts[split] - subject.intact.counts[split]
        counted = sum(more.values())
        notes += [f"{split} {dict(more)}"] if more else []
        if split not in LEARNED_SPLITS:
            assert len(after) >= len(before) - gone, f"{split} has {len(after)} rows of {len(before)}"
        if all(one.harmless for one in done):
            assert (list(after.values()), counted) == (list(before.values()), 0), f"{split} changed"
        partners = match(before, after)
        lost = before.keys() - partners.keys()
        assert len(lost) <= gone + counted or (counted and any(one.whole for one in done)), f"{split} lost {lost}"
        altered = [name for name, other in partners.items() if before[name][5:] != after[other][5:]]
        assert len(altered) <= lines, f"{split}: texts of {altered} changed"
        if len(done) == 1 and done[0].shifts:
            check_not_shifted(before, {name: after[partners[name]] for name in altered})
        for name, samples in subject.intact.heard.get(split, {}).items():
            other = partners.get(name)
            short = samples - found.heard[split].get(other, 0) if other else 0
            said = counted or other in found.excused[split] or (split == "train" and found.left)
            assert not short or said or lines or before[name].audio in damaged, f"{split}: {name} lost {short} samples"
            unsaid = short > HEADER_TOLERANCE_S * SAMPLE_RATE and not said
            assert not unsaid or (lines and not any(one.number for one in done)), f"{split}: {name} lost {short}"
    if any(one.cut for one in done) and len(done) == 1:
        assert notes or found.rows == subject.intact.rows, "cut off, and not noticed"
    return "; ".join(notes) or "nothing counted"


def match(before: dict[str, Row], after: dict[str, Row]) -> dict[str, str]:
    """Return the id of each row in another reading: the same one, or one of the same audio, the most alike first."""
    partners: dict[str, str] = {}
    for fields in (7, 4, 3, 2):
        left: dict[str, list[str]] = {}
        for name in sorted(after.keys() - partners.values()):
            left.setdefault(repr(after[name][:fields]), []).append(name)
        for name in sorted(before.keys() - partners.keys()):
            if found := left.get(repr(before[name][:fields])):
                partners[name] = found.pop(0)
    return partners


def check_not_shifted(before: dict[str, Row], altered: dict[str, Row]) -> None:
    """Check that no altered row has a text of another row now."""
    for name, now in altered.items():
        texts = {"": now.transcript, **now.translations}
        had = {"": before[name].transcript, **before[name].translations}
        others = [row for row in before.values() if row[:4] != before[name][:4]]
        for code, text in texts.items():
            held = [row.translations.get(code) if code else row.transcript for row in others]
            assert not text or text == had.get(code) or text not in held, f"{name} has the text '{text}' of another"
