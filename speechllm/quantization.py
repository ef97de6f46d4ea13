"""Four-bit weights: NF4 by bitsandbytes in place of the linear layers of a frozen network (spec §14.4; QLoRA)."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from speechllm.errors import UserError

BLOCK_SIZE = 64
"""Weights that share one float32 scale, the paper's; the scales are not quantised again (no double quantisation)."""

OUTPUT_LAYERS = ("lm_head", "embed_out", "ctc_head")
"""Names of layers that give logits; they stay as they are, as embeddings do (spec §14.5)."""


class NF4Linear(nn.Linear):
    """A linear layer whose weight is held in four bits and is never trained.

    It computes in the format of its input, or of autocast where that is on, as a linear layer does: bfloat16 with
    ``dtype: bfloat16`` or ``precision: bf16-mixed``, float32 on a CPU in float32. Its tensors are ordinary parameters,
    so that they move, save and load as all others do. A checkpoint with the plain ``weight`` loads too, and is
    quantised on the way.

    Args:
        linear: The layer to replace; its bias is taken over.

    Attributes:
        quantized: (in_features · out_features / 2, 1) uint8, two weights a byte.
        absmax_bits: (blocks,) int32, the bits of each block's float32 scale.
    """

    def __init__(self, linear: nn.Linear) -> None:
        super(nn.Linear, self).__init__()  # past nn.Linear's own, which would allocate the weight
        self.in_features, self.out_features = linear.in_features, linear.out_features
        self.bias = linear.bias
        self.weight_dtype = linear.weight.dtype
        quantized, absmax_bits = self._quantize(linear.weight.data)
        # Parameters, since distributed training sends buffers around before every step. Scales as integers, since
        # `Trainer(precision="bf16-true")` would round them.
        self.quantized = nn.Parameter(quantized, requires_grad=False)
        self.absmax_bits = nn.Parameter(absmax_bits, requires_grad=False)
        self._code: Tensor | None = None

    @property
    def weight(self) -> Tensor:  # type: ignore[override]
        """The weight (out_features, in_features) in the format it had, made anew at each access."""
        from bitsandbytes.functional import dequantize_4bit

        # As one row: bitsandbytes 0.50 mixes blocks up on a CPU where they reach over the ends of rows.
        flat: Tensor = dequantize_4bit(self.quantized, self._state((self.out_features * self.in_features,)))
        return flat.reshape(self.out_features, self.in_features)

    def forward(self, x: Tensor) -> Tensor:
        """Map (…, in_features) to (…, out_features)."""
        device = x.device.type
        x = x.to(torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else x.dtype)
        if self.in_features % BLOCK_SIZE:  # see `weight`; the product has the same fault
            # The weight is made again for the gradient rather than kept.
            output: Tensor = checkpoint(self._multiply, x, use_reentrant=False, preserve_rng_state=False)
            return output
        from bitsandbytes import matmul_4bit

        state = self._state((self.out_features, self.in_features))
        output = matmul_4bit(x, self.quantized, state, bias=self._bias(x.dtype))
        return output

    def _multiply(self, x: Tensor) -> Tensor:
        return nn.functional.linear(x, self.weight.to(x.dtype), self._bias(x.dtype))

    def _bias(self, dtype: torch.dtype) -> Tensor | None:
        return None if self.bias is None else self.bias.to(dtype)

    def dequantized(self) -> nn.Linear:
        """Return an ordinary layer with the weights that this one computes with."""
        linear = nn.Linear(self.in_features, self.out_features, bias=False, device="meta")
        linear.weight = nn.Parameter(self.weight, requires_grad=False)
        linear.bias = self.bias
        return linear

    def _state(self, shape: tuple[int, ...]) -> Any:
        from bitsandbytes.functional import QuantState, get_4bit_type

        device = self.quantized.device
        if self._code is None or self._code.device != device:
            self._code = get_4bit_type("nf4", device=device)
        return QuantState(
            absmax=self.absmax_bits.view(torch.float32),
            shape=torch.Size(shape),
            code=self._code,
            blocksize=BLOCK_SIZE,
            quant_type="nf4",
            dtype=self.weight_dtype,
        )

    @staticmethod
    def _quantize(weight: Tensor) -> tuple[Tensor, Tensor]:
        """Return the four-bit weights and the bits of their scales, where the weight was."""
        from bitsandbytes.functional import quantize_4bit

        # One CPU core takes minutes for 7B weights.
        device = torch.device("cuda") if torch.cuda.is_available() else weight.device
        quantized, state = quantize_4bit(weight.to(device).contiguous(), blocksize=BLOCK_SIZE, quant_type="nf4")
        return quantized.to(weight.device), state.absmax.float().view(torch.int32).to(weight.device)

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        if f"{prefix}weight" in state_dict:
            weight = state_dict.pop(f"{prefix}weight").to(self.quantized.device, self.weight_dtype)
            state_dict[f"{prefix}quantized"], state_dict[f"{prefix}absmax_bits"] = self._quantize(weight)
        super()._load_from_state_dict(state_dict, prefix, *args)


def quantize_linears(module: nn.Module) -> None:
    """Replace every linear layer inside by its four-bit form, in place, but for :data:`OUTPUT_LAYERS`.

    Convolutions, norms and embeddings stay as they are.

    Raises:
        UserError: If there is no linear layer to replace.
    """
    linears = hidden_linears(module)
    if not linears:
        msg = (
            f"There is nothing to quantise: `tuning: qlora` holds linear layers in four bits, and "
            f"{type(module).__name__} has none. Use `tuning: lora`, `full` or `frozen`."
        )
        raise UserError(msg)
    for name, layer in linears.items():
        replace_module(module, name, NF4Linear(layer))


def hidden_linears(module: nn.Module) -> dict[str, nn.Linear]:
    """Return the linear layers inside by name, four-bit ones too, but for :data:`OUTPUT_LAYERS`.

    Subclasses of other libraries are left out: what knows of their weight may go around the layer.
    """
    getters = [getattr(part, "get_output_embeddings", None) for part in module.modules()]
    outputs = {id(get()) for get in getters if callable(get)}
    return {
        name: layer
        for name, layer in module.named_modules()
        if type(layer) in (nn.Linear, NF4Linear)
        and id(layer) not in outputs
        and name.rpartition(".")[2] not in OUTPUT_LAYERS
    }


def replace_module(root: nn.Module, name: str, replacement: nn.Module) -> None:
    """Put ``replacement`` where the submodule called ``name`` stands."""
    parent, _, attribute = name.rpartition(".")
    setattr(root.get_submodule(parent), attribute, replacement)


def plain_shapes(module: nn.Module) -> Mapping[str, torch.Size]:
    """Return the shapes of the tensors that ``module`` loads, four-bit weights as the plain weights they stand for."""
    shapes = {key: value.shape for key, value in module.state_dict().items()}
    for name, layer in module.named_modules():
        if isinstance(layer, NF4Linear):
            shapes[f"{name}.weight"] = torch.Size((layer.out_features, layer.in_features))
    return shapes
