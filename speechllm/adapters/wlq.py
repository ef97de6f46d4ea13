"""Window-level Q-Former: a fixed number of positions for each window of frames (spec §7; papers A and D, SALMONN)."""

import math
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from speechllm.adapters.base import Adapter
from speechllm.attention_masks import attention_mask
from speechllm.batch import AdapterOutput, Frames, Spans, zero_padding
from speechllm.errors import UserError
from speechllm.registry import ADAPTERS

# Shape legend beyond batch.py: D adapter width, W frames of a window, N windows of the longest utterance, Q queries.


@ADAPTERS.register("wlq")
class WLQAdapter(Adapter):
    """Learned queries that attend to one window of frames at a time; S = Q · ceil(F / W).

    A position depends on the frames of its own window and on nothing else. The last window may be shorter than the
    others; its missing frames are masked. At its defaults and an LLM of width 4,096 the adapter has 33,091,328
    parameters without the two linear projections (paper A, Table II). Paper D's Q-Former is ``window_frames: 17,
    layers: 2, cross_attention_frequency: 1, drop_remainder: true``.

    Args:
        in_dim: Encoder width E.
        out_dim: LLM width H.
        frame_rate: Frames per second of the encoder, in Hz.
        layers: Layers of the Q-Former.
        cross_attention_frequency: Every how many layers, from the first, the queries attend to the frames.
        queries: Positions Q of each window.
        window_seconds: Duration of a window, rounded down to whole frames: 0.33 s are 16 frames at 50 Hz, 2 at 6.25 Hz.
        window_frames: Frames W of a window, in place of ``window_seconds``.
        drop_remainder: Leave out the frames after the last full window, as SALMONN and paper D do; an utterance shorter
            than one window keeps its frames as its only window.
        dim: Width D of the Q-Former.
        heads: Attention heads; they divide ``dim``.
        dropout: Dropout of hidden states and attention weights, 0–1.
    """

    tiny: ClassVar[dict[str, Any]] = {"layers": 2, "dim": 16, "heads": 2}

    def __init__(
        self,
        in_dim: int,
        out_dim: int,
        frame_rate: float,
        layers: int = 4,
        cross_attention_frequency: int = 2,
        queries: int = 1,
        window_seconds: float = 0.33,
        window_frames: int | None = None,
        drop_remainder: bool = False,
        dim: int = 768,
        heads: int = 12,
        dropout: float = 0.1,
    ) -> None:
        super().__init__()
        counts = {"layers": layers, "cross_attention_frequency": cross_attention_frequency, "queries": queries}
        for name, count in counts.items():
            if count < 1:
                msg = f"`{name}` must be 1 or more, but is {count}."
                raise UserError(msg)
        if dim % heads:
            msg = f"`dim` must be a multiple of `heads`, but {dim} is not one of {heads}."
            raise UserError(msg)
        self.window = _window(window_seconds, window_frames, frame_rate)
        self.drop_remainder = drop_remainder
        self.in_proj = nn.Sequential(nn.Linear(in_dim, dim), nn.LayerNorm(dim))
        self.queries = nn.Parameter(torch.empty(queries, dim).normal_(std=0.02))
        self.qformer = _qformer(layers, cross_attention_frequency, dim, heads, dropout)
        self.out_proj = nn.Sequential(nn.Linear(dim, out_dim), nn.LayerNorm(out_dim))

    def core_parameters(self) -> int:
        """Return the number of parameters without the two linear projections, as Table II of paper A counts them."""
        projections = [*self.in_proj[0].parameters(), *self.out_proj[0].parameters()]
        return sum(p.numel() for p in self.parameters()) - sum(p.numel() for p in projections)

    def output_lengths(self, lengths: Tensor) -> Tensor:
        """Return Q · ceil(lengths / W), or Q · max(1, floor(lengths / W)) without remainders."""
        windows = lengths // self.window if self.drop_remainder else -(-lengths // self.window)
        return windows.clamp(min=1) * len(self.queries)

    def forward(self, frames: Frames, targets: list[Tensor] | None = None) -> AdapterOutput:
        """Adapt a batch; see :meth:`Adapter.forward`."""
        out_lengths = self.output_lengths(frames.lengths)
        utterances, queries = len(out_lengths), len(self.queries)
        windows = int(out_lengths.max()) // queries
        hidden = zero_padding(self.in_proj(frames.values), frames.lengths)
        size = windows * self.window
        hidden = nn.functional.pad(hidden, (0, 0, 0, size - hidden.shape[1]))  # cuts where the remainder is dropped
        hidden = hidden.reshape(utterances * windows, self.window, -1)
        # A window behind a shorter utterance's end has no frame. It attends to its first, which is zero, lest its
        # softmax be undefined, and is zeroed at the end.
        filled = (frames.lengths[:, None] - torch.arange(windows) * self.window).clamp(min=1, max=self.window)
        answers = self.qformer(
            query_embeds=self.queries.expand(len(hidden), -1, -1),
            encoder_hidden_states=hidden,
            encoder_attention_mask=attention_mask(self.qformer.config, hidden, filled.flatten()),
        ).last_hidden_state  # (B·N, Q, D)
        values = self.out_proj(answers.reshape(utterances, windows * queries, -1))
        stats = {"short_utterances": (frames.lengths < self.window).sum()}
        return AdapterOutput(zero_padding(values, out_lengths), out_lengths, stats=stats)

    def spans(self, frames: Frames) -> list[Spans]:
        """Return each position's window; see :meth:`Adapter.spans`."""
        found = []
        counts = self.output_lengths(frames.lengths).tolist()
        for length, count in zip(frames.lengths.tolist(), counts, strict=True):
            starts = torch.arange(count) // len(self.queries) * self.window
            found.append(Spans(starts.float(), (starts + self.window).clamp(max=length).float()))
        return found


def _window(window_seconds: float, window_frames: int | None, frame_rate: float) -> int:
    """Return the frames of a window."""
    if window_frames is not None:
        if window_frames < 1:
            msg = f"`window_frames` must be 1 or more, but is {window_frames}."
            raise UserError(msg)
        return window_frames
    frames = math.floor(window_seconds * frame_rate + 1e-6)  # 0.58 s at 50 Hz are 28.999999999999996 frames
    if frames < 1:
        msg = (
            f"`window_seconds` must hold a frame, but {window_seconds} s at {frame_rate:g} Hz hold none; give "
            f"{1 / frame_rate:g} or more, or `window_frames`."
        )
        raise UserError(msg)
    return frames


def _qformer(layers: int, cross_attention_frequency: int, dim: int, heads: int, dropout: float) -> nn.Module:
    """Return a Q-Former for queries alone: without text embeddings and without the text branch of its layers."""
    from transformers import Blip2QFormerConfig, Blip2QFormerModel

    config = Blip2QFormerConfig(
        num_hidden_layers=layers,
        hidden_size=dim,
        num_attention_heads=heads,
        intermediate_size=4 * dim,
        encoder_hidden_size=dim,
        cross_attention_frequency=cross_attention_frequency,
        hidden_dropout_prob=dropout,
        attention_probs_dropout_prob=dropout,
        use_qformer_text_input=False,
        attn_implementation="sdpa",
    )
    qformer: nn.Module = Blip2QFormerModel(config)
    return qformer
