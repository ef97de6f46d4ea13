"""The corpus doctor: every utterance's audio is decoded and looked at with its texts, and nothing is changed.

:func:`check_corpus` reads manifests and writes, into a folder beside them:

- ``findings.tsv``: one row a finding, to be looked through;
- ``exclude.tsv``: utterances of ``train`` that should be left out, for ``speechllm prepare --exclude``;
- ``check.json``: counts, thresholds and figures of each language, for programs;
- ``check.png``: durations, levels and characters a second;
- ``measurements.bin``: what was measured. A check that was interrupted goes on from there, and one with other
  thresholds, or after texts or some of the files changed, decodes only what is new.
"""

import json
import time
from collections.abc import Iterable, Mapping
from contextlib import closing
from pathlib import Path

from tqdm import tqdm

from speechllm.data.doctor.audio import MeasuredBefore, check_audio, decoded_s, measure_all
from speechllm.data.doctor.corpus import Columns, Finding, Place, check_columns
from speechllm.data.doctor.findings import Findings
from speechllm.data.doctor.report import Report, write_report
from speechllm.data.doctor.rules import TRAIN, UNUSABLE_AUDIO, Rules, Thresholds
from speechllm.data.doctor.text import check_texts
from speechllm.data.manifest import read_manifest
from speechllm.data.utterance import Utterance
from speechllm.errors import UserError
from speechllm.worker_pool import available_cores

OUTPUT = "check"
"""Name of the folder beside the manifests."""

MAX_WORKERS = 16
"""Most processes that are started unasked; more would wait for each other at one disk."""


def check_corpus(
    folder: Path,
    out: Path | None = None,
    workers: int | None = None,
    thresholds: Thresholds | None = None,
    severities: Mapping[str, str] | None = None,
) -> Report:
    """Check the corpus whose manifests are in a folder.

    Args:
        folder: Folder of the manifests.
        out: Folder to write to; ``check`` in ``folder`` where not given.
        workers: Number of processes that decode; one a core where not given. With 0 this process decodes, and ends
            with a file that crashes a decoder.
        thresholds: Limits of what counts as a finding; the defaults where not given.
        severities: Severities of reasons that are to differ from the defaults: ``{"clipped": "exclude"}``.

    Raises:
        UserError: If there are no manifests, one is damaged, an option cannot be, or nothing can be written.
        KeyboardInterrupt: If the user interrupts; the message says what becomes of what was measured.
    """
    folder = Path(folder)
    expected = _splits(folder)
    return check_utterances(
        {split: read_manifest(folder, split) for split in expected},
        folder / OUTPUT if out is None else Path(out),
        workers,
        thresholds,
        severities,
        name=str(folder),
        total=sum(expected.values()) or None,
    )


def check_utterances(
    splits: Mapping[str, Iterable[Utterance]],
    out: Path,
    workers: int | None = None,
    thresholds: Thresholds | None = None,
    severities: Mapping[str, str] | None = None,
    name: str = "",
    total: int | None = None,
) -> Report:
    """Check utterances, which are gone through once.

    Args:
        splits: Utterances of each split.
        out: Folder to write to.
        workers: As of :func:`check_corpus`.
        thresholds: Likewise.
        severities: Likewise.
        name: What is checked, for the picture; ``out`` where not given.
        total: Number of all utterances, for the progress bar.

    Raises:
        UserError: As :func:`check_corpus`.
        KeyboardInterrupt: Likewise.
    """
    if workers is None:
        workers = min(MAX_WORKERS, available_cores())
    if workers < 0:
        msg = f"`workers` is {workers}, and must be at least 0."
        raise UserError(msg)
    findings = Findings(Columns(splits), Rules(thresholds or Thresholds(), severities or {}))
    try:
        with closing(MeasuredBefore(out / "measurements.bin")) as before:
            decoded, elapsed = _look_at_each(splits, before, workers, findings, total)
        for finding in check_columns(findings.columns, findings.rules.thresholds):
            findings.add(finding)
        return write_report(out, findings, name or str(out), decoded, elapsed)
    except OSError as error:
        msg = f"The check cannot go on: {error}. It needs space in a folder that you can write to; '{out}' was given."
        raise UserError(msg) from error


def _look_at_each(
    splits: Mapping[str, Iterable[Utterance]],
    before: MeasuredBefore,
    workers: int,
    findings: Findings,
    total: int | None,
) -> tuple[float, float]:
    """Look at each utterance by itself; return how many seconds were decoded, and how many that took."""
    columns, thresholds = findings.columns, findings.rules.thresholds
    decoded, began = 0.0, time.monotonic()
    with (
        tqdm(total=total, desc="check", unit=" utterances") as bar,
        closing(measure_all(splits, before, workers)) as all_,
    ):
        try:
            for split, utterances, measurements, fresh in all_:
                for utterance, found in zip(utterances, measurements, strict=True):
                    place = Place(split, len(columns.splits[split]))
                    of_audio = list(check_audio(utterance, found, thresholds))
                    for reason, detail in (*of_audio, *check_texts(utterance, thresholds)):
                        findings.add(Finding(place, reason, detail))
                    audible = UNUSABLE_AUDIO.isdisjoint(reason for reason, _ in of_audio)
                    columns.add(split, utterance, found, audible)
                    decoded += decoded_s(found) if fresh else 0.0
                speed = decoded / max(1e-9, time.monotonic() - began)
                bar.set_postfix_str(f"{speed:,.0f} s of audio a second", refresh=False)
                bar.update(len(utterances))
        except KeyboardInterrupt:
            msg = (
                f"Interrupted after {bar.n:,} utterances. What was measured is kept in '{before.path}': the same check "
                "goes on from there."
            )
            raise KeyboardInterrupt(msg) from None
    return decoded, time.monotonic() - began


def _splits(folder: Path) -> dict[str, int]:
    """Return the splits that a folder has manifests of, with their numbers of utterances; 0 where they are not known.

    Raises:
        UserError: If there is no manifest.
    """
    found = sorted(file.name.removesuffix(".jsonl.gz") for file in folder.glob("*.jsonl.gz"))
    if not found:
        msg = f"No manifests in '{folder}'. Name the folder that `speechllm prepare` printed, or prepare the corpus."
        raise UserError(msg)
    try:
        summary = json.loads((folder / "corpus.json").read_text(encoding="utf-8"))["splits"]
        counts = {split: int(summary[split]["utterances"]) for split in summary if split in found}
    except (OSError, ValueError, KeyError, TypeError):
        counts = {}
    in_order = [*counts, *sorted(set(found) - set(counts), key=lambda split: (split != TRAIN, split))]
    return {split: counts.get(split, 0) for split in in_order}
