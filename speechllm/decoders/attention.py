"""Attention of training: causal within each sequence, padded or packed, without a mask where none is needed.

transformers builds masks from a padding mask on the device, and asks the device whether anything is padded. Here the
lengths are known on the CPU. A padded batch needs no padding mask at all: padding stands at the right, where no valid
position looks. A packed batch, whose sequences lie end to end in one row, needs their boundaries.

The function :func:`attend` takes the place of transformers' own as an attention implementation of another name; with no
:class:`Layout` given, as in generation, it calls the one that it replaces.
"""

import importlib.util
import inspect
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from speechllm.batch import to_device
from speechllm.errors import UserError

# Shape legend beyond batch.py: P positions of a row, A attention heads, G key and value heads, D width of a head.

REPLACED = ("sdpa", "eager")
"""Attention implementations of transformers that :func:`attend` can take the place of."""

KERNELS = ("sdpa", "eager", "varlen", "flash_attention_2", "flex_attention")
"""``sdpa``: torch's fused attention; ``eager``: matrix products, for scores that are soft-capped; ``varlen``: torch's
flash attention of packed sequences; ``flash_attention_2``: the same of the package flash-attn, which knows soft caps;
``flex_attention``: torch's compiled attention."""

PREFIX = "speechllm_"


@dataclass
class Layout:
    """How the sequences of a batch lie, and what computes their attention.

    Attributes:
        kernel: One of :data:`KERNELS`.
        lengths: Valid positions of each sequence.
        packed: Whether they lie end to end in one row; otherwise each has a row, padded at the right.
        boundaries: (B + 1,) int32 on the device, where packed sequences begin and the last one ends.
    """

    kernel: str
    lengths: list[int]
    packed: bool
    boundaries: Tensor | None = None
    _masks: dict[tuple[int, int | None], Any] = field(default_factory=dict, repr=False)

    @classmethod
    def of(cls, kernel: str, lengths: list[int], packed: bool, device: torch.device) -> "Layout":
        """Return a layout, its boundaries on ``device`` where its kernel needs them."""
        boundaries = None
        if packed and kernel not in REPLACED:
            ends = torch.tensor([0, *lengths]).cumsum(0).to(torch.int32)
            boundaries = to_device(ends, device)
        return cls(kernel, lengths, packed, boundaries)

    def mask(self, size: int, window: int | None, device: torch.device) -> Tensor | None:
        """Return a mask (size, size) of a sequence, True where a position looks; None where all before it are seen."""
        if window is None or window >= size:
            return None
        if (size, window) not in self._masks:
            places = torch.arange(size, device=device)
            distance = places[:, None] - places
            self._masks[size, window] = (distance >= 0) & (distance < window)
        mask: Tensor = self._masks[size, window]
        return mask

    def block_mask(self, size: int, window: int | None, device: torch.device) -> Any:
        """Return flex attention's mask of a row of ``size`` positions; made once a step and kind of layer."""
        from torch.nn.attention.flex_attention import create_block_mask

        if (size, window) not in self._masks:
            document = None
            if self.boundaries is not None:
                places = torch.arange(size, device=device, dtype=torch.int32)
                document = torch.bucketize(places, self.boundaries[1:], right=True)

            def looks(_batch: Tensor, _head: Tensor, query: Tensor, key: Tensor) -> Tensor:
                seen = query >= key
                if window is not None:
                    seen = seen & (query - key < window)
                return seen if document is None else seen & (document[query] == document[key])

            on_gpu = device.type == "cuda"
            self._masks[size, window] = create_block_mask(looks, None, None, size, size, device, _compile=on_gpu)
        return self._masks[size, window]


def install(llm: Any) -> bool:
    """Put :func:`attend` in the place of a language model's attention; return whether that can be.

    It cannot where attention is not transformers' common one, or knows more than windows and soft caps.
    """
    from transformers import AttentionInterface, AttentionMaskInterface
    from transformers.integrations.sdpa_attention import sdpa_attention_forward
    from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS

    name = llm.config._attn_implementation
    kinds = set(getattr(llm.config, "layer_types", None) or ["full_attention"])
    has_sinks = any(key.endswith("sinks") for key, _ in llm.named_parameters())
    if (
        name not in REPLACED
        or not getattr(llm, "_supports_attention_backend", False)
        or not kinds <= {"full_attention", "sliding_attention"}
        or not getattr(llm.config, "is_causal", True)
        or has_sinks
    ):
        return False
    for replaced in REPLACED:
        AttentionInterface.register(f"{PREFIX}{replaced}", attend)
        AttentionMaskInterface.register(f"{PREFIX}{replaced}", ALL_MASK_ATTENTION_FUNCTIONS[replaced])
    _replaced["sdpa"] = sdpa_attention_forward
    llm.config._attn_implementation = f"{PREFIX}{name}"
    return True


_replaced: dict[str, Callable[..., tuple[Tensor, Tensor | None]]] = {}
"""What :func:`attend` calls without a layout, from :func:`install` on: transformers is slow to import."""


def attend(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    layout: Layout | None = None,
    **options: Any,
) -> tuple[Tensor, None]:
    """Attend, by the layout where there is one.

    Args:
        module: The attention layer, which knows the implementation that was replaced.
        query: (B, A, P, D).
        key: (B, G, P, D).
        value: (B, G, P, D).
        attention_mask: Mask of transformers; of no meaning where there is a layout.
        layout: How the sequences lie; None in generation.
        **options: ``scaling``, ``dropout``, ``sliding_window``, ``softcap`` and what else transformers gives.

    Returns:
        (B, P, A, D), and None in the place of the attention weights.
    """
    if layout is not None:
        return _attend_by_layout(module, query, key, value, layout, options), None
    if module.config._attn_implementation == f"{PREFIX}sdpa":  # type: ignore[union-attr]
        return _replaced["sdpa"](module, query, key, value, attention_mask, **options)[0], None
    scale = _scale(query, options)
    key, value = _repeat(key, query), _repeat(value, query)
    return _eager(query, key, value, attention_mask, scale, options).transpose(1, 2).contiguous(), None


@torch.compiler.disable  # type: ignore[untyped-decorator]
def _attend_by_layout(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, layout: Layout, options: dict[str, Any]
) -> Tensor:
    if unknown := [name for name in ("s_aux", "position_bias") if options.get(name) is not None]:
        msg = f"{type(module).__name__} asks for {', '.join(unknown)}, which training attention does not know."
        raise UserError(msg)
    if query.dtype != value.dtype:  # rotary embeddings in float32 make it so in mixed precision
        query, key = query.to(value.dtype), key.to(value.dtype)
    if layout.kernel not in REPLACED:
        attended = KERNEL_FUNCTIONS[layout.kernel](query, key, value, layout, options)
        return attended.transpose(1, 2).contiguous()
    if not layout.packed:
        return _one_length(query, key, value, layout, options).transpose(1, 2).contiguous()
    queries, keys, values = (torch.split(tensor, layout.lengths, dim=2) for tensor in (query, key, value))
    parts = zip(queries, keys, values, strict=True)
    return torch.cat([_one_length(*part, layout, options).transpose(1, 2) for part in parts], dim=1)


def _one_length(query: Tensor, key: Tensor, value: Tensor, layout: Layout, options: dict[str, Any]) -> Tensor:
    """Attend within sequences of one length, (B, A, P, D) and (B, G, P, D)."""
    size = query.shape[2]
    mask = layout.mask(size, options.get("sliding_window"), query.device)
    scale = _scale(query, options)
    # With a mask, or on a CPU, torch would leave its fused kernels for shared heads.
    shared = query.device.type == "cuda" and mask is None and layout.kernel == "sdpa"
    if not shared:
        key, value = _repeat(key, query), _repeat(value, query)
    if layout.kernel == "sdpa":
        dropout: float = options.get("dropout", 0.0)
        return nn.functional.scaled_dot_product_attention(
            query, key, value, mask, dropout, is_causal=mask is None, scale=scale, enable_gqa=shared
        )
    if mask is None:
        mask = torch.ones(size, size, dtype=torch.bool, device=query.device).tril()
    return _eager(
        query, key, value, torch.zeros_like(mask, dtype=query.dtype).masked_fill(~mask, -torch.inf), scale, options
    )


def _eager(
    query: Tensor, key: Tensor, value: Tensor, bias: Tensor | None, scale: float, options: dict[str, Any]
) -> Tensor:
    """Attend by matrix products; ``bias`` (…, P, keys) is added to the scores once they are capped."""
    scores = query @ key.transpose(2, 3) * scale
    if (cap := options.get("softcap")) is not None:
        scores = torch.tanh(scores / cap) * cap
    if bias is not None:
        scores = scores + bias[..., : key.shape[2]]
    weights = scores.softmax(dim=-1, dtype=torch.promote_types(query.dtype, torch.float32)).to(value.dtype)
    if dropout := options.get("dropout", 0.0):
        weights = nn.functional.dropout(weights, dropout)
    return weights @ value


def _varlen(query: Tensor, key: Tensor, value: Tensor, layout: Layout, options: dict[str, Any]) -> Tensor:
    from torch.nn.attention.varlen import varlen_attn

    window = options.get("sliding_window")
    longest = max(layout.lengths)
    boundaries = layout.boundaries
    assert boundaries is not None
    shared: dict[str, Any] = {"enable_gqa": True} if "enable_gqa" in inspect.signature(varlen_attn).parameters else {}
    if not shared:
        key, value = _repeat(key, query), _repeat(value, query)
    attended = varlen_attn(
        query[0].transpose(0, 1),
        key[0].transpose(0, 1),
        value[0].transpose(0, 1),
        boundaries,
        boundaries,
        longest,
        longest,
        scale=_scale(query, options),
        window_size=(-1 if window is None or window >= longest else window - 1, 0),
        **shared,
    )
    assert isinstance(attended, Tensor)
    return attended.transpose(0, 1)[None]


def _flash(query: Tensor, key: Tensor, value: Tensor, layout: Layout, options: dict[str, Any]) -> Tensor:
    from flash_attn import flash_attn_varlen_func  # type: ignore[import-not-found]

    window = options.get("sliding_window")
    longest = max(layout.lengths)
    attended: Tensor = flash_attn_varlen_func(
        *(tensor[0].transpose(0, 1).contiguous() for tensor in (query, key, value)),
        layout.boundaries,
        layout.boundaries,
        longest,
        longest,
        dropout_p=options.get("dropout", 0.0),
        softmax_scale=_scale(query, options),
        causal=True,
        window_size=(-1 if window is None or window >= longest else window - 1, 0),
        softcap=options.get("softcap") or 0.0,
    )
    return attended.transpose(0, 1)[None]


def _flex(query: Tensor, key: Tensor, value: Tensor, layout: Layout, options: dict[str, Any]) -> Tensor:
    from torch.nn.attention.flex_attention import flex_attention

    mask = layout.block_mask(query.shape[2], options.get("sliding_window"), query.device)

    def capped(score: Tensor, *_: Tensor) -> Tensor:
        limit: float = options["softcap"]
        return torch.tanh(score / limit) * limit

    function: Any = flex_attention
    attention = _compiled(function) if query.device.type == "cuda" else function
    attended: Tensor = attention(
        query,
        key,
        value,
        score_mod=None if options.get("softcap") is None else capped,
        block_mask=mask,
        scale=_scale(query, options),
        enable_gqa=True,
    )
    return attended


_compiled_functions: dict[Any, Any] = {}


def _compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """Return a function compiled once, whatever the number of positions."""
    if function not in _compiled_functions:
        _compiled_functions[function] = torch.compile(function, dynamic=True)
    compiled: Callable[..., Any] = _compiled_functions[function]
    return compiled


KERNEL_FUNCTIONS: dict[str, Callable[..., Tensor]] = {
    "varlen": _varlen,
    "flash_attention_2": _flash,
    "flex_attention": _flex,
}


def _scale(query: Tensor, options: dict[str, Any]) -> float:
    scale = options.get("scaling")
    return query.shape[-1] ** -0.5 if scale is None else float(scale)


def _repeat(values: Tensor, query: Tensor) -> Tensor:
    """Return key or value heads (B, A, P, D), each as often as it has query heads."""
    return values.repeat_interleave(query.shape[1] // values.shape[1], dim=1)


def has_flash_attention() -> bool:
    """Return whether the package flash-attn is installed."""
    return importlib.util.find_spec("flash_attn") is not None
