"""Tensor parallelism: the processes of a group share out the matrices of each layer of the language model.

Of attention, each process has some of the heads; of the feed-forward network, some of the hidden units (Shoeybi et al.
2019). The first matrices of such a block are cut by their outputs, the last one by its inputs, so that a block needs
one sum over the group on the way forward, of its output, and one on the way back, of the gradient of its input. All
else is whole on each process and computed by each of them alike: they see the same batches and draw the same random
numbers.

Layers keep the sizes that they stand for (``in_features``, ``out_features``), though their weights are parts.
"""

import random
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from torch.nn import functional as F

from speechllm.errors import UserError

BLOCKS = (
    (("q_proj", "k_proj", "v_proj"), "o_proj"),
    (("gate_proj", "up_proj"), "down_proj"),
    (("query_key_value",), "dense"),  # GPT-NeoX: query, key and value of a head stand together
    (("dense_h_to_4h",), "dense_4h_to_h"),
)
"""Linear layers of a block that are cut by their outputs, and the one that is cut by its inputs."""

FAMILIES = ("gemma", "gemma2", "gpt_neox", "llama", "mistral", "qwen2", "qwen3")
"""Model types whose attention takes the number of heads from what its linear layers give."""

SMALL = 1 << 20
"""Gradients of fewer values are summed over the group in one message."""


class TensorParallel:
    """What a process holds a part of, and the group that shares it.

    Attributes:
        group: The processes' group.
        size: Their number.
        rank: This process's place among them.
        dims: Dimension that a parameter is cut along, by its name in the model.
        partial: Names of the whole parameters whose gradients are sums over the group: each process sees some heads.
    """

    def __init__(self, group: Any, size: int, rank: int) -> None:
        self.group, self.size, self.rank = group, size, rank
        self.dims: dict[str, int] = {}
        self.partial: set[str] = set()

    def part(self, value: Tensor, dim: int) -> Tensor:
        """Return this process's part of a whole tensor."""
        return value.chunk(self.size, dim)[self.rank].contiguous()

    def join(self, part: Tensor, dim: int) -> Tensor:
        """Return the whole tensor; all processes of the group must call this."""
        parts = [torch.empty_like(part) for _ in range(self.size)]
        torch.distributed.all_gather(parts, part.contiguous(), group=self.group)
        return torch.cat(parts, dim)

    @torch.no_grad()
    def complete_gradients(self, model: nn.Module) -> None:
        """Sum gradients over the group; see :func:`complete_gradients`."""
        gradients: list[tuple[Tensor, float]] = []
        for name, parameter in model.named_parameters():
            if parameter.requires_grad and name not in self.dims:
                if parameter.grad is None:
                    parameter.grad = torch.zeros_like(parameter)
                own: Any = parameter.grad
                local: Tensor = own.to_local() if isinstance(own, DTensor) else own
                gradients.append((local, 1.0 if name in self.partial else 1 / self.size))
        for gradient, _ in gradients:
            if gradient.numel() >= SMALL:
                torch.distributed.all_reduce(gradient, group=self.group)
        small = [gradient for gradient, _ in gradients if gradient.numel() < SMALL]
        for dtype in sorted({gradient.dtype for gradient in small}, key=str):
            alike = [gradient for gradient in small if gradient.dtype == dtype]
            joined = torch.cat([gradient.flatten() for gradient in alike])
            torch.distributed.all_reduce(joined, group=self.group)
            sums = torch.split(joined, [gradient.numel() for gradient in alike])
            for gradient, summed in zip(alike, sums, strict=True):
                gradient.copy_(summed.view_as(gradient))
        for gradient, factor in gradients:
            if factor != 1:
                gradient.mul_(factor)

    def draw_alike(self, device: torch.device) -> None:
        """Give all processes of the group the random state of its first one."""
        cuda = torch.cuda.get_rng_state(device) if device.type == "cuda" else None
        states: list[Any] = [torch.get_rng_state(), cuda, np.random.get_state(), random.getstate()]
        torch.distributed.broadcast_object_list(states, group=self.group, group_src=0)
        torch.set_rng_state(states[0])
        if cuda is not None:
            torch.cuda.set_rng_state(states[1], device)
        np.random.set_state(states[2])
        random.setstate(states[3])


def split_layers(model: Any, layers: Sequence[nn.Module], mesh: Any) -> TensorParallel | None:
    """Keep this process's part of the matrices of a language model's layers, in place.

    Args:
        model: The model, with the same weights in all processes.
        layers: Layers of its language model.
        mesh: Mesh of one dimension, the processes that share them out.

    Returns:
        What is split; None where the mesh is a single process.

    Raises:
        UserError: If the layers have no matrices that this knows.
    """
    if mesh.size() == 1:
        return None
    parallel = TensorParallel(mesh.get_group(), mesh.size(), mesh.get_local_rank())
    within = {id(module) for layer in layers for module in layer.modules()}
    for name, block in model.named_modules():
        for by_output, by_input in BLOCKS:
            names = (*by_output, by_input)
            if id(block) in within and all(isinstance(getattr(block, inner, None), nn.Module) for inner in names):
                _split_block(parallel, name, block, by_output, by_input)
    if not parallel.dims:
        msg = (
            f"`tensor_parallel_size: {parallel.size}` finds nothing to share out in the decoder's layers. Leave it "
            f"out: `strategy: fsdp2` alone shares the weights out too."
        )
        raise UserError(msg)
    model.decoder.llm.register_forward_hook(_logits_of_first(parallel))
    return parallel


def complete_gradients(model: nn.Module) -> tuple[set[nn.Parameter], Any]:
    """Sum the gradients that are partial over a group, and let those of whole parameters be the same in it.

    Rounding and the order of sums on a GPU may differ by process; parameters that all have must not drift apart.

    Returns:
        The parameters of which this process holds a part, and the group; none of both without tensor parallelism.
    """
    parallel: TensorParallel | None = getattr(model, "tensor_parallel", None)
    if parallel is None:
        return set(), None
    parallel.complete_gradients(model)
    return {parameter for name, parameter in model.named_parameters() if name in parallel.dims}, parallel.group


def whole_shapes(model: nn.Module) -> dict[str, torch.Size]:
    """Return the shapes of the parameters that are split, as a single process has them, by name."""
    parallel: TensorParallel | None = getattr(model, "tensor_parallel", None)
    shapes: dict[str, torch.Size] = {}
    if parallel is not None:
        for name, value in model.state_dict().items():
            if name in parallel.dims:
                dim = parallel.dims[name]
                shapes[name] = torch.Size(n * (parallel.size if i == dim else 1) for i, n in enumerate(value.shape))
    return shapes


def check_processes(size: Any, processes: int) -> None:
    """Check that processes can be dealt out to groups of ``size``.

    Raises:
        UserError: If they cannot.
    """
    if type(size) is not int or size < 1 or processes % size:
        msg = (
            f"`tensor_parallel_size` must be a whole number of at least 1 that divides the {processes} processes of "
            f"the trainer (`devices` x `num_nodes`), but is {size!r}."
        )
        raise UserError(msg)


def check_decoder(size: int, spec: Mapping[str, Any], kv_cache: str) -> None:
    """Check, before weights are loaded, that a decoder's layers can be shared out among ``size`` processes.

    Args:
        size: Processes of a group.
        spec: The decoder's spec.
        kv_cache: Kind of cache that it decodes with.

    Raises:
        UserError: If they cannot.
    """
    given = f"`tensor_parallel_size: {size}`"
    problem = ""
    if spec.get("tuning") == "qlora":
        problem = "`tuning: qlora`: four-bit weights are not cut up. Use `tuning: lora`, or leave the option out"
    elif spec.get("compile"):
        problem = "`compile: true`: layers that wait for other processes are not compiled. Leave one of the two out"
    elif kv_cache == "static":
        problem = "`kv_cache: static`, whose steps are compiled. Use `kv_cache: dynamic`"
    if problem:
        msg = f"{given} does not go with {problem}."
        raise UserError(msg)
    config = _configuration(spec)
    if config is None:
        return
    if config.model_type not in FAMILIES:
        msg = f"{given} knows the layers of {', '.join(FAMILIES)}, but the language model is '{config.model_type}'."
        raise UserError(msg)
    heads = config.num_attention_heads
    counts = {
        "attention heads": heads,
        "key and value heads": getattr(config, "num_key_value_heads", None) or heads,
        "hidden units": config.intermediate_size,
    }
    wrong = [f"{count} {what}" for what, count in counts.items() if count % size]
    if wrong:
        msg = (
            f"{given} must divide what each layer of the language model has, but not {' and '.join(wrong)}. Choose a "
            f"size that does, or leave it out: `strategy: fsdp2` alone shares the weights out too."
        )
        raise UserError(msg)


def _configuration(spec: Mapping[str, Any]) -> Any:
    """Return the configuration of a decoder's language model; None where building it will say what is wrong."""
    from transformers import CONFIG_MAPPING, AutoConfig

    try:
        if spec.get("pretrained") is not None:
            return AutoConfig.from_pretrained(spec["pretrained"], revision=spec.get("revision"))
        fields = dict(spec.get("config") or {})
        return CONFIG_MAPPING[fields.pop("model_type")](**fields)
    except (OSError, KeyError, TypeError, ValueError):
        return None


def _logits_of_first(parallel: TensorParallel) -> Any:
    """Return a hook that lets a group decode by the logits of its first process: all must choose the same tokens."""

    def take(_llm: nn.Module, _args: Any, output: Any) -> Any:
        if not torch.is_grad_enabled():
            output.logits = output.logits.contiguous()
            torch.distributed.broadcast(output.logits, group=parallel.group, group_src=0)
        return output

    return take


# Blocks


def _split_block(
    parallel: TensorParallel, name: str, block: nn.Module, by_output: Sequence[str], by_input: str
) -> None:
    for inner in by_output:
        layer = block.get_submodule(inner)
        for linear_name, linear in _linears(layer):
            if "lora_A" not in linear_name:
                _split(parallel, _joined(name, inner, linear_name), linear, 0)
    last = block.get_submodule(by_input)
    for linear_name, linear in _linears(last):
        if "lora_B" not in linear_name:
            _split(parallel, _joined(name, by_input, linear_name), linear, 1)
            if linear.bias is not None:
                _add_bias_once(linear, parallel.rank == 0)
    cut = parallel.dims.keys()
    parallel.partial |= {_joined(name, key) for key, _ in block.named_parameters()} - cut

    def enter(_block: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, Any]:
        if args:
            return (_SumBackward.apply(args[0], parallel.group), *args[1:]), kwargs
        return args, {**kwargs, "hidden_states": _SumBackward.apply(kwargs["hidden_states"], parallel.group)}

    def leave(_layer: nn.Module, _args: Any, output: Tensor) -> Any:
        return _SumForward.apply(output, parallel.group)

    block.register_forward_pre_hook(enter, with_kwargs=True)
    last.register_forward_hook(leave)


def _linears(layer: nn.Module) -> list[tuple[str, nn.Linear]]:
    """Return a linear layer, or those that LoRA's layer has, with their names inside."""
    return [(name, inner) for name, inner in layer.named_modules() if isinstance(inner, nn.Linear)]


def _joined(*names: str) -> str:
    return ".".join(filter(None, names))


def _split(parallel: TensorParallel, name: str, linear: nn.Linear, dim: int) -> None:
    for key, parameter in list(linear.named_parameters(recurse=False)):
        if dim < parameter.dim():  # an output's bias is whole where inputs are cut
            part = parallel.part(parameter.detach(), dim).clone()
            setattr(linear, key, nn.Parameter(part, requires_grad=parameter.requires_grad))
            parallel.dims[f"{name}.{key}"] = dim


def _add_bias_once(linear: nn.Linear, first: bool) -> None:
    """Add a bias in the first process of the group alone, as outputs are summed; all have a gradient for it."""

    def forward(x: Tensor) -> Tensor:
        return F.linear(x, linear.weight, linear.bias * float(first))

    linear.forward = forward  # type: ignore[method-assign,assignment]


class _SumForward(torch.autograd.Function):
    """Sum over the group; on the way back, all have the gradient of the sum."""

    @staticmethod
    def forward(ctx: Any, value: Tensor, group: Any) -> Tensor:
        total = value.clone(memory_format=torch.contiguous_format)
        torch.distributed.all_reduce(total, group=group)
        return total

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return gradient, None


class _SumBackward(torch.autograd.Function):
    """Pass a value on that all have; on the way back, sum the gradients over the group."""

    @staticmethod
    def forward(ctx: Any, value: Tensor, group: Any) -> Tensor:
        ctx.group = group
        return value.view_as(value)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        total = gradient.clone(memory_format=torch.contiguous_format)
        torch.distributed.all_reduce(total, group=ctx.group)
        return total, None
