"""Fully sharded training (FSDP2): ``strategy: fsdp2`` in a recipe's ``trainer``.

Each GPU holds a share of the weights, of their gradients and of the optimiser's moments. The layers of the language
model, and those of an encoder that are trained, are gathered one by one while they compute; what is left (embeddings,
output layer, adapter) is one more unit. Frozen encoders, which may be skipped where their features are cached, and
four-bit weights, which are small already, stay whole on each GPU.
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
    """

    def __init__(self, process_group_backend: str | None = None, timeout: timedelta = TIMEOUT) -> None:
        super().__init__("auto", 1, False, process_group_backend, timeout)

    def setup_environment(self) -> None:
        """Start the processes' group, all of them sharing the data out."""
        self._data_parallel_size = self.num_nodes * self.num_processes
        super().setup_environment()

    def setup(self, trainer: Trainer) -> None:
        """Set up model and optimiser; see Lightning."""
        # Weights gathered in inference mode could not be trained on.
        evaluation = (trainer.validate_loop, trainer.test_loop, trainer.fit_loop.epoch_loop.val_loop)
        for loop in (*evaluation, trainer.predict_loop):
            loop.inference_mode = False
        super().setup(trainer)

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
        return {key: _whole(value, self.is_global_zero) for key, value in state.items()}

    def load_model_state_dict(self, checkpoint: Mapping[str, Any], strict: bool = True) -> None:
        """Share a checkpoint's weights out."""
        assert self.lightning_module is not None
        load_state(self.lightning_module, checkpoint["state_dict"])

    def optimizer_state(self, optimizer: Optimizer) -> dict[str, Any]:
        """Return the state of an optimiser as a single process has it, its tensors as those of the weights."""
        state: dict[str, Any] = super(ModelParallelStrategy, self).optimizer_state(optimizer)
        moments = {
            number: {name: _whole(value, self.is_global_zero) for name, value in of_one.items()}
            for number, of_one in state["state"].items()
        }
        return state | {"state": moments}

    def load_optimizer_state_dict(self, checkpoint: Mapping[str, Any]) -> None:
        """Share the optimisers' states out."""
        for optimizer, state in zip(self.optimizers, checkpoint["optimizer_states"], strict=True):
            parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
            moments = {
                number: {
                    name: _share(value, parameters[number]) if value.shape == parameters[number].shape else value
                    for name, value in of_one.items()
                }
                for number, of_one in state["state"].items()
            }
            optimizer.load_state_dict(state | {"state": moments})

    def on_validation_start(self) -> None:
        """Gather the model."""
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
            f"parallelism is not supported."
        )
        raise UserError(msg)


def shard(model: Any, mesh: "DeviceMesh") -> None:
    """Share a model's parameters out over a mesh, in place; gradients are summed in float32.

    Args:
        model: The model, with its parts built, on the CPU; alike in all processes but for what is random.
        mesh: Mesh of one dimension over all processes.

    Raises:
        UserError: If weights of several number formats are trained outside of layers.
    """
    device = torch.device("cuda", torch.cuda.current_device()) if mesh.device_type == "cuda" else torch.device("cpu")
    _make_alike(model, device)
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
        "mesh": mesh,
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
    own = model.state_dict()
    shared = {key: _share(value, own[key]) if key in own else value for key, value in state.items()}
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


def _whole(value: Any, keep: bool) -> Any:
    """Return a whole tensor on the CPU, or an empty one where it is not kept; all processes must call it."""
    if not isinstance(value, DTensor):
        return value.detach().cpu() if isinstance(value, Tensor) else value
    whole: Tensor = value.full_tensor().detach()
    return whole.cpu() if keep else torch.empty(0)


def _share(value: Tensor, like: Tensor) -> Tensor:
    """Return this process's share of a tensor that all processes have, where ``like`` is shared out."""
    if not isinstance(like, DTensor):
        return value
    value = value.to(like.device, like.dtype)
    return distribute_tensor(value, like.device_mesh, like.placements, src_data_rank=None)
