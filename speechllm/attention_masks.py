"""Attention masks of padded batches for networks of transformers, from lengths that the CPU knows.

The library builds such masks itself, but looks at the data first to see whether there is any padding, which makes the
CPU wait for the GPU in every step. Here the lengths say so.
"""

from typing import Any

import torch
from torch import Tensor

from speechllm.batch import has_padding, lengths_to_mask


def attention_mask(config: Any, values: Tensor, lengths: Tensor) -> Any:
    """Return the mask with which every position attends to the valid ones of its own row.

    Args:
        config: Configuration of the network, which says how it computes attention.
        values: (B, N, D) what is attended to.
        lengths: (B,) int64 on the CPU, valid positions, at least 1.

    Returns:
        What that attention takes; None where there is no padding, so that a kernel without masks can be chosen.
    """
    if not has_padding(lengths, values.shape[1]):
        return None
    mask = lengths_to_mask(lengths, values.shape[1], values.device)
    if config._attn_implementation == "sdpa":
        return mask[:, None, None]
    if config._attn_implementation == "eager":
        lowest = torch.finfo(values.dtype).min
        return torch.zeros_like(mask, dtype=values.dtype).masked_fill(~mask, lowest)[:, None, None]
    from transformers.masking_utils import create_bidirectional_mask

    return create_bidirectional_mask(config=config, inputs_embeds=values, attention_mask=mask)
