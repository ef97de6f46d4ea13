"""Layers of a language model that are computed again in the backward pass, or compiled, under their own names."""

from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from speechllm.errors import UserError


def parse_checkpoint_layers(given: Any) -> int:
    """Return which layers ``checkpoint_layers`` means: every n-th; 0 for none.

    Raises:
        UserError: If it is neither ``none``, ``all`` nor a whole number above 0.
    """
    if given in ("none", None):
        return 0
    if given == "all":
        return 1
    if isinstance(given, bool) or not isinstance(given, int) or given < 1:
        msg = f"`checkpoint_layers` must be none, all, or a number n for every n-th layer, but is {given!r}."
        raise UserError(msg)
    return given


def find_layers(llm: nn.Module) -> list[nn.Module]:
    """Return the repeated layers of a language model of transformers, in order."""
    from transformers.modeling_layers import GradientCheckpointingLayer

    return [module for module in llm.modules() if isinstance(module, GradientCheckpointingLayer)]


def prepare_layers(llm: nn.Module, checkpoint_every: int, compile_layers: bool) -> None:
    """Let layers be computed again in the backward pass, or run compiled in training.

    A layer keeps its place and its names: only its class changes, to one with another ``forward``. Without gradients,
    as in generation, layers run as they were: caches of many shapes would have them compiled over and over.

    Args:
        llm: Language model of transformers.
        checkpoint_every: Every n-th layer keeps its input alone for the backward pass; 0 for none.
        compile_layers: Whether layers are compiled, each kind once, for sequences of any length.
    """
    for index, layer in enumerate(find_layers(llm)):
        again = checkpoint_every > 0 and index % checkpoint_every == 0
        if again or compile_layers:
            layer.__class__ = _training_class(type(layer), again, compile_layers)


_classes: dict[tuple[type, bool, bool], type] = {}


def _training_class(layer_class: type, again: bool, compiled: bool) -> type:
    """Return a subclass of a layer's class that computes again, compiled or both; the same for all layers of it."""
    key = (layer_class, again, compiled)
    if key not in _classes:
        plain: Callable[..., Any] = layer_class.forward  # type: ignore[attr-defined]
        # A function of the class, so that all its layers share what is compiled.
        inner = torch.compile(plain, dynamic=True) if compiled else plain

        def forward(self: nn.Module, *args: Any, **kwargs: Any) -> Any:
            if not torch.is_grad_enabled():
                return plain(self, *args, **kwargs)
            if not again:
                return inner(self, *args, **kwargs)
            dropout = self.training
            return checkpoint(inner, self, *args, use_reentrant=False, preserve_rng_state=dropout, **kwargs)

        _classes[key] = type(layer_class.__name__, (layer_class,), {"forward": forward})
    return _classes[key]
