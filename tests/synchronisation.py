"""Sees whether a step asks a GPU for anything, where there is none.

Two ways, which see different things. On the ``meta`` device tensors have shapes but no data, so that a step that looks
at data, or that mixes devices, raises. And :class:`Synchronisations` follows a real step on the CPU: it marks what
would be on the GPU, and counts what would make the CPU wait for it.
"""

import contextlib
import sys
from unittest.mock import patch

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

import speechllm.batch

WAITING = {
    "_local_scalar_dense",  # .item(), int(), float(), bool(), .tolist() of one number
    "_unique2",
    "allclose",
    "bincount",
    "equal",
    "is_nonzero",
    "masked_select",
    "nonzero",
    "repeat_interleave",  # with repeats in a tensor
    "unique_consecutive",
    "unique_dim",
}
"""Operations whose result, or the size of it, the CPU has to ask for."""

MODULES = ("speechllm.batch", "speechllm.adapters", "speechllm.encoders", "speechllm.decoders", "speechllm.models")


class Synchronisations(TorchDispatchMode):
    """Counts what would make the CPU wait for the GPU while a step runs on the CPU.

    The GPU's are the tensors given here, what :func:`speechllm.batch.to_device` brings there, and whatever is computed
    from these. Lists (``.tolist()``) and NumPy arrays do not pass through operations; they are watched by name.

    Args:
        tensors: Parameters, buffers, audio: what a GPU would hold.

    Attributes:
        found: Name of each operation that waits, in order; ``to_host`` is the one that is allowed.
    """

    def __init__(self, tensors):
        super().__init__()
        self.found = []
        self._kept = []  # storages stay alive, so that no address is given twice
        self._on_gpu = set()
        for tensor in tensors:
            self._mark(tensor)
        self._patches = contextlib.ExitStack()

    def __enter__(self):
        for name in ("tolist", "numpy", "cpu"):
            original = getattr(Tensor, name)
            self._patches.enter_context(patch.object(Tensor, name, self._watch(name, original)))
        for module in _modules():
            if hasattr(module, "to_device"):
                self._patches.enter_context(patch.object(module, "to_device", self._to_device))
            if hasattr(module, "to_host"):
                self._patches.enter_context(patch.object(module, "to_host", self._to_host))
        return super().__enter__()

    def __exit__(self, *error):
        self._patches.close()
        return super().__exit__(*error)

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        inputs = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        of_gpu = any(map(self._is_on_gpu, inputs))
        name = func.overloadpacket.__name__
        if of_gpu and (name in WAITING or self._index_waits(name, args)):
            self.found.append(name)
        result = func(*args, **kwargs)
        if of_gpu:
            for leaf in tree_leaves(result):
                if isinstance(leaf, Tensor):
                    self._mark(leaf)
        return result

    def _index_waits(self, name, args):
        """Return whether this indexes with a mask, whose size must be asked for, or with what is brought up for it."""
        if name not in ("index", "index_put", "index_put_", "_index_put_impl_"):
            return False
        indices = [index for index in args[1] if index is not None]
        return any(index.dtype == torch.bool or not self._is_on_gpu(index) for index in indices)

    def _watch(self, name, original):
        def watched(tensor, *args, **kwargs):
            if self._is_on_gpu(tensor):
                self.found.append(name)
            return original(tensor, *args, **kwargs)

        return watched

    def _to_device(self, host, device):
        copy = host.clone()
        self._mark(copy)
        return copy

    def _to_host(self, values):
        self.found.append("to_host")
        with torch.utils._python_dispatch._disable_current_modes():
            return values.detach().clone()

    def _mark(self, tensor):
        storage = tensor.untyped_storage()
        if storage._cdata not in self._on_gpu:
            self._on_gpu.add(storage._cdata)
            self._kept.append(storage)

    def _is_on_gpu(self, tensor):
        return tensor.untyped_storage()._cdata in self._on_gpu


def _modules():
    return [module for name, module in list(sys.modules.items()) if name.startswith(MODULES)]


def without_data(monkeypatch, runs=3):
    """Let a step run on the ``meta`` device: the CTC loss has no kernel there, and counts of runs are made up."""
    import speechllm.adapters.runs

    def ctc_loss(log_probs, targets, input_lengths, target_lengths, *options, **named):
        assert input_lengths.device.type == target_lengths.device.type == "cpu"
        assert targets.device == log_probs.device
        return log_probs.sum(dim=(0, 2))

    monkeypatch.setattr(torch.nn.functional, "ctc_loss", ctc_loss)
    made_up = []

    def to_host(values):
        assert values.device.type == "meta"
        made_up.append(values.shape)
        return torch.full(values.shape, runs)

    monkeypatch.setattr(speechllm.adapters.runs, "to_host", to_host)
    return made_up


def lengths_on_the_cpu(*parts):
    """Check the contract of what parts give each other."""
    for part in parts:
        assert part.lengths.device.type == "cpu"
        assert part.lengths.dtype == torch.int64
        assert part.values.device == speechllm.batch.to_device(part.lengths, part.values.device).device
