"""What the adapters of paper A share: BERT layers around a length adapter (spec §1.3, §3)."""

from abc import abstractmethod

from torch import Tensor, nn

from speechllm.adapters.base import Adapter
from speechllm.attention_masks import attention_mask
from speechllm.batch import AdapterOutput, Frames, zero_padding
from speechllm.errors import UserError


class ModalityLayers(nn.Module):
    """A stack of BERT encoder layers without positional embeddings, masked at each utterance's end (spec §3).

    Args:
        layers: Number of layers; 0 passes its input on.
        dim: Width D.
        heads: Attention heads; they divide ``dim``.
        dropout: Dropout of hidden states and attention weights, 0–1.
    """

    def __init__(self, layers: int, dim: int, heads: int, dropout: float) -> None:
        super().__init__()
        from transformers import BertConfig
        from transformers.models.bert.modeling_bert import BertEncoder

        self.config = BertConfig(
            num_hidden_layers=layers,
            hidden_size=dim,
            num_attention_heads=heads,
            intermediate_size=4 * dim,
            hidden_dropout_prob=dropout,
            attention_probs_dropout_prob=dropout,
            attn_implementation="sdpa",
        )
        self.encoder = BertEncoder(self.config)
        self.encoder.apply(_init_bert)

    def forward(self, values: Tensor, lengths: Tensor) -> Tensor:
        """Map (B, N, D) with lengths (B,) to (B, N, D), zero past each length."""
        mask = attention_mask(self.config, values, lengths)
        return zero_padding(self.encoder(values, mask).last_hidden_state, lengths)


class TwoStageAdapter(Adapter):
    """Projection, BERT layers, length adapter, BERT layers, projection.

    A subclass gives the length adapter; the projections are Linear + LayerNorm.

    Args:
        in_dim: Encoder width E.
        out_dim: LLM width H.
        layers: BERT layers in all; half of them, rounded up, stand before the length adapter.
        dim: Width of the adapter.
        heads: Attention heads.
        dropout: Dropout, 0–1.
    """

    def __init__(self, in_dim: int, out_dim: int, layers: int, dim: int, heads: int, dropout: float) -> None:
        super().__init__()
        if dim % heads:
            msg = f"`dim` must be a multiple of `heads`, but {dim} is not one of {heads}."
            raise UserError(msg)
        if layers < 0:
            msg = f"`layers` must be 0 or more, but is {layers}."
            raise UserError(msg)
        before = (layers + 1) // 2
        self.in_proj = nn.Sequential(nn.Linear(in_dim, dim), nn.LayerNorm(dim))
        self.before = ModalityLayers(before, dim, heads, dropout)
        self.after = ModalityLayers(layers - before, dim, heads, dropout)
        self.out_proj = nn.Sequential(nn.Linear(dim, out_dim), nn.LayerNorm(out_dim))

    def core_parameters(self) -> int:
        """Return the number of parameters without the two projections, as Table II of paper A counts them."""
        projections = [*self.in_proj.parameters(), *self.out_proj.parameters()]
        return sum(p.numel() for p in self.parameters()) - sum(p.numel() for p in projections)

    @abstractmethod
    def adapt_length(self, values: Tensor, lengths: Tensor, targets: list[Tensor] | None) -> AdapterOutput:
        """Shorten (B, F, D) with lengths (B,) to (B, S, D), with its losses and figures."""

    def forward(self, frames: Frames, targets: list[Tensor] | None = None) -> AdapterOutput:
        """Adapt a batch; see :meth:`Adapter.forward`."""
        hidden = zero_padding(self.in_proj(frames.values), frames.lengths)
        hidden = self.before(hidden, frames.lengths)
        short = self.adapt_length(hidden, frames.lengths, targets)
        hidden = self.after(short.values, short.lengths)
        values = zero_padding(self.out_proj(hidden), short.lengths)
        return AdapterOutput(values, short.lengths, short.losses, short.stats)


def _init_bert(module: nn.Module) -> None:
    """Initialise as BERT does: weights N(0, 0.02), biases zero."""
    if isinstance(module, nn.Linear):
        nn.init.normal_(module.weight, std=0.02)
        nn.init.zeros_(module.bias)
