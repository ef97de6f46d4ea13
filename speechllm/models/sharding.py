"""Fully sharded training (FSDP2): ``strategy: fsdp2`` in a recipe's ``trainer``.

Each GPU holds a share of the weights, of their gradients and of the optimiser's moments. The layers of the language
model, and those of an encoder that are trained, are gathered one by one while they compute; what is left (embeddings,
output layer, adapter) is one more unit. Frozen encoders, which may be skipped where their features are cached, and
four-bit weights, which are small already, stay whole on each GPU.

With tensor parallelism, processes form groups that see the same batches and share out the matrices of the language
model's layers, see :mod:`speechllm.models.tensor_parallel`; what a process of a group holds is shared out among those
of the same place in other groups.
"""

from collections.abc import Mapping
from dataclasses import replace
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import torch
from lightning.pytorch import Trainer
from lightning.pytorch.strategies import DeepSpeedStrategy, FSDPStrategy, ModelParallelStrategy, StrategyRegistry
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard, register_fsdp_forward_method
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.optim import Optimizer

from speechllm.batch import SAMPLE_RATE, Batch
from speechllm.errors import UserError
from speechllm.models.checkpoint import saved_keys
from speechllm.models.gradients import reach
from speechllm.models.tensor_parallel import TensorParallel, check_decoder, check_processes, split_layers
from speechllm.quantization import NF4Linear
from speechllm.tuning import TunableModule

if TYPE_CHECKING:
    from torch.distributed.device_mesh import DeviceMesh


TIMEOUT = timedelta(minutes=30)
"""How long a collective may wait, as Lightning's strategies have it."""


class FSDP2(ModelParallelStrategy):
    """Share a model out among all processes, and write checkpoints as a single process does.

    A checkpoint is one file with whole tensors, of what was trained; one process, DDP and FSDP2 read it alike.
    Validation, tests and predictions gather the whole model on each GPU first: processes then decode as many tokens as
    their utterances need, and no layer is fetched anew for each.

    Args:
        process_group_backend: Backend of the processes' group; NCCL on GPUs, gloo on CPUs where not given.
        timeout: How long a collective may wait.
        tensor_parallel_size: How many processes, neighbours by rank, share out the matrices of each layer of the
            language model; they see the same batches. 1 for none.
    """

    def __init__(
        self,
        process_group_backend: str | None = None,
        timeout: timedelta = TIMEOUT,
        tensor_parallel_size: int = 1,
    ) -> None:
        super().__init__("auto", tensor_parallel_size, False, process_group_backend, timeout)
        self.tensor_parallel_size = tensor_parallel_size
        self._draws_alike = False

    def setup_environment(self) -> None:
        """Start the processes' group and deal it out: the groups of tensor parallelism share the data out.

        Raises:
            UserError: If the number of processes is no multiple of a group.
        """
        processes = self.num_nodes * self.num_processes
        check_processes(self.tensor_parallel_size, processes)
        self._data_parallel_size = processes // self.tensor_parallel_size
        super().setup_environment()

    def setup(self, trainer: Trainer) -> None:
        """Set up model and optimiser; see Lightning."""
        # Weights gathered in inference mode could not be trained on.
        evaluation = (trainer.validate_loop, trainer.test_loop, trainer.fit_loop.epoch_loop.val_loop)
        for loop in (*evaluation, trainer.predict_loop):
            loop.inference_mode = False
        super().setup(trainer)

    def training_step(self, *args: Any, **kwargs: Any) -> Any:
        """Train on a batch; before the first one, and after each validation, groups draw random numbers alike."""
        if not self._draws_alike:
            self._draws_alike = True
            if (parallel := _tensor_parallel(self.lightning_module)) is not None:
                parallel.draw_alike(self.root_device)
        return super().training_step(*args, **kwargs)

    @property
    def lightning_restore_optimizer(self) -> bool:
        """Whether Lightning hands the optimiser's state over, as with other strategies."""
        return True

    def load_checkpoint(self, checkpoint_path: Any, weights_only: bool | None = None) -> dict[str, Any]:
        """Read a checkpoint's file; Lightning hands over what is in it."""
        return super(ModelParallelStrategy, self).load_checkpoint(checkpoint_path, weights_only)

    def lightning_module_state_dict(self) -> dict[str, Any]:
        """Return the whole tensors that a checkpoint holds on the first process, and empty ones on the others."""
        assert self.lightning_module is not None
        model: Any = self.lightning_module
        keys = model.checkpoint_keys()
        state = {key: value for key, value in model.state_dict().items() if key in keys}
        parts = _parts(model)
        return {key: _whole(value, self.is_global_zero, parts.get(key)) for key, value in state.items()}

    def load_model_state_dict(self, checkpoint: Mapping[str, Any], strict: bool = True) -> None:
        """Share a checkpoint's weights out."""
        assert self.lightning_module is not None
        load_state(self.lightning_module, checkpoint["state_dict"])

    def optimizer_state(self, optimizer: Optimizer) -> dict[str, Any]:
        """Return the state of an optimiser as a single process has it, its tensors as those of the weights."""
        state: dict[str, Any] = super(ModelParallelStrategy, self).optimizer_state(optimizer)
        parts = self._parts_of(optimizer)
        moments = {
            number: {
                name: _whole(value, self.is_global_zero, parts[number] if _is_moment(value) else None)
                for name, value in of_one.items()
            }
            for number, of_one in state["state"].items()
        }
        return state | {"state": moments}

    def load_optimizer_state_dict(self, checkpoint: Mapping[str, Any]) -> None:
        """Share the optimisers' states out."""
        for optimizer, state in zip(self.optimizers, checkpoint["optimizer_states"], strict=True):
            parameters, parts = _parameters(optimizer), self._parts_of(optimizer)
            moments = {
                number: {
                    name: _share(value, parameters[number], parts[number]) if _is_moment(value) else value
                    for name, value in of_one.items()
                }
                for number, of_one in state["state"].items()
            }
            optimizer.load_state_dict(state | {"state": moments})

    def _parts_of(self, optimizer: Optimizer) -> "list[Part | None]":
        """Return how each parameter of an optimiser is cut, in its order."""
        assert self.lightning_module is not None
        parts = _parts(self.lightning_module)
        by_id = {id(parameter): parts.get(name) for name, parameter in self.lightning_module.named_parameters()}
        return [by_id[id(parameter)] for parameter in _parameters(optimizer)]

    def on_validation_start(self) -> None:
        """Gather the model."""
        self._draws_alike = False
        gather(self.lightning_module)

    def on_validation_end(self) -> None:
        """Share the model out again."""
        release(self.lightning_module)

    def on_test_start(self) -> None:
        """Gather the model."""
        gather(self.lightning_module)

    def on_predict_start(self) -> None:
        """Gather the model."""
        gather(self.lightning_module)


StrategyRegistry.register("fsdp2", FSDP2, description="Fully sharded data parallel (FSDP2)", override=True)


def check_strategy(strategy: Any) -> None:
    """Check that a model can be shared out as a trainer's strategy wants it.

    Raises:
        UserError: If it cannot.
    """
    others = (ModelParallelStrategy, FSDPStrategy, DeepSpeedStrategy)
    if isinstance(strategy, others) and not isinstance(strategy, FSDP2):
        name = type(strategy).__name__
        msg = (
            f"`strategy: {name}` does not know how to share this model out, nor how to write its checkpoints. Use "
            f"`strategy: fsdp2` for models that do not fit on one GPU, and `strategy: ddp` for all others. Tensor "
            f"parallelism is the option `tensor_parallel_size` of `speechllm.models.sharding.FSDP2`."
        )
        raise UserError(msg)


def check_decoder_shares(strategy: Any, decoder: Mapping[str, Any], kv_cache: str) -> None:
    """Check, before weights are loaded, that a decoder can be shared out as a trainer's strategy wants it.

    Args:
        strategy: The strategy.
        decoder: The decoder's spec.
        kv_cache: Kind of cache that it decodes with.

    Raises:
        UserError: If it cannot.
    """
    if isinstance(strategy, FSDP2) and strategy.tensor_parallel_size > 1:
        check_decoder(strategy.tensor_parallel_size, decoder, kv_cache)


def shard(model: Any, mesh: "DeviceMesh") -> None:
    """Share a model's parameters out over a mesh, in place; gradients are summed in float32.

    Args:
        model: The model, with its parts built, on the CPU; alike in all processes but for what is random.
        mesh: Mesh ``(data_parallel, tensor_parallel)`` of all processes.

    Raises:
        UserError: If weights of several number formats are trained outside of layers.
    """
    device = torch.device("cuda", torch.cuda.current_device()) if mesh.device_type == "cuda" else torch.device("cpu")
    _make_alike(model, device)
    model.tensor_parallel = split_layers(model, find_layers(model.decoder), mesh["tensor_parallel"])
    layers = [*filter(_is_trained, find_layers(model.encoder)), *find_layers(model.decoder)]
    in_layers = {id(p) for layer in layers for p in layer.parameters()}
    whole = {p for p in model.encoder.parameters() if not p.requires_grad and id(p) not in in_layers}
    whole |= {
        p for layer in model.modules() if isinstance(layer, NF4Linear) for p in (layer.quantized, layer.absmax_bits)
    }
    trained = [name for name, p in model.named_parameters() if p.requires_grad and id(p) not in in_layers]
    formats = sorted({str(model.get_parameter(name).dtype).removeprefix("torch.") for name in trained})
    if len(formats) > 1:
        msg = (
            f"`strategy: fsdp2` needs one number format for what is trained of embeddings, output layer and adapter, "
            f"but there are {' and '.join(formats)}. Set `dtype: float32` on the parts with `tuning: full`."
        )
        raise UserError(msg)
    # Autocast, where it is on, sees to the format of what is computed; inputs such as audio must not be rounded.
    options: Any = {
        "mesh": mesh["data_parallel"],
        "mp_policy": MixedPrecisionPolicy(reduce_dtype=torch.float32, cast_forward_inputs=False),
        "ignored_params": whole,
    }
    for layer in layers:
        fully_shard(layer, **options)
    fully_shard(model, reshard_after_forward=False, **options)
    _make_losses_a_forward(model, trained)


def gather(model: Any) -> None:
    """Put the whole model on each GPU, where it stays until :func:`release`; nothing happens where it is not shared."""
    if units := _units(model):
        model.begin_as_root()
    for unit in units:
        unit.set_reshard_after_forward(False, recurse=False)
        unit.unshard()


def release(model: Any) -> None:
    """Keep this process's share alone, and gather layers one by one again."""
    for unit in _units(model):
        unit.set_reshard_after_forward(unit is not model, recurse=False)
        unit.reshard()


def _units(model: nn.Module) -> list[FSDPModule]:
    return [module for module in model.modules() if isinstance(module, FSDPModule)]


def find_layers(module: nn.Module) -> list[nn.Module]:
    """Return the layers of all networks inside: the items of lists called ``layers``."""
    found: list[nn.Module] = []
    for name, inner in module.named_children():
        layers = list(inner.children()) if name == "layers" and isinstance(inner, nn.ModuleList) else []
        if layers and not any(isinstance(layer, TunableModule) for layer in layers):
            found += [layer for layer in layers if any(True for _ in layer.parameters())]
        else:
            found += find_layers(inner)
    return found


def load_state(model: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Load tensors into a model, whether it is shared out or not; keys that ``state`` has not stay as they are."""
    own, parts = model.state_dict(), _parts(model)
    shared = {key: _share(value, own[key], parts.get(key)) if key in own else value for key, value in state.items()}
    model.load_state_dict(shared, strict=False)


def silence(device: torch.device) -> Batch:
    """Return a batch of one second of silence, for a process that has nothing else to take part with."""
    return Batch(
        audio=torch.zeros(1, SAMPLE_RATE, device=device),
        audio_lengths=torch.tensor([SAMPLE_RATE]),
        ids=["silence"],
        tasks=["asr"],
        source_languages=["en"],
        target_languages=["en"],
        transcripts=["a"],
        translations=[""],
        corpora=[""],
        rows=[0],
    )


def _make_losses_a_forward(model: Any, trained: list[str]) -> None:
    """Let the root gather its parameters for :meth:`losses`, and give each of them a gradient in every process.

    A sum of gradients takes part of all processes, also where a head had nothing to learn from in one of them.
    """
    score = model.losses

    def as_tuple(batch: Batch) -> tuple[Tensor, dict[str, Tensor], Any]:
        result = score(batch)
        parameters = dict(model.named_parameters())
        llm = reach(result.llm, [parameters[name] for name in trained], with_zeros=True)
        return llm, result.auxiliary, result

    # FSDP2 takes for the root what is called first, and looks for gradients in tuples.
    model.begin_as_root, model.losses_as_tuple = (lambda: None), as_tuple
    register_fsdp_forward_method(model, "begin_as_root")
    register_fsdp_forward_method(model, "losses_as_tuple")

    def losses(batch: Batch) -> Any:
        llm, auxiliary, result = model.losses_as_tuple(batch)
        return replace(result, llm=llm, auxiliary=auxiliary)

    model.losses = losses


def _make_alike(model: nn.Module, device: torch.device) -> None:
    """Send what no name brings back, such as an adapter that begins at random, from the first process to all."""
    keys = saved_keys(model)
    for key, value in model.state_dict().items():
        if key in keys:
            there = value.detach().to(device)
            torch.distributed.broadcast(there, src=0)
            value.copy_(there)


def _is_trained(module: nn.Module) -> bool:
    return any(parameter.requires_grad for parameter in module.parameters())


Part = tuple[TensorParallel, int]
"""Who shares a tensor out by tensor parallelism, and the dimension that it is cut along."""


def _tensor_parallel(model: Any) -> TensorParallel | None:
    return getattr(model, "tensor_parallel", None)


def _parts(model: nn.Module) -> dict[str, Part]:
    """Return how the tensors are cut that are, by name."""
    parallel = _tensor_parallel(model)
    return {} if parallel is None else {name: (parallel, dim) for name, dim in parallel.dims.items()}


def _parameters(optimizer: Optimizer) -> list[Tensor]:
    return [parameter for group in optimizer.param_groups for parameter in group["params"]]


def _is_moment(value: Any) -> bool:
    """Return whether what an optimiser keeps of a parameter has that parameter's shape, as its step has not."""
    return isinstance(value, Tensor) and value.dim() > 0


def _whole(value: Any, keep: bool, part: Part | None = None) -> Any:
    """Return a whole tensor on the CPU, or an empty one where it is not kept; all processes must call it."""
    if not isinstance(value, DTensor):
        return value.detach().cpu() if isinstance(value, Tensor) else value
    whole: Tensor = value.full_tensor().detach()
    if part is not None:
        parallel, dim = part
        whole = parallel.join(whole, dim)
    return whole.cpu() if keep else torch.empty(0)


def _share(value: Tensor, like: Tensor, part: Part | None = None) -> Tensor:
    """Return this process's share of a tensor that all processes have, where ``like`` is shared out."""
    if not isinstance(like, DTensor):
        return value
    if part is not None:
        parallel, dim = part
        value = parallel.part(value, dim)
    value = value.to(like.device, like.dtype)
    return distribute_tensor(value, like.device_mesh, like.placements, src_data_rank=None)
