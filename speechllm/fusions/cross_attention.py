"""Attention from one stream to the other, which all fusions but plain concatenation are made of (spec §11.2)."""

from torch import Tensor, nn

from speechllm.batch import has_padding, lengths_to_mask
from speechllm.errors import UserError


class CrossAttention(nn.Module):
    """A(q ← c): each frame of a stream gathers from all frames of the other stream.

    Args:
        dim: Width E1 of the stream that asks, and of what comes back.
        context_dim: Width E2 of the stream that is asked.
        heads: Attention heads; they divide ``dim``.
        dropout: Dropout of the attention weights, 0–1.

    Raises:
        UserError: If ``heads`` does not divide ``dim``.
    """

    def __init__(self, dim: int, context_dim: int, heads: int, dropout: float) -> None:
        super().__init__()
        if heads < 1 or dim % heads:
            msg = (
                f"The fusion's `heads` must divide the width of the stream that attends, but {heads} heads do not "
                f"divide {dim}."
            )
            raise UserError(msg)
        self.attention = nn.MultiheadAttention(
            dim, heads, dropout=dropout, kdim=context_dim, vdim=context_dim, batch_first=True
        )

    def forward(self, stream: Tensor, context: Tensor, lengths: Tensor) -> Tensor:
        """Map (B, F, E1) and (B, F, E2) with lengths (B,) to (B, F, E1)."""
        # No row of the mask is empty, which would give NaN: lengths are at least 1.
        size = context.shape[1]
        padding = ~lengths_to_mask(lengths, size, context.device) if has_padding(lengths, size) else None
        gathered, _ = self.attention(stream, context, context, key_padding_mask=padding, need_weights=False)
        return gathered  # type: ignore[no-any-return]  # torch leaves modules' results untyped


class ResidualCrossAttention(nn.Module):
    """LN(q + A(q ← c)).

    Args:
        dim: Width E1 of the stream that asks.
        context_dim: Width E2 of the stream that is asked.
        heads: Attention heads; they divide ``dim``.
        dropout: Dropout of the attention weights, 0–1.
    """

    def __init__(self, dim: int, context_dim: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.cross = CrossAttention(dim, context_dim, heads, dropout)
        self.norm = nn.LayerNorm(dim)

    def forward(self, stream: Tensor, context: Tensor, lengths: Tensor) -> Tensor:
        """Map (B, F, E1) and (B, F, E2) with lengths (B,) to (B, F, E1)."""
        normed: Tensor = self.norm(stream + self.cross(stream, context, lengths))
        return normed


class GatedCrossAttention(nn.Module):
    """LN(q + g · a) with a = A(q ← c) and the gate g = sigmoid(Linear(a)), one for each channel of each frame.

    Args:
        dim: Width E1 of the stream that asks.
        context_dim: Width E2 of the stream that is asked.
        heads: Attention heads; they divide ``dim``.
        dropout: Dropout of the attention weights, 0–1.
    """

    def __init__(self, dim: int, context_dim: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.cross = CrossAttention(dim, context_dim, heads, dropout)
        self.gate = nn.Linear(dim, dim)
        self.norm = nn.LayerNorm(dim)

    def forward(self, stream: Tensor, context: Tensor, lengths: Tensor) -> Tensor:
        """Map (B, F, E1) and (B, F, E2) with lengths (B,) to (B, F, E1)."""
        gathered = self.cross(stream, context, lengths)
        normed: Tensor = self.norm(stream + self.gate(gathered).sigmoid() * gathered)
        return normed
