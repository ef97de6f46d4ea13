"""Length adapter of paper A that weighs frames and fires when enough of them came together (spec §5)."""

import warnings
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from speechllm.adapters.ctc_loss import ctc_losses
from speechllm.adapters.ctc_vocabulary import CTCVocabulary
from speechllm.adapters.integrate_and_fire import Fired, integrate_and_fire, spans_of_fires
from speechllm.adapters.two_stage import TwoStageAdapter
from speechllm.batch import AdapterOutput, Frames, Spans, lengths_to_mask, to_device, zero_padding
from speechllm.errors import UserError
from speechllm.registry import ADAPTERS


@ADAPTERS.register("cif")
class CIFAdapter(TwoStageAdapter):
    """BERT layers around continuous integrate-and-fire: about one position for each token of the transcript.

    A convolution gives each frame a weight between 0 and 1; see :mod:`speechllm.adapters.integrate_and_fire`. In
    training the weights are scaled to as many positions as the transcript has labels. Two auxiliary losses, each (B,):
    ``quantity``, how far the positions that the unscaled weights fill are from that number, and ``ctc``, of a head on
    the frames that are weighed. Neither learns from an empty transcript. At ``dim`` 768 and a vocabulary of 32,768 the
    convolution, its norm, the weights and the head have 28,151,554 parameters (spec §5.1).

    Args:
        in_dim: Encoder width E.
        out_dim: LLM width H.
        vocab_size: Vocabulary size of the LLM's tokenizer.
        layers: BERT layers in all, half of them before the firing.
        dim: Width of the layers.
        heads: Attention heads; they divide ``dim``.
        dropout: Dropout of hidden states and attention weights, 0–1.
        kernel_size: Width of the convolution in frames; odd.
        threshold: Sum of weights that fires, above 0.
        alpha_bias_init: First value of the bias before the sigmoid that gives the weights; below 0 for fewer positions
            at the start. None for torch's own, which fires at about every second frame.
        quantity_per_token: Divide the loss ``quantity`` by the number of labels.
        count_bos: Count one label more, as the released code does with its beginning-of-sequence token.
        vocabulary: Labels of the transcript, for both losses: ``llm``, ``bytes``, ``characters``, or the path of a
            ``tokenizer.json``; see :class:`speechllm.adapters.ctc_vocabulary.CTCVocabulary`.
        alphabet: Characters of ``vocabulary: characters``; lower-case Latin letters, apostrophe and space where not
            given. Others are dropped from transcripts and counted as ``ctc_dropped_characters``.
    """

    tiny: ClassVar[dict[str, Any]] = {"layers": 2, "dim": 16, "heads": 2}
    loss_weights: ClassVar[dict[str, float]] = {"ctc": 0.1, "quantity": 0.1}

    def __init__(
        self,
        in_dim: int,
        out_dim: int,
        vocab_size: int,
        layers: int = 4,
        dim: int = 768,
        heads: int = 12,
        dropout: float = 0.1,
        kernel_size: int = 5,
        threshold: float = 1.0,
        alpha_bias_init: float | None = None,
        quantity_per_token: bool = False,
        count_bos: bool = False,
        vocabulary: str = "llm",
        alphabet: str | None = None,
    ) -> None:
        super().__init__(in_dim, out_dim, layers, dim, heads, dropout)
        if kernel_size % 2 == 0:
            msg = f"`kernel_size` must be odd, but is {kernel_size}; even kernels shift the frames."
            raise UserError(msg)
        if threshold <= 0:
            msg = f"`threshold` must be above 0, but is {threshold}."
            raise UserError(msg)
        self.threshold = threshold
        self.quantity_per_token = quantity_per_token
        self.count_bos = count_bos
        self.conv = nn.Conv1d(dim, dim, kernel_size, padding=kernel_size // 2)
        self.norm = nn.LayerNorm(dim)
        self.weight_proj = nn.Linear(dim, 1)
        if alpha_bias_init is not None:
            nn.init.constant_(self.weight_proj.bias, alpha_bias_init)
        self.vocabulary = CTCVocabulary(vocabulary, alphabet, vocab_size)
        self.blank = self.vocabulary.size
        self.head = nn.Linear(dim, self.vocabulary.size + 1)

    def output_lengths(self, lengths: Tensor) -> None:
        """Return None: the number of positions depends on the frames."""
        return

    def encode_targets(self, transcripts: list[str]) -> list[Tensor] | None:
        """Return the transcripts in the labels of the head; None where these are the LLM's tokens."""
        return self.vocabulary.encode(transcripts)

    def adapt_length(self, values: Tensor, lengths: Tensor, targets: list[Tensor] | None) -> AdapterOutput:
        """Integrate (B, F, D) into (B, S, D); with targets, return the losses ``quantity`` and ``ctc`` (B,) too."""
        weights = self._weigh(values, lengths)
        if targets is None:
            if self.training:
                warnings.warn("`cif` got no transcripts in training: it fires as in inference.", stacklevel=2)
            fired = integrate_and_fire(values, weights, lengths, threshold=self.threshold)
            return AdapterOutput(fired.values, fired.lengths, stats=_stats(fired))
        labels = torch.tensor([len(target) for target in targets])
        wanted = (labels + self.count_bos).clamp(min=1)
        fired = integrate_and_fire(values, weights, lengths, wanted if self.training else None, self.threshold)
        labels, wanted = to_device(torch.stack([labels, wanted]), values.device)
        missed = (fired.quantities / self.threshold - wanted).abs()
        missed = missed / wanted if self.quantity_per_token else missed
        log_probs = self.head(values).float().log_softmax(dim=-1)
        ctc, too_long = ctc_losses(log_probs, lengths, targets, self.blank)
        losses = {"ctc": ctc, "quantity": missed.masked_fill(labels == 0, 0).float()}
        stats = {**_stats(fired), "ctc_too_long": too_long, **self.vocabulary.stats()}
        return AdapterOutput(fired.values, fired.lengths, losses, stats)

    @torch.no_grad()
    def spans(self, frames: Frames) -> list[Spans]:
        """Return where each position fires, and the weight of each frame; see :meth:`Adapter.spans`."""
        hidden = self.before(zero_padding(self.in_proj(frames.values), frames.lengths), frames.lengths)
        return spans_of_fires(self._weigh(hidden, frames.lengths), frames.lengths, self.threshold)

    def _weigh(self, values: Tensor, lengths: Tensor) -> Tensor:
        """Return the weight of each frame, (B, F) float32 in (0, 1), of (B, F, D) that is zero past each length."""
        hidden = self.norm(self.conv(values.transpose(1, 2)).transpose(1, 2)).relu()
        weights: Tensor = self.weight_proj(hidden)[..., 0].float().sigmoid()
        return weights * lengths_to_mask(lengths, values.shape[1], values.device)


def _stats(fired: Fired) -> dict[str, Tensor]:
    return {"quantity": fired.quantities.detach().float(), "cif_fallbacks": fired.fallbacks.sum()}
