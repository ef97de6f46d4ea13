"""COMET of the translation: a regression model of what people would say of it."""

import warnings
from collections.abc import Mapping, Sequence
from typing import ClassVar, Protocol

import numpy as np
from numpy.typing import NDArray

from speechllm.errors import UserError, did_you_mean
from speechllm.metrics.base import Figure, Metric, Sample, Text, ratio
from speechllm.metrics.comet_checkpoint import CometCheckpoint, find_checkpoint
from speechllm.metrics.comet_native import NativeComet
from speechllm.metrics.comet_unbabel import UnbabelComet
from speechllm.registry import METRICS

DEFAULT_MODEL = "Unbabel/wmt22-comet-da"


class Backend(Protocol):
    """What computes segment scores; its constructor finds what cannot work, and loads no weights."""

    def versions(self) -> Mapping[str, str]:
        """Return the versions of the packages that compute the scores, by name."""
        ...

    def score(self, segments: Sequence[tuple[str, str, str]]) -> list[float]:
        """Return the score of each segment, which is a source text, a hypothesis and a reference."""
        ...


class BackendClass(Protocol):
    """How a back end is constructed."""

    def __call__(self, checkpoint: CometCheckpoint, batch_size: int, device: str) -> Backend:
        """Return the back end for a checkpoint."""
        ...


BACKENDS: dict[str, BackendClass] = {"native": NativeComet, "unbabel": UnbabelComet}


@METRICS.register("comet")
class Comet(Metric):
    """COMET, the mean of the segments' scores times 100; higher values are better.

    The source text is the reference transcript. Where it is empty, the segment is scored with an empty source, as COMET
    does it: the statistic ``empty_source`` marks it, and a warning counts them. A segment without reference has no
    score. COMET is lenient to a translation that repeats the source; look at rates of copies as well.

    Args:
        language: BCP-47 code of the translation.
        model: Checkpoint: a folder with hparams.yaml and checkpoints/model.ckpt, or a name on the Hugging Face hub,
            where it is downloaded from unless this machine has it. Any but the default stands in the figure's name.
        backend: ``native`` computes the scores itself, for checkpoints of the class regression_metric; ``unbabel``
            runs the package unbabel-comet in the environment that ``speechllm comet-env`` makes.
        encoder: Folder of the pretrained encoder's config.json and tokenizer.json; where not given, the one that
            hparams.yaml names, beside the checkpoint or on the hub.
        batch_size: Texts that go through the encoder at once.
        device: ``auto`` (a GPU where there is one), ``cpu``, ``cuda`` or ``cuda:1``.

    Raises:
        UserError: If an option is wrong, there is no such checkpoint or encoder, the native back end does not know the
            class or a setting of the checkpoint, or unbabel-comet has no environment.
    """

    scores: ClassVar[tuple[Text, ...]] = ("translation",)
    kept: ClassVar[bool] = True

    def __init__(
        self,
        language: str,
        model: str = DEFAULT_MODEL,
        backend: str = "native",
        encoder: str | None = None,
        batch_size: int = 16,
        device: str = "auto",
    ) -> None:
        super().__init__(language)
        if backend not in BACKENDS:
            msg = f"Unknown COMET back end '{backend}'.{did_you_mean(backend, BACKENDS)} Known: {', '.join(BACKENDS)}."
            raise UserError(msg)
        if batch_size < 1:
            msg = f"`batch_size` of COMET must be at least 1, but is {batch_size}."
            raise UserError(msg)
        self.backend = backend
        self._checkpoint = find_checkpoint(model, encoder)
        self._backend = BACKENDS[backend](self._checkpoint, batch_size, device)

    @property
    def figures(self) -> tuple[Figure, ...]:
        """COMET; a model that is not the default stands in its name."""
        name = self._checkpoint.name
        short = "_".join(name.rpartition("/")[2].split())
        return (Figure("comet" if name == DEFAULT_MODEL else f"comet_{short}", "points", True),)

    @property
    def columns(self) -> tuple[str, ...]:
        """The segment's score, whether it has one, and whether it was scored with an empty source."""
        return "score", "scored", "empty_source"

    def statistics(self, samples: Sequence[Sample]) -> NDArray[np.float64]:
        """Return score, 1 and the mark of an empty source for each sample; zeros where the reference is empty."""
        statistics = np.zeros((len(samples), len(self.columns)))
        rows = [row for row, sample in enumerate(samples) if sample.reference.strip()]
        if rows:
            found = [samples[row] for row in rows]
            empty = np.array([not sample.source.strip() for sample in found])
            if empty.any():
                warnings.warn(
                    f"{self.figures[0].name} ('{self.language}'): {empty.sum()} of {len(rows)} utterances have no "
                    "transcript, which COMET takes for the source. They are scored with an empty one, and marked.",
                    stacklevel=2,
                )
            segments = [(_valid(item.source), _valid(item.hypothesis), _valid(item.reference)) for item in found]
            statistics[rows, 0] = self._backend.score(segments)
            statistics[rows, 1], statistics[rows, 2] = 1, empty
            self._check_finite(statistics[rows, 0])
        return statistics

    def values(self, sums: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the mean score times 100."""
        return 100 * ratio(sums[..., :1], sums[..., 1:2])

    def scored(self, statistics: NDArray[np.float64]) -> NDArray[np.bool_]:
        """Return which references are not empty."""
        return statistics[:, 1] > 0

    def signature(self) -> str:
        """Return model, fingerprint of its weights, back end, source text and versions, divided by bars."""
        fields = {
            "model": self._checkpoint.name,
            "weights": self._checkpoint.fingerprint,
            "backend": self.backend,
            "source": "reference_transcript",
            **self._backend.versions(),
        }
        return "|".join(("comet", *(f"{key}:{'_'.join(value.split())}" for key, value in fields.items())))

    def _check_finite(self, scores: NDArray[np.float64]) -> None:
        if wrong := int((~np.isfinite(scores)).sum()):
            msg = (
                f"{wrong} of {len(scores)} scores of the COMET checkpoint '{self._checkpoint.name}' are no numbers. "
                f"Its weights are damaged: get it anew."
            )
            raise UserError(msg)


def _valid(text: str) -> str:
    """Return the text with U+FFFD for each half of a surrogate pair, which no tokenizer takes."""
    return text.encode("utf-8", "surrogatepass").decode("utf-8", "replace")
