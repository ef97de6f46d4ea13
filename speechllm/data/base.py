"""What every datamodule of the package does: batches from rows, wherever the rows come from."""

import hashlib
import re
from abc import abstractmethod
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import torch
from lightning.pytorch import LightningDataModule
from lightning.pytorch.utilities import rank_zero_warn
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader

from speechllm.batch import Batch
from speechllm.data.augmentation.augment import SNR_DB, Augmentation, Augmenter
from speechllm.data.augmentation.noise import Noise
from speechllm.data.dataset import SpeechDataset
from speechllm.data.epoch_plan import BatchBudget, EpochPlan, Part
from speechllm.data.loader_workers import outlive_sigterm
from speechllm.data.rows import Rows
from speechllm.data.sampling import EvaluationSampler, TrainingSampler
from speechllm.data.shard_plan import ShardPlan
from speechllm.errors import UserError
from speechllm.feature_cache.reader import FeatureReader
from speechllm.talk_references import TalkReference


@dataclass
class TrainingRows:
    """The rows of a training set.

    Attributes:
        rows: The rows.
        untranscribed: Number of rows without a transcript, from which an adapter's own loss learns nothing.
        parts: Parts that are drawn from by weight; none for all rows once an epoch.
        shards: (K + 1,) int64, row that each shard begins with, and the number of rows; None where rows are read one by
            one in any order.
    """

    rows: Rows
    untranscribed: int = 0
    parts: list[Part] = field(default_factory=list)
    shards: NDArray[np.int64] | None = None


class SpeechDataModule(LightningDataModule):
    """Batches for training and scoring. The trainer needs ``use_distributed_sampler=False`` on several devices.

    Args:
        batch_seconds: Largest size of a training batch in seconds of audio, padding included.
        max_utterances: Largest number of utterances of a batch.
        num_buckets: Number of buckets of like duration that training batches are drawn from; more mean less padding.
        quadratic_duration_s: Duration in seconds at which an utterance counts twice in ``batch_seconds``, for encoders
            whose attention costs its square; none where null.
        draw_together: Whether the tasks and target languages of one utterance come in one batch, in which its audio is
            encoded once.
        buffer_shards: Shards that each worker holds at a time, where a corpus is in shards: rows are shuffled among as
            many, and memory takes as much.
        augment: What is done to the audio of training: speed, reverberation, noise, gain.
        test_noise_snr: Ratio of speech to noise in dB that test audio is given, for tests of robustness; no noise where
            null.
        test_noise: That noise: ``white``, or a folder, list or manifest as for ``augment.noise``.
        num_workers: Processes that read audio; 0 reads in the main process.
        seed: Seed of the order of training.
        eval_batch_seconds: As ``batch_seconds``, for validation, test and prediction; the same where not given.
    """

    def __init__(
        self,
        batch_seconds: float = 160.0,
        max_utterances: int = 32,
        num_buckets: int = 30,
        quadratic_duration_s: float | None = None,
        draw_together: bool = False,
        buffer_shards: int = 4,
        augment: Augmentation | None = None,
        test_noise_snr: float | None = None,
        test_noise: str = "white",
        num_workers: int = 2,
        seed: int = 42,
        eval_batch_seconds: float | None = None,
    ) -> None:
        super().__init__()
        self.batch_seconds = batch_seconds
        self.max_utterances = max_utterances
        self.num_buckets = num_buckets
        self.quadratic_duration_s = quadratic_duration_s
        self.draw_together = draw_together
        self.buffer_shards = buffer_shards
        self.augment = augment
        self.test_noise_snr, self.test_noise = test_noise_snr, test_noise
        self.num_workers = num_workers
        self.seed = seed
        self.eval_batch_seconds = batch_seconds if eval_batch_seconds is None else eval_batch_seconds
        self._train: TrainingRows | None = None
        self._eval: dict[str, Rows] = {}
        self._sampler: TrainingSampler | None = None
        self._state: dict[str, Any] | None = None
        self._augmenter: Augmenter | None = None
        self._noise: Noise | None = None
        self.features: FeatureReader | None = None
        """Reads frames of the model's encoders instead of audio; the model puts it here. Changed audio is read."""
        self.decoded: Collection[int] = ()
        """Rows of the test split that are decoded already, and left out of its batches."""
        for name, least in (("max_utterances", 1), ("num_buckets", 1), ("buffer_shards", 1), ("num_workers", 0)):
            if getattr(self, name) < least:
                msg = f"`{name}` must be at least {least}, but is {getattr(self, name)}."
                raise UserError(msg)
        if test_noise_snr is not None and not SNR_DB[0] <= test_noise_snr <= SNR_DB[1]:
            msg = f"`test_noise_snr` must be from {SNR_DB[0]:g} to {SNR_DB[1]:g} dB, but is {test_noise_snr}."
            raise UserError(msg)
        for name in ("batch_seconds", "eval_batch_seconds", "quadratic_duration_s"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                msg = f"`{name}` must be above 0 seconds, but is {value}."
                raise UserError(msg)

    @abstractmethod
    def train_rows(self) -> TrainingRows:
        """Return the rows to train on."""

    @abstractmethod
    def eval_rows(self, kind: str) -> Rows:
        """Return the rows of ``"dev"`` or ``"test"`` in the order of the corpus."""

    def talk_references(self) -> list[TalkReference]:
        """Return the references that hypotheses of test segments are aligned with; none where each has its own."""
        return []

    def setup(self, stage: str) -> None:
        """Look up the rows that a stage needs, before a model is loaded.

        Args:
            stage: ``fit``, ``validate``, ``test`` or ``predict``.

        Raises:
            UserError: If a manifest is absent or damaged, or no row is left.
        """
        if stage == "fit":
            self._augmenter = None if self.augment is None else Augmenter(self.augment)
            self._train = self.train_rows()
            if self.trainer is None or self.trainer.limit_val_batches == 0:
                return
        if stage in ("test", "predict"):
            self.decoded = ()
            self._noise = None if self.test_noise_snr is None else Noise(self.test_noise, "test_noise")
        self._eval_rows("dev" if stage in ("fit", "validate") else "test")

    @property
    def untranscribed(self) -> tuple[int, int]:
        """Training rows without a transcript, and all of them; read by ``setup("fit")``."""
        return (self._train.untranscribed, len(self._train.rows)) if self._train else (0, 0)

    def epoch_plan(self) -> EpochPlan:
        """Return the plan of the training batches."""
        self._train = self._train or self.train_rows()
        rows = self._train.rows
        units = None
        if self.draw_together:
            units = np.append(np.nonzero(np.diff(rows.utterances, prepend=-1))[0], len(rows))
        budget = BatchBudget(self.batch_seconds, self.max_utterances, self.quadratic_duration_s)
        speeds = tuple(self.augment.speeds) if self.augment else (1.0,)
        options = (rows.durations_s, budget, self.num_buckets, self.seed, units, self._train.parts, speeds)
        if self._train.shards is None:
            return EpochPlan(*options)
        return ShardPlan(*options, shards=self._train.shards, buffer_shards=self.buffer_shards)

    def train_dataloader(self) -> DataLoader[Batch]:
        """Return shuffled batches of rows of like duration, of the next epoch at each iteration under a trainer.

        Without one, ``sampler.begin_epoch`` says of which.
        """
        workers = max(1, self.num_workers)
        self._sampler = TrainingSampler(self.epoch_plan(), *self._world(), workers, self._trained)
        if self._state and not self._sampler.resume(self._state):
            rank_zero_warn(
                "The training rows, or how they are batched, are not those of the checkpoint: its epoch begins anew."
            )
        assert self._train is not None
        return DataLoader(
            SpeechDataset(
                self._train.rows, False, self.buffer_shards, self._training_augmentation(), features=self.features
            ),
            sampler=self._sampler,
            batch_size=None,
            num_workers=self.num_workers,
            pin_memory=torch.cuda.is_available(),
            persistent_workers=self.num_workers > 0,
            worker_init_fn=outlive_sigterm,
            generator=_loader_generator(self.seed),
        )

    def val_dataloader(self) -> DataLoader[Batch]:
        """Return the validation rows by falling duration, each once."""
        return self._eval_dataloader("dev")

    def test_dataloader(self) -> DataLoader[Batch]:
        """Return the test rows by falling duration, each once; ``Batch.rows`` has their order in the corpus."""
        return self._eval_dataloader("test")

    def predict_dataloader(self) -> DataLoader[Batch]:
        """Return the test rows, as :meth:`test_dataloader`."""
        return self._eval_dataloader("test")

    def state_dict(self) -> dict[str, Any]:
        """Return where the epoch stands: what was trained on, not what workers have read ahead."""
        return {} if self._sampler is None else self._sampler.state()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on within an epoch where a checkpoint was written."""
        self._state = state_dict

    @property
    def augmentations(self) -> list[str]:
        """Options under ``augment`` that change the audio of training."""
        options = self.augment or Augmentation()
        changes = {
            "speeds": any(speed != 1 for speed in options.speeds),
            "reverberation": options.reverberation is not None and options.reverberation_probability > 0,
            "noise": bool(options.noise_sources) and options.noise_probability > 0,
            "gain_db": any(options.gain_db),
        }
        return [name for name, changed in changes.items() if changed]

    def _training_augmentation(self) -> Callable[[Tensor, int, str, str], Tensor] | None:
        if self.augment is None or not self.augmentations:
            return None
        self._augmenter = self._augmenter or Augmenter(self.augment)
        return partial(_augmented, self._augmenter, self.seed)

    def _test_noise(self) -> Callable[[Tensor, int, str, str], Tensor] | None:
        """Return what adds noise to test audio, the same for every system and seed."""
        if self.test_noise_snr is None:
            return None
        self._noise = self._noise or Noise(self.test_noise, "test_noise")
        return partial(_in_noise, self._noise, self.test_noise_snr)

    @property
    def _noise_label(self) -> str:
        """Noise of the test audio, as names of results carry it; empty where there is none."""
        noise = re.sub(r"\W+", "_", self.test_noise).strip("_")
        return "" if self.test_noise_snr is None else f"{noise}_{self.test_noise_snr:g}dB"

    @property
    def test_name(self) -> str:
        """Name of the folder of test results: one of its own for each noise, so that the clean ones stay."""
        return f"test_{self._noise_label}" if self._noise_label else "test"

    @property
    def training_batches(self) -> int | None:
        """Number of batches of the training epoch that is under way; None before there is one."""
        return self._sampler.batches() if self._sampler else None

    def _trained(self) -> int:
        """Return the number of batches that this process has trained on, those before a resumption included."""
        if self.trainer is None:
            return 0
        trained: int = self.trainer.fit_loop.epoch_loop.batch_progress.total.processed  # type: ignore[attr-defined]
        return trained

    def _eval_dataloader(self, kind: str) -> DataLoader[Batch]:
        rows = self._eval_rows(kind)
        sampler = EvaluationSampler(
            rows.durations_s,
            self.eval_batch_seconds,
            self.max_utterances,
            *self._world(),
            without=self.decoded if kind == "test" else (),
        )
        dataset = SpeechDataset(rows, keep_unreadable=True, features=self.features)
        if kind == "test" and self.test_noise_snr is not None:
            dataset = SpeechDataset(rows, True, augment=self._test_noise(), suffix=f"+{self._noise_label}")
        return DataLoader(
            dataset,
            sampler=sampler,
            batch_size=None,
            num_workers=self.num_workers,
            pin_memory=torch.cuda.is_available(),
            worker_init_fn=outlive_sigterm,
            generator=_loader_generator(self.seed),
        )

    def test_fingerprint(self) -> str:
        """Return a digest of what is tested on: the rows with their texts, where their audio is, and the noise."""
        digest = hashlib.sha256(f"{self.test_noise} {self.test_noise_snr}".encode())
        rows = self._eval_rows("test")
        for number in range(len(rows)):
            digest.update(repr(rows[number]).encode("utf-8", "surrogatepass"))
        return digest.hexdigest()

    def eval_kinds(self, kind: str) -> set[tuple[str, str, str, str]]:
        """Return the corpora, tasks, source and target languages that occur together in rows of ``dev`` or ``test``."""
        rows = (self._eval_rows(kind)[number] for number in range(len(self._eval_rows(kind))))
        return {(row.corpus, row.task, row.utterance.source_language, row.target_language) for row in rows}

    def _eval_rows(self, kind: str) -> Rows:
        if kind not in self._eval:
            self._eval[kind] = self.eval_rows(kind)
        return self._eval[kind]

    def _world(self) -> tuple[int, int]:
        """Return this process's rank among those that share the data out and their number; 0 and 1 without a trainer.

        Processes that share out the tensors of layers see the same batches.
        """
        if self.trainer is None:
            return 0, 1
        # Lightning has no public name for what the user chose.
        if self.trainer.world_size > 1 and self.trainer._accelerator_connector.use_distributed_sampler:
            msg = (
                f"The trainer has {self.trainer.world_size} processes and would replace the sampler that shares the "
                "data out among them. Set `use_distributed_sampler: false` in the recipe's `trainer`."
            )
            raise UserError(msg)
        shares = getattr(getattr(self.trainer, "strategy", None), "distributed_sampler_kwargs", None)
        if shares is not None:
            return shares["rank"], shares["num_replicas"]
        return self.trainer.global_rank, self.trainer.world_size


def _loader_generator(seed: int) -> torch.Generator:
    """Return what seeds workers, which would otherwise take a number of training's each time a loader is begun."""
    return torch.Generator().manual_seed(seed)


def _augmented(augmenter: Augmenter, seed: int, audio: Tensor, epoch: int, corpus: str, name: str) -> Tensor:
    return augmenter(audio, seed, epoch, corpus, name)


def _in_noise(noise: Noise, snr_db: float, audio: Tensor, epoch: int, corpus: str, name: str) -> Tensor:
    return noise.add(audio, snr_db, corpus, name)
