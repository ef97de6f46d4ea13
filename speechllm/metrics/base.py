"""The contract of every metric: texts of a whole test set in, one figure and its signature out."""

from abc import ABC, abstractmethod
from typing import ClassVar, Literal

from speechllm.errors import UserError
from speechllm.languages import check_language


class Metric(ABC):
    """A score of a test set, computed over all of its utterances at once and never averaged over them.

    A metric gathers texts through :meth:`update`; :meth:`compute` may be called as often as wanted and does not end
    the gathering. A new metric sets the two class attributes and writes :meth:`_score` and :meth:`signature`.

    Args:
        language: BCP-47 code of the scored text; the program passes it, a recipe never does.

    Attributes:
        scores: Which text of an utterance is scored.
        higher_is_better: Direction of the figure.

    Raises:
        UserError: If the language is not known.
    """

    scores: ClassVar[Literal["transcript", "translation"]]
    higher_is_better: ClassVar[bool]

    def __init__(self, language: str) -> None:
        check_language(language)
        self.language = language
        self._hypotheses: list[str] = []
        self._references: list[str] = []

    @property
    def count(self) -> int:
        """Number of utterances that the figure is computed from."""
        return len(self._references)

    def update(self, hypothesis: str, reference: str) -> None:
        """Add one utterance."""
        self._hypotheses.append(hypothesis)
        self._references.append(reference)

    def reset(self) -> None:
        """Forget every utterance."""
        self._hypotheses.clear()
        self._references.clear()

    def compute(self) -> float:
        """Return the figure over all utterances so far, in percent (an error rate may exceed 100).

        Raises:
            UserError: If there is no utterance to score.
        """
        return self._score(*self._texts())

    @abstractmethod
    def signature(self) -> str:
        """Return how the figure was computed, such that someone else can compute it again."""

    @abstractmethod
    def _score(self, hypotheses: list[str], references: list[str]) -> float:
        """Return the figure in percent; both lists have the same length, which is at least 1."""

    def _texts(self) -> tuple[list[str], list[str]]:
        """Return hypotheses and references, checked: the scorers behind a metric cut off the longer list silently."""
        if len(self._hypotheses) != len(self._references):
            msg = f"{len(self._hypotheses)} hypotheses stand against {len(self._references)} references."
            raise RuntimeError(msg)
        if not self._references:
            msg = (
                f"{type(self).__name__} ('{self.language}') has no utterance with a reference to score. "
                f"Check that the split has utterances and that they carry a {self.scores}."
            )
            raise UserError(msg)
        return self._hypotheses, self._references
