"""A causal LM that keeps the keys and values of what it has read, so that each token costs one position."""

from functools import cache
from typing import Any

import torch
from torch import Tensor

from speechllm.batch import to_device

STATIC_STEP = 128
"""A static cache has a multiple of this many positions: a compiled step is made anew for every other size."""


class CachedLLM:
    """Sequences that a language model has read, row by row; blocks are read one after the other.

    Each block is left-padded, so that its last position is valid in every row. Padding may stand between blocks: it is
    masked, and positions are counted over valid places only.

    Args:
        llm: Hugging Face causal language model.
        capacity: Most positions that will be read, padding included.
        static: Whether keys and values are written in place into tensors of the full size instead of being appended. On
            a GPU the step is compiled then (CUDA graphs). Rows cannot be selected any more.
    """

    def __init__(self, llm: Any, capacity: int, static: bool = False) -> None:
        from transformers import DynamicCache

        self.llm, self.static = llm, static
        self._capacity = -(-capacity // STATIC_STEP) * STATIC_STEP if static else capacity
        self._cache: Any = _static_cache(llm.config, self._capacity) if static else DynamicCache(config=llm.config)
        self._read = 0
        self._padded = False
        self._mask: Tensor
        self._lengths: Tensor

    @property
    def slides(self) -> bool:
        """Whether a layer attends to a window of the last positions, in which padding would count."""
        return any(self._cache.is_sliding)

    def read(self, embeds: Tensor, mask: Tensor, padded: bool = True) -> Tensor:
        """Read a block and return the logits (R, V) float32 of what comes after it.

        Args:
            embeds: (R, L, H), left-padded.
            mask: (R, L) bool, True where a position is valid.
            padded: Whether any position of the mask may be False.
        """
        if not self._read:
            self._mask = torch.zeros(len(mask), self._capacity, dtype=torch.bool, device=mask.device)
            self._lengths = torch.zeros(len(mask), 1, dtype=torch.int64, device=mask.device)
        counted = self._lengths + mask.long().cumsum(dim=1)
        positions = (counted - 1).clamp(min=0)
        self._grow(mask, counted[:, -1:])
        self._padded = self._padded or padded
        return self._forward(self.llm, inputs_embeds=embeds, position_ids=positions, attention_mask=self._seen())

    def step(self, tokens: Tensor) -> Tensor:
        """Read one token id (R,) a row and return the logits (R, V) float32 of what comes after it."""
        positions = self._lengths
        self._grow(torch.ones_like(tokens, dtype=torch.bool)[:, None], self._lengths + 1)
        llm = self.llm
        if self.static and tokens.device.type == "cuda":
            from transformers import CompileConfig

            llm = self.llm.get_compiled_call(CompileConfig())
        return self._forward(
            llm, input_ids=tokens[:, None], position_ids=positions, attention_mask=self._attention_of_step()
        )

    def select(self, rows: Tensor) -> None:
        """Go on with the given rows (R,) int64, in that order; one may stand there several times."""
        self._cache.reorder_cache(rows)
        self._mask, self._lengths = self._mask[rows], self._lengths[rows]

    def select_listed(self, rows: list[int]) -> None:
        """As :meth:`select`, of rows that the CPU knows."""
        self.select(to_device(torch.tensor(rows), self._mask.device))

    def _grow(self, block: Tensor, lengths: Tensor) -> None:
        size = block.shape[1]
        self._mask[:, self._read : self._read + size] = block
        self._read += size
        self._lengths = lengths

    def _seen(self) -> Tensor:
        return self._mask if self.static else self._mask[:, : self._read]

    def _attention_of_step(self) -> Tensor | None:
        """Return the mask of a single position.

        transformers looks at the values of a (R, L) mask before each step, for which a GPU must have finished the one
        before; a ready (R, 1, 1, L) mask, or none, is taken as it is.
        """
        if not self.llm.config._attn_implementation.endswith("sdpa") or self.slides:
            return self._seen()
        if not self._padded and not self.static:
            return None
        return self._seen()[:, None, None, :]

    def _forward(self, llm: Any, **inputs: Tensor | None) -> Tensor:
        output = llm(**inputs, past_key_values=self._cache, use_cache=True, logits_to_keep=1)
        logits: Tensor = output.logits[:, -1]
        return logits.float()


def _static_cache(config: Any, capacity: int) -> Any:
    return _static_cache_class()(config=config, max_cache_len=capacity)


@cache
def _static_cache_class() -> Any:
    from transformers import StaticCache

    class OneFormatCache(StaticCache):  # type: ignore[misc]
        """Keeps keys in the format of values: rotary embeddings make them float32 in mixed precision."""

        def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> Any:
            return super().update(key_states.to(value_states.dtype), value_states, *args, **kwargs)

    return OneFormatCache
