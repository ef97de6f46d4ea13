"""CTC collapse of paper B: runs of the labels that the encoder's own CTC head gives (spec §9)."""

from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from speechllm.adapters.base import Adapter
from speechllm.adapters.runs import Runs, find_runs, pool, spans_of_runs, weigh_frames
from speechllm.batch import AdapterOutput, Frames, Spans, lengths_to_mask, zero_padding
from speechllm.errors import UserError
from speechllm.registry import ADAPTERS


@ADAPTERS.register("ctc_collapse")
class CTCCollapseAdapter(Adapter):
    """The mean of each run of equally labelled frames but blanks, and a projection; about one position a character.

    It has no loss: the labels are those of the CTC head that the encoder came with. An utterance of nothing but blanks
    becomes the mean of its frames and is counted as ``ctc_fallbacks``.

    Args:
        in_dim: Encoder width E.
        out_dim: LLM width H.
        projection_layers: 1 is a linear layer; 2 are two of them with GELU between, of width ``out_dim``.

    Attributes:
        needs_ctc_logits: This adapter takes only frames with CTC logits.
    """

    tiny: ClassVar[dict[str, Any]] = {}
    needs_ctc_logits: ClassVar[bool] = True

    def __init__(self, in_dim: int, out_dim: int, projection_layers: int = 1) -> None:
        super().__init__()
        if projection_layers not in (1, 2):
            msg = f"`projection_layers` must be 1 or 2, but is {projection_layers}."
            raise UserError(msg)
        second = [nn.GELU(), nn.Linear(out_dim, out_dim)] if projection_layers == 2 else []
        self.projection = nn.Sequential(nn.Linear(in_dim, out_dim), *second)

    def output_lengths(self, lengths: Tensor) -> None:
        """Return None: the number of runs depends on the frames."""
        return

    def forward(self, frames: Frames, targets: list[Tensor] | None = None) -> AdapterOutput:
        """Adapt a batch; see :meth:`Adapter.forward`.

        Raises:
            UserError: If the frames carry no CTC logits.
        """
        labels, runs = _find_runs(frames)
        blanks = (labels == frames.ctc_blank) & lengths_to_mask(frames.lengths, labels.shape[1], labels.device)
        stats = {"ctc_blank_rate": blanks.sum() / int(frames.lengths.sum()), "ctc_fallbacks": runs.nothing_kept.sum()}
        weights = weigh_frames(runs, torch.ones_like(labels, dtype=torch.float32))
        pooled = pool(frames.values, runs, weights)
        return AdapterOutput(zero_padding(self.projection(pooled), runs.lengths), runs.lengths, stats=stats)

    @torch.no_grad()
    def spans(self, frames: Frames) -> list[Spans]:
        """Return the frames of each run; see :meth:`Adapter.spans`. What labels mean only the encoder knows."""
        labels, runs = _find_runs(frames)
        return spans_of_runs(runs, frames.lengths, labels, lambda _: None)


def _find_runs(frames: Frames) -> tuple[Tensor, Runs]:
    """Return the label of each frame (B, F) and the runs of all but blanks."""
    if frames.ctc_logits is None:
        msg = (
            "The adapter 'ctc_collapse' needs an encoder with a CTC head, but the frames carry no CTC logits. "
            "Use the encoder 'hubert' with `ctc_head: true`, or the adapter 'ctc', which has a head of its own."
        )
        raise UserError(msg)
    labels = frames.ctc_logits.argmax(dim=-1)
    return labels, find_runs(labels, frames.lengths, labels != frames.ctc_blank)
