"""The datamodule of manifests that are there: rows by task, limits on what is trained on, fixed evaluation sets."""

import os
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn
from numpy.typing import NDArray

from speechllm.batch import TASKS
from speechllm.data.base import SpeechDataModule, TrainingRows
from speechllm.data.exclusions import EXCLUSIONS, read_exclusions
from speechllm.data.index import Manifest, ManifestIndex, id_hash
from speechllm.data.manifest import open_manifest, read_summary
from speechllm.data.rows import JoinedRows, ManifestRows, Rows, Selection, select_rows, text_lengths, transcribe_once
from speechllm.errors import UserError, did_you_mean

CHECKED_FILES = 50
"""Number of audio files that are looked for when a run starts."""


class PreparedDataModule(SpeechDataModule):
    """Rows of manifests that ``speechllm prepare`` wrote, whatever the corpus.

    Args:
        manifest_dir: Folder of the manifests.
        tasks: Any of ``asr``, ``st`` and ``asr+st``; an utterance gives one row per task and target language.
        test_splits: Splits that the test set consists of, one after the other.
        min_duration_s: Shortest utterance to train on, in seconds.
        max_duration_s: Longest utterance to train on, in seconds.
        max_val_utterances: Number of evenly spaced utterances of the dev split to validate on; all where null.
        exclude: List of utterances that training leaves out, as ``speechllm prepare --check`` writes it; the one that
            was given to ``prepare``, if any, where not given.
        **kwargs: Options of :class:`speechllm.data.base.SpeechDataModule`.

    Attributes:
        left_out: Training rows that were left out, counted by reason; filled when training rows are read.
    """

    def __init__(
        self,
        manifest_dir: str,
        tasks: list[str],
        test_splits: list[str] = ["test"],  # noqa: B006 (never changed, and shown by --help as it is)
        min_duration_s: float = 0.1,
        max_duration_s: float = 30.0,
        max_val_utterances: int | None = 200,
        exclude: str | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        for task in tasks:
            if task not in TASKS:
                msg = f"Unknown task '{task}'.{did_you_mean(task, TASKS)} Known: {', '.join(TASKS)}."
                raise UserError(msg)
        if not tasks or not test_splits:
            msg = f"`tasks` and `test_splits` must not be empty; got {tasks} and {test_splits}."
            raise UserError(msg)
        if max_val_utterances is not None and max_val_utterances < 1:
            msg = f"`max_val_utterances` must be at least 1, or null for all, but is {max_val_utterances}."
            raise UserError(msg)
        if not 0 <= min_duration_s < max_duration_s:
            msg = (
                f"`min_duration_s` ({min_duration_s}) must be at least 0 and below `max_duration_s` ({max_duration_s})."
            )
            raise UserError(msg)
        self.manifest_dir = Path(manifest_dir)
        self.tasks = list(tasks)
        self.test_splits = list(test_splits)
        self.min_duration_s = min_duration_s
        self.max_duration_s = max_duration_s
        self.max_val_utterances = max_val_utterances
        self.exclude = exclude
        self.left_out: Counter[str] = Counter()

    def select(self, index: ManifestIndex) -> Selection:
        """Return the rows of a manifest: one for each utterance, task and target language.

        Of a corpus that repeats its talks for each target language, ``asr`` has those of the first one alone.
        """
        selection = select_rows(index, self.tasks)
        first = read_summary(self.manifest_dir).get("first_targets", {})
        return transcribe_once(index, selection, first) if first else selection

    def train_rows(self) -> TrainingRows:
        """Return the rows to train on, and count what is left out.

        Raises:
            UserError: If the manifest is absent or damaged, its audio is not there, or nothing is left.
        """
        self.left_out = Counter()
        manifest = open_manifest(self.manifest_dir, "train")
        selection = self.select(manifest.index)
        durations_s = manifest.index.durations_s[selection.utterances]
        transcripts, translations = text_lengths(manifest.index, selection)
        fit = np.ones(len(selection), dtype=bool)
        for reason, unfit in (
            ("excluded by the list", np.isin(manifest.index.ids, self._excluded())[selection.utterances]),
            (f"shorter than {self.min_duration_s:g} s", durations_s < self.min_duration_s),
            (f"longer than {self.max_duration_s:g} s", durations_s > self.max_duration_s),
            ("no transcript", transcripts == 0),
            ("no translation", translations == 0),
        ):
            self.left_out[reason] = int((fit & unfit).sum())
            fit &= ~unfit
        self.left_out = +self.left_out
        notes = "".join(f"; left out, {reason}: {count}" for reason, count in self.left_out.items())
        if not fit.any():
            msg = f"No row of '{self.manifest_dir}' is left to train on{notes}. Check `tasks` and the duration limits."
            raise UserError(msg)
        rows = self.open_rows(manifest, selection.keep(fit))
        self.check_audio(rows)
        rank_zero_info(f"{rows[0].corpus} train: {len(rows)} rows, {rows.durations_s.sum() / 3600:.2f} h{notes}")
        untranscribed = int((manifest.index.transcript_chars[rows.utterances] == 0).sum())
        return TrainingRows(rows, untranscribed)

    def eval_rows(self, kind: str) -> Rows:
        """Return the rows of ``"dev"`` (a fixed subset) or ``"test"`` (everything, in the corpus's order).

        Batches name a test split that is not just called ``test`` with the corpus: ``must_c.tst-COMMON``.

        Raises:
            UserError: If a manifest is absent or damaged, its audio is not there, or there is no row.
        """
        found = []
        for split in ["dev"] if kind == "dev" else self.test_splits:
            manifest = open_manifest(self.manifest_dir, split)
            selection = self.select(manifest.index)
            if kind == "dev" and self.max_val_utterances is not None and len(manifest) > self.max_val_utterances:
                count = self.max_val_utterances
                kept = [number * len(manifest) // count for number in range(count)]
                selection = selection.keep(np.isin(selection.utterances, kept))
            found.append(self.open_rows(manifest, selection, "" if split in ("dev", "test") else f".{split}"))
        rows = JoinedRows(found)
        if not len(rows):
            msg = f"'{self.manifest_dir}' has no {kind} row for the tasks {', '.join(self.tasks)}."
            raise UserError(msg)
        self.check_audio(rows)
        return rows

    def open_rows(self, manifest: Manifest, selection: Selection, suffix: str = "") -> ManifestRows:
        """Return rows of a manifest; ``suffix`` follows the name of the corpus in batches."""
        return ManifestRows(manifest, selection, suffix)

    def check_audio(self, rows: Rows) -> None:
        """Check that a corpus was not moved since its manifests were written, by a few of its audio files.

        Raises:
            UserError: If none of them is there.
        """
        places = [number * len(rows) // CHECKED_FILES for number in range(CHECKED_FILES)]
        files = sorted({rows[number].utterance.audio for number in places})
        missing = [file for file in files if not os.path.isfile(file)]
        if len(missing) == len(files):
            msg = (
                f"None of {len(files)} audio files looked for exists, such as '{missing[0]}'. Where the corpus was "
                "moved, delete its manifests, so that they are written anew."
            )
            raise UserError(msg)
        if missing:
            rank_zero_warn(
                f"{len(missing)} of {len(files)} audio files looked for are missing, such as '{missing[0]}'."
            )

    def _excluded(self) -> NDArray[np.uint64]:
        """Return the hashed ids of the utterances that training leaves out."""
        installed = self.manifest_dir / EXCLUSIONS
        path = Path(self.exclude) if self.exclude else installed if installed.is_file() else None
        if path is None:
            return np.empty(0, dtype=np.uint64)
        return np.array([id_hash(name) for _, name in read_exclusions(path)], dtype=np.uint64)
