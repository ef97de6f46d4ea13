"""Embeddings and output weights of tokens that were added to an LLM's vocabulary (spec §12.4, §14.5)."""

from typing import Any

import torch
from torch import Tensor, nn


def grow_vocabulary(llm: Any, first: int, count: int) -> None:
    """Give an LLM embeddings and output weights for tokens that its tokenizer has got.

    The new rows of both tables are the mean of the old ones, which leaves the probabilities of the old tokens nearly as
    they were; no noise is added, so that weights loaded anew get the same rows again. A table that is larger than the
    vocabulary, as Qwen's, keeps its size.

    Args:
        llm: Hugging Face causal language model, before LoRA is put into it.
        first: Id of the first new token.
        count: Number of new tokens, whose ids follow one another.
    """
    needed = first + count
    if llm.get_input_embeddings().weight.shape[0] < needed:
        llm.resize_token_embeddings(needed, mean_resizing=False)
    with torch.no_grad():
        for layer in (llm.get_input_embeddings(), llm.get_output_embeddings()):
            table = layer.weight
            # Block by block: a float64 copy of Gemma's table would take 6 GB.
            sums = torch.stack([block.double().sum(dim=0) for block in table[:first].split(8192)])
            table[first:needed] = (sums.sum(dim=0) / first).to(table.dtype)


class NewTokens(nn.Module):
    """The rows of new tokens, trained by themselves where the tables that hold them stay frozen.

    The rows move out of the LLM's tables, where zeros take their place, into parameters that hooks on the two layers
    add again. So the LLM keeps its modules and their names, a checkpoint holds a few rows instead of a table, and the
    table may be in any number format. Where input and output share one table, they share the rows.

    Args:
        llm: Hugging Face causal language model whose vocabulary has grown and whose tuning is decided.
        first: Id of the first new token.
        count: Number n of new tokens.

    Attributes:
        input: (n, H) float32, rows of the embedding; None where the embedding itself is trained.
        output: (n, H) float32, rows of the output layer; None where it is trained itself, or shares the embedding's.
    """

    def __init__(self, llm: Any, first: int, count: int) -> None:
        super().__init__()
        self.first, self.count = first, count
        layers = (llm.get_input_embeddings(), llm.get_output_embeddings())
        # LoRA wraps a layer; hooks on the layer inside stay where they are when LoRA is merged.
        embedding, head = (getattr(layer, "base_layer", layer) for layer in layers)
        input_trained, output_trained = (any(p.requires_grad for p in layer.parameters()) for layer in layers)
        self.tied = embedding.weight is head.weight
        if self.tied:
            input_trained = output_trained = input_trained and output_trained
        self.input = None if input_trained else self._move_out(embedding)
        self.output = None if output_trained or self.tied else self._move_out(head)
        self._hooks = []
        if not input_trained:
            self._hooks.append(embedding.register_forward_hook(self._add_embeddings))
        if not output_trained:
            self._hooks.append(head.register_forward_hook(self._add_logits))

    @torch.no_grad()
    def move_back(self, llm: Any) -> None:
        """Write the rows into the LLM's tables again and forget them, before the LLM is saved by itself."""
        tables = (llm.get_input_embeddings().weight, llm.get_output_embeddings().weight)
        rows = (self.input, self.input if self.tied else self.output)
        once = 1 if tables[0] is tables[1] else 2  # merging LoRA gives tied layers tables of their own
        for table, own in list(zip(tables, rows, strict=True))[:once]:
            if own is not None:
                table[self.first : self.first + self.count] += own.to(table.dtype)
        for hook in self._hooks:
            hook.remove()
        self._hooks = []
        self.input = self.output = None

    def _move_out(self, layer: Any) -> nn.Parameter:
        rows = slice(self.first, self.first + self.count)
        parameter = nn.Parameter(layer.weight.detach()[rows].clone().float())
        with torch.no_grad():
            layer.weight[rows] = 0
        return parameter

    def _add_embeddings(self, embedding: nn.Module, inputs: tuple[Tensor], embeddings: Tensor) -> Tensor:
        """Add the rows to the embeddings (…, H) of new tokens, scaled as the embedding scales its own (Gemma)."""
        assert self.input is not None
        places = inputs[0] - self.first
        is_new = (places >= 0) & (places < self.count)
        rows = nn.functional.embedding(places.clamp(0, self.count - 1), self.input)
        rows = (rows * getattr(embedding, "embed_scale", 1)).to(embeddings.dtype)
        return embeddings + rows.masked_fill(~is_new[..., None], 0)

    def _add_logits(self, head: nn.Module, inputs: tuple[Tensor], logits: Tensor) -> Tensor:
        """Add to the logits (…, V) of new tokens, in place: they may be the largest tensor of a step."""
        rows = self.input if self.tied else self.output
        assert rows is not None
        hidden = inputs[0]
        logits[..., self.first : self.first + self.count] += hidden @ rows.to(hidden.dtype).T
        return logits
