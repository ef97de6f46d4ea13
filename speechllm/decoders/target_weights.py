"""How much the transcript and the translation of one answer count in the loss."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Self

import torch
from torch import Tensor

from speechllm.batch import to_device
from speechllm.errors import UserError, did_you_mean


@dataclass(frozen=True)
class TargetWeights:
    """Weights of the tokens of an answer; only their ratio matters.

    The separator is a token of the transcript, which it ends; the end token belongs to the last text.

    Attributes:
        transcript: Weight of the transcript's tokens.
        translation: Weight of the translation's tokens.
    """

    transcript: float = 1.0
    translation: float = 1.0

    @classmethod
    def parse(cls, given: Mapping[str, Any] | None) -> Self:
        """Read a recipe's ``target_weights``.

        Raises:
            UserError: If a name is unknown, a weight is negative or no number, or both are 0.
        """
        options = dict(given or {})
        names = [field.name for field in fields(cls)]
        for name, weight in options.items():
            if name not in names:
                msg = f"`target_weights` has no '{name}'.{did_you_mean(name, names)} Allowed: {', '.join(names)}."
                raise UserError(msg)
            if isinstance(weight, bool) or not isinstance(weight, int | float) or not 0 <= weight < float("inf"):
                msg = f"`target_weights` must be numbers of at least 0, but '{name}' is {weight!r}."
                raise UserError(msg)
        weights = cls(**options)
        if weights.transcript == weights.translation == 0:
            msg = "`target_weights` are both 0, so that nothing would be learned; give one of them a weight."
            raise UserError(msg)
        return weights

    def apply(
        self, token_losses: Tensor, answer_lengths: list[int], transcript_tokens: list[int]
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Return each utterance's loss and the unweighted mean loss of each kind of text.

        An utterance's loss is the weighted mean over its tokens, times their number. So the sum over utterances,
        divided by the sum of their numbers of tokens, stays a mean an answer in proportion to its length whatever the
        weights: they shift the loss within an answer, and leave answers of one text alone as they are. A text of weight
        0 is not learned, also where it stands alone.

        Args:
            token_losses: (N,) float32, cross-entropy of each target token, utterance by utterance.
            answer_lengths: Number of tokens of each answer, N in all.
            transcript_tokens: Number of transcript tokens at the head of each answer.

        Returns:
            (B,) float32 losses, and ``loss_transcript`` and ``loss_translation``, means over the tokens of the batch,
            where it has such tokens.
        """
        lengths = torch.tensor(answer_lengths)
        heads = torch.minimum(torch.tensor(transcript_tokens), lengths)  # an answer may have been cut
        rows = torch.arange(len(lengths)).repeat_interleave(lengths)
        places = torch.arange(len(rows)) - (lengths.cumsum(0) - lengths)[rows]
        is_transcript = places < heads[rows]
        weight_sums = heads * self.transcript + (lengths - heads) * self.translation
        scales = torch.where(weight_sums > 0, lengths / weight_sums, 0.0)
        weights = torch.where(is_transcript, self.transcript, self.translation) * scales[rows]
        counts = {"transcript": int(heads.sum()), "translation": int((lengths - heads).sum())}
        shares = [
            part / max(1, counts[name]) for name, part in zip(counts, (is_transcript, ~is_transcript), strict=True)
        ]
        # One transfer: row numbers are exact in float32 up to 16 million.
        moved = to_device(torch.stack([rows.float(), weights.float(), *shares]), token_losses.device)
        weighted = moved[1].to(token_losses.dtype) * token_losses
        losses = token_losses.new_zeros(len(lengths)).index_add(0, moved[0].long(), weighted)
        means = (moved[2:].to(token_losses.dtype) * token_losses.detach()).sum(dim=1)
        return losses, {
            f"loss_{name}": mean for (name, count), mean in zip(counts.items(), means, strict=True) if count
        }
