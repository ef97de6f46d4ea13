"""The datamodule of one corpus: manifests written once, rows read from them."""

from pathlib import Path
from typing import Any

from lightning.pytorch.utilities import rank_zero_info

from speechllm.data.manifest import Corpus, is_current, write_manifests
from speechllm.data.prepared import PreparedDataModule


class CorpusDataModule(PreparedDataModule):
    """Rows of one corpus. A new corpus subclasses this and passes its reader.

    Args:
        corpus: Reader of the corpus on disk.
        default_manifest_dir: Where manifests go unless ``manifest_dir`` is given; it differs between selections of
            the corpus, so that two runs never rewrite each other's manifests.
        manifest_dir: Folder of the manifests; a folder below ``manifests`` in the corpus's root where not given.
        **kwargs: Options of :class:`speechllm.data.prepared.PreparedDataModule`.

    Attributes:
        corpus: Reader of the corpus on disk.
        manifest_dir: Folder of the manifests.
    """

    def __init__(
        self, corpus: Corpus, default_manifest_dir: Path, manifest_dir: str | None = None, **kwargs: Any
    ) -> None:
        super().__init__(manifest_dir=manifest_dir or str(default_manifest_dir), **kwargs)
        self.corpus = corpus

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
