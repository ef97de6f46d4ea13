"""What every datamodule of the package does: batches from rows, wherever the rows come from."""

from abc import abstractmethod

from lhotse import MonoCut
from lightning.pytorch import LightningDataModule
from torch.utils.data import DataLoader

from speechllm.batch import Batch
from speechllm.data.dataset import SpeechDataset
from speechllm.data.rows import TrainingRows
from speechllm.data.sampling import EvaluationSampler, training_sampler
from speechllm.errors import UserError


class SpeechDataModule(LightningDataModule):
    """Batches for training and scoring. The trainer needs ``use_distributed_sampler=False`` on several devices.

    Args:
        batch_seconds: Largest size of a training batch in seconds of audio, padding included.
        max_utterances: Largest number of utterances of a batch.
        num_buckets: Number of buckets of like duration that training batches are drawn from.
        num_workers: Processes that read audio; 0 reads in the main process.
        seed: Seed of the order of training.
        eval_batch_seconds: As ``batch_seconds``, for validation, test and prediction; the same where not given.
    """

    def __init__(
        self,
        batch_seconds: float = 160.0,
        max_utterances: int = 32,
        num_buckets: int = 10,
        num_workers: int = 2,
        seed: int = 42,
        eval_batch_seconds: float | None = None,
    ) -> None:
        super().__init__()
        self.batch_seconds = batch_seconds
        self.max_utterances = max_utterances
        self.num_buckets = num_buckets
        self.num_workers = num_workers
        self.seed = seed
        self.eval_batch_seconds = batch_seconds if eval_batch_seconds is None else eval_batch_seconds
        self._train: TrainingRows | None = None
        self._eval: dict[str, list[MonoCut]] = {}
        for name, least in (("max_utterances", 1), ("num_buckets", 1), ("num_workers", 0)):
            if getattr(self, name) < least:
                msg = f"`{name}` must be at least {least}, but is {getattr(self, name)}."
                raise UserError(msg)
        for name in ("batch_seconds", "eval_batch_seconds"):
            if not getattr(self, name) > 0:
                msg = f"`{name}` must be above 0 seconds, but is {getattr(self, name)}."
                raise UserError(msg)

    @abstractmethod
    def train_rows(self) -> TrainingRows:
        """Return the rows to train on."""

    @abstractmethod
    def eval_rows(self, kind: str) -> list[MonoCut]:
        """Return the rows of ``"dev"`` or ``"test"`` in the order of the corpus, numbered from 0."""

    def setup(self, stage: str) -> None:
        """Read and check the manifests that a stage needs, before a model is loaded.

        Args:
            stage: ``fit``, ``validate``, ``test`` or ``predict``.

        Raises:
            UserError: If a manifest is absent, a row is wrong or no row is left.
        """
        if stage == "fit":
            self._train = self.train_rows()
            if self.trainer is None or self.trainer.limit_val_batches == 0:
                return
        self._eval_rows("dev" if stage in ("fit", "validate") else "test")

    @property
    def untranscribed(self) -> tuple[int, int]:
        """Training rows without a transcript, and all of them; read by ``setup("fit")``."""
        return (self._train.untranscribed, len(self._train)) if self._train else (0, 0)

    def train_dataloader(self) -> DataLoader[Batch]:
        """Return shuffled batches of rows of like duration; call ``sampler.set_epoch`` outside of a trainer."""
        self._train = self._train or self.train_rows()
        rank, world_size = self._world()
        sampler = training_sampler(
            self._train, self.batch_seconds, self.max_utterances, self.num_buckets, self.seed, rank, world_size
        )
        return DataLoader(
            SpeechDataset(keep_unreadable=False),
            sampler=sampler,
            batch_size=None,
            num_workers=self.num_workers,
            persistent_workers=self.num_workers > 0,
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

    def _eval_dataloader(self, kind: str) -> DataLoader[Batch]:
        rank, world_size = self._world()
        sampler = EvaluationSampler(
            self._eval_rows(kind), self.eval_batch_seconds, self.max_utterances, rank, world_size
        )
        return DataLoader(
            SpeechDataset(keep_unreadable=True), sampler=sampler, batch_size=None, num_workers=self.num_workers
        )

    def _eval_rows(self, kind: str) -> list[MonoCut]:
        if kind not in self._eval:
            self._eval[kind] = self.eval_rows(kind)
        return self._eval[kind]

    def _world(self) -> tuple[int, int]:
        """Return this process's rank and the number of processes, 0 and 1 without a trainer."""
        if self.trainer is None:
            return 0, 1
        # Lightning has no public name for what the user chose.
        if self.trainer.world_size > 1 and self.trainer._accelerator_connector.use_distributed_sampler:
            msg = (
                f"The trainer has {self.trainer.world_size} processes and would replace the sampler that shares the "
                "data out among them. Set `use_distributed_sampler: false` in the recipe's `trainer`."
            )
            raise UserError(msg)
        return self.trainer.global_rank, self.trainer.world_size
