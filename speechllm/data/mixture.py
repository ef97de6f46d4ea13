"""Several corpora as one: all their rows, in one shuffled stream of batches."""

from lhotse import MonoCut

from speechllm.data.base import SpeechDataModule
from speechllm.data.rows import TrainingRows, interleave
from speechllm.errors import UserError


class MixtureDataModule(SpeechDataModule):
    """All data of several datamodules, for training and for scoring.

    The parts say what is read (tasks, duration limits, size of the validation set), and the mixture how it is
    batched: the parts' own batch settings, workers and seeds play no part.

    Args:
        parts: The datamodules.
        batch_seconds: Largest size of a training batch in seconds of audio, padding included.
        max_utterances: Largest number of utterances of a batch.
        num_buckets: Number of buckets of like duration that training batches are drawn from.
        num_workers: Processes that read audio; 0 reads in the main process.
        seed: Seed of the order of training.
        eval_batch_seconds: As ``batch_seconds``, for validation, test and prediction; the same where not given.
    """

    def __init__(
        self,
        parts: list[SpeechDataModule],
        batch_seconds: float = 160.0,
        max_utterances: int = 32,
        num_buckets: int = 10,
        num_workers: int = 2,
        seed: int = 42,
        eval_batch_seconds: float | None = None,
    ) -> None:
        super().__init__(batch_seconds, max_utterances, num_buckets, num_workers, seed, eval_batch_seconds)
        if not parts:
            msg = "A mixture needs at least one datamodule in `parts`."
            raise UserError(msg)
        self.parts = parts

    def prepare_data(self) -> None:
        """Prepare every part."""
        for part in self.parts:
            part.prepare_data()

    def train_rows(self) -> TrainingRows:
        """Return all training rows of the parts, mixed evenly."""
        return interleave([part.train_rows() for part in self.parts], self.seed)

    def eval_rows(self, kind: str) -> list[MonoCut]:
        """Return the parts' rows of ``"dev"`` or ``"test"``, one part after the other, numbered throughout."""
        rows = [cut for part in self.parts for cut in part.eval_rows(kind)]
        for row, cut in enumerate(rows):
            cut.custom["row"] = row
        return rows
