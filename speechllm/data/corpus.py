"""The datamodule of one corpus: manifests written once, rows read from them."""

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from lhotse import MonoCut
from lightning.pytorch.utilities import rank_zero_info

from speechllm.batch import TASKS
from speechllm.data.base import SpeechDataModule
from speechllm.data.manifest import Corpus, is_current, read_manifest, write_manifests
from speechllm.data.rows import TrainingRows, missing_text, row_cut
from speechllm.data.utterance import Utterance
from speechllm.errors import UserError, did_you_mean


class CorpusDataModule(SpeechDataModule):
    """Rows of one corpus. A new corpus subclasses this and passes its reader.

    Args:
        corpus: Reader of the corpus on disk.
        default_manifest_dir: Where manifests go unless ``manifest_dir`` is given; it differs between selections of
            the corpus, so that two runs never rewrite each other's manifests.
        tasks: Any of ``asr``, ``st`` and ``asr+st``; an utterance gives one row per task and target language.
        test_splits: Splits that the test set consists of, one after the other.
        manifest_dir: Folder of the manifests; a folder below ``manifests`` in the corpus's root where not given.
        min_duration_s: Shortest utterance to train on, in seconds.
        max_duration_s: Longest utterance to train on, in seconds.
        max_val_utterances: Number of evenly spaced utterances of the dev split to validate on; all where null.
        batch_seconds: Largest size of a training batch in seconds of audio, padding included.
        max_utterances: Largest number of utterances of a batch.
        num_buckets: Number of buckets of like duration that training batches are drawn from.
        num_workers: Processes that read audio; 0 reads in the main process.
        seed: Seed of the order of training.
        eval_batch_seconds: As ``batch_seconds``, for validation, test and prediction; the same where not given.

    Attributes:
        corpus: Reader of the corpus on disk.
        manifest_dir: Folder of the manifests.
        left_out: Training rows that were left out, counted by reason; filled when training rows are read.
    """

    def __init__(
        self,
        corpus: Corpus,
        default_manifest_dir: Path,
        tasks: list[str],
        test_splits: list[str],
        manifest_dir: str | None = None,
        min_duration_s: float = 0.1,
        max_duration_s: float = 30.0,
        max_val_utterances: int | None = 200,
        batch_seconds: float = 160.0,
        max_utterances: int = 32,
        num_buckets: int = 10,
        num_workers: int = 2,
        seed: int = 42,
        eval_batch_seconds: float | None = None,
    ) -> None:
        super().__init__(batch_seconds, max_utterances, num_buckets, num_workers, seed, eval_batch_seconds)
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
        self.corpus = corpus
        self.manifest_dir = Path(manifest_dir) if manifest_dir else default_manifest_dir
        self.tasks = list(tasks)
        self.test_splits = list(test_splits)
        self.min_duration_s = min_duration_s
        self.max_duration_s = max_duration_s
        self.max_val_utterances = max_val_utterances
        self.left_out: Counter[str] = Counter()

    def prepare_data(self) -> None:
        """Write the manifests, unless they are there and the corpus and the options have not changed since.

        Raises:
            UserError: If the corpus is not where it should be, or the manifests cannot be written.
        """
        if is_current(self.corpus, self.manifest_dir):
            return
        if (self.manifest_dir / "corpus.json").exists():
            rank_zero_info(f"The corpus or its options changed: writing the manifests in '{self.manifest_dir}' anew.")
        for split, summary in write_manifests(self.corpus, self.manifest_dir).items():
            counts = {**summary.rejected, **summary.changed}
            notes = "".join(f"; {reason}: {count}" for reason, count in counts.items())
            rank_zero_info(f"{self.corpus.name} {split}: {summary.utterances} utterances, {summary.hours:.2f} h{notes}")

    def rows_of(self, utterance: Utterance) -> list[tuple[str, str]]:
        """Return the (task, target language) pairs of an utterance; the target of ``asr`` is its own language."""
        rows = []
        for task in self.tasks:
            targets = [utterance.source_language] if task == "asr" else list(utterance.translations)
            rows += [(task, target) for target in targets]
        return rows

    def train_rows(self) -> TrainingRows:
        """Check the training manifest, count what is left out, and return the rows to train on.

        Raises:
            UserError: If the manifest is absent, a row is wrong or nothing is left.
        """
        self.left_out = Counter()
        durations_s, untranscribed = [], 0
        for utterance, _, _ in self._fit_to_train(check=True):
            durations_s.append(utterance.duration_s)
            untranscribed += not utterance.transcript.strip()
        notes = "".join(f"; left out, {reason}: {count}" for reason, count in self.left_out.items())
        if not durations_s:
            msg = f"No row of '{self.manifest_dir}' is left to train on{notes}. Check `tasks` and the duration limits."
            raise UserError(msg)
        hours = sum(durations_s) / 3600
        rank_zero_info(f"{self.corpus.name} train: {len(durations_s)} rows, {hours:.2f} h{notes}")
        return TrainingRows(self._read_training, durations_s, untranscribed)

    def eval_rows(self, kind: str) -> list[MonoCut]:
        """Return the rows of ``"dev"`` (a fixed subset) or ``"test"`` (everything, in the corpus's order).

        Batches name a test split that is not just called ``test`` with the corpus: ``must_c.tst-COMMON``.

        Raises:
            UserError: If a manifest is absent, a row is wrong or there is nothing.
        """
        rows: list[MonoCut] = []
        for split in ["dev"] if kind == "dev" else self.test_splits:
            utterances = list(read_manifest(self.manifest_dir, split))
            if kind == "dev" and self.max_val_utterances is not None and len(utterances) > self.max_val_utterances:
                count = self.max_val_utterances
                utterances = [utterances[index * len(utterances) // count] for index in range(count)]
            name = self.corpus.name if split in ("dev", "test") else f"{self.corpus.name}.{split}"
            for utterance in utterances:
                for task, target in self.rows_of(utterance):
                    rows.append(row_cut(utterance, task, target, len(rows), name))
        if not rows:
            msg = f"'{self.manifest_dir}' has no {kind} row for the tasks {', '.join(self.tasks)}."
            raise UserError(msg)
        return rows

    def _read_training(self) -> Iterator[MonoCut]:
        for row, (utterance, task, target) in enumerate(self._fit_to_train(check=False)):
            yield row_cut(utterance, task, target, row)

    def _fit_to_train(self, check: bool) -> Iterator[tuple[Utterance, str, str]]:
        """Yield utterances with task and target language; with ``check``, check them and count what is left out."""
        for utterance in read_manifest(self.manifest_dir, "train", check):
            for task, target in self.rows_of(utterance):
                reason = self._unfit(utterance, task, target)
                if not reason:
                    yield utterance, task, target
                elif check:
                    self.left_out[reason] += 1

    def _unfit(self, utterance: Utterance, task: str, target: str) -> str:
        if utterance.duration_s < self.min_duration_s:
            return f"shorter than {self.min_duration_s:g} s"
        if utterance.duration_s > self.max_duration_s:
            return f"longer than {self.max_duration_s:g} s"
        return missing_text(utterance, task, target)
