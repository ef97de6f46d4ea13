"""What a regression checkpoint of COMET holds: settings that are known, tensors that are all accounted for."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from speechllm.errors import UserError
from speechllm.metrics.comet_checkpoint import CometCheckpoint

if TYPE_CHECKING:
    import torch

CLASS = "regression_metric"

DEFAULTS: dict[str, Any] = {
    "encoder_model": "XLM-RoBERTa",
    "layer": "mix",
    "pool": "avg",
    "layer_transformation": "softmax",
    "layer_norm": True,
    "hidden_sizes": [3072, 1024],
    "activations": "Tanh",
    "final_activation": None,
}
"""Settings that scores depend on, as unbabel-comet 2.2.7 has them where a checkpoint does not say."""

ALLOWED: dict[str, tuple[Any, ...]] = {
    "encoder_model": ("XLM-RoBERTa",),
    "layer": ("mix",),
    "pool": ("avg",),
    "layer_transformation": ("softmax", "sparsemax", "sparsemax_patch"),
    "layer_norm": (True, False),
    "activations": ("Tanh", "Sigmoid"),
    "final_activation": (None, "Tanh", "Sigmoid"),
}

UNUSED = re.compile(
    r"encoder\.model\.(embeddings\.(position_ids|token_type_ids)|pooler\.dense\.(weight|bias))"
    r"|layerwise_attention\.dropout_(mask|fill)"
)
"""Tensors that no score depends on: constants, dropout of training, and a pooling layer that COMET does not ask."""


@dataclass(frozen=True)
class RegressionSettings:
    """What makes the shape of a regression model.

    Attributes:
        mix: ``softmax`` or ``sparsemax``: how layers' weights come from their parameters.
        layer_norm: Whether layers are normalized before they are mixed.
        hidden_sizes: Widths of the head's hidden layers.
        activation: Their activation, a class of ``torch.nn``.
        final_activation: Activation of the score, if any.
    """

    mix: str
    layer_norm: bool
    hidden_sizes: tuple[int, ...]
    activation: str
    final_activation: str | None


def check_settings(settings: Mapping[str, Any], where: str) -> RegressionSettings:
    """Return the settings of a regression checkpoint.

    Args:
        settings: Its settings by name; those left out are COMET's defaults.
        where: The checkpoint, for messages.

    Raises:
        UserError: If it is of another class, or has a setting that the native back end does not know.
    """
    name = settings.get("class_identifier", CLASS)
    if name != CLASS:
        msg = (
            f"{where} is a COMET checkpoint of the class '{name}'. The native back end scores those of {CLASS} only, "
            f"such as Unbabel/wmt22-comet-da. `backend: unbabel` runs the others."
        )
        raise UserError(msg)
    known = {key: settings.get(key, default) for key, default in DEFAULTS.items()}
    for key, allowed in ALLOWED.items():
        if known[key] not in allowed:
            shown = ", ".join(map(str, allowed))
            msg = (
                f"{where}: `{key}` of the COMET checkpoint is {known[key]!r}; the native back end knows: {shown}. "
                f"`backend: unbabel` runs the others."
            )
            raise UserError(msg)
    sizes = known["hidden_sizes"]
    if not (isinstance(sizes, list | tuple) and sizes and all(type(size) is int and size > 0 for size in sizes)):
        msg = f"{where}: `hidden_sizes` of the COMET checkpoint must be a list of widths, but is {sizes!r}."
        raise UserError(msg)
    # COMET takes whatever is not sparsemax for softmax; `sparsemax_patch` is its name for models trained like that.
    mix = "sparsemax" if known["layer_transformation"] == "sparsemax" else "softmax"
    return RegressionSettings(
        mix, bool(known["layer_norm"]), tuple(sizes), known["activations"], known["final_activation"]
    )


@dataclass
class RegressionWeights:
    """The tensors of a regression checkpoint, handed out part by part.

    Attributes:
        where: The file, for messages.
        settings: The settings that the weights were trained with.
        layers: (L,) float32, the parameters from which the layers' weights come.
        gamma: (1,) float32, the factor of the mixed layers.
        rest: Tensors that are not handed out yet, by name.
    """

    where: str
    settings: RegressionSettings
    layers: "torch.Tensor"
    gamma: "torch.Tensor"
    rest: "dict[str, torch.Tensor]" = field(repr=False)

    def load(self, module: "torch.nn.Module", name: str) -> None:
        """Give a module its tensors, whose names begin with ``name``.

        Raises:
            UserError: If one is missing, has another shape, or is not of the module.
        """
        prefix = f"{name}."
        own = {key.removeprefix(prefix): self.rest.pop(key) for key in list(self.rest) if key.startswith(prefix)}
        shapes = {key: tuple(tensor.shape) for key, tensor in module.state_dict().items()}
        found = {key: tuple(tensor.shape) for key, tensor in own.items()}
        _refuse(self.where, "lacks", [prefix + key for key in shapes if key not in found])
        _refuse(self.where, "holds unknown", [prefix + key for key in found if key not in shapes])
        wrong = [f"{prefix}{key} {found[key]}, expected {shapes[key]}," for key in shapes if shapes[key] != found[key]]
        _refuse(self.where, "has another shape of", wrong)
        module.load_state_dict(own)

    def refuse_leftovers(self) -> None:
        """Check that no tensor is left.

        Raises:
            UserError: If the checkpoint has tensors that no part of the model has.
        """
        _refuse(self.where, "holds unknown", list(self.rest))


def read_weights(checkpoint: CometCheckpoint, layers: int) -> RegressionWeights:
    """Read a regression checkpoint without executing anything that it holds.

    As in COMET, the settings beside the weights in the file rule; of those in ``hparams.yaml``, the class and the
    transformation ``sparsemax_patch``.

    Args:
        checkpoint: The checkpoint.
        layers: Number of the encoder's layers, its embeddings included.

    Raises:
        UserError: If the file is damaged, is no checkpoint, holds objects other than plain data and tensors, or lacks a
            tensor of the mixing of layers.
    """
    import pickle

    import torch

    path = checkpoint.weights
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        reason = re.split(r"\n|Please file an issue", str(error).partition("WeightsUnpickler error: ")[2] or str(error))
        msg = f"{path} is not read: it is damaged, or holds more than tensors and plain data. {reason[0].strip()}"
        raise UserError(msg) from error
    except (OSError, RuntimeError, EOFError, ValueError) as error:
        msg = f"{path}: the weights cannot be read: {str(error).splitlines()[0]}. Is the file complete?"
        raise UserError(msg) from error
    state = content.get("state_dict") if isinstance(content, dict) else None
    if not isinstance(state, dict) or not all(isinstance(tensor, torch.Tensor) for tensor in state.values()):
        msg = f"{path} is no checkpoint of COMET: it has no `state_dict` of tensors."
        raise UserError(msg)
    stored = content.get("hyper_parameters")
    settings = dict(stored if isinstance(stored, dict) and stored else checkpoint.settings)
    settings["class_identifier"] = checkpoint.settings["class_identifier"]
    if checkpoint.settings.get("layer_transformation") == "sparsemax_patch":
        settings["layer_transformation"] = "sparsemax_patch"
    known = check_settings(settings, str(path))
    rest = {name: tensor.float() for name, tensor in state.items() if not UNUSED.fullmatch(name)}
    names = ["layerwise_attention.gamma"]
    names += [f"layerwise_attention.scalar_parameters.{layer}" for layer in range(layers)]
    _refuse(str(path), "lacks", [name for name in names if name not in rest])
    _refuse(
        str(path),
        "has another shape of",
        [f"{name} {tuple(rest[name].shape)}," for name in names if rest[name].numel() != 1],
    )
    gamma, *scalars = (rest.pop(name).reshape(1) for name in names)
    return RegressionWeights(str(path), known, torch.cat(scalars), gamma, rest)


def _refuse(where: str, what: str, names: list[str]) -> None:
    """Refuse a checkpoint for what is wrong with some of its tensors, if there are any."""
    if names:
        more = f" and {len(names) - 3} more" if len(names) > 3 else ""
        msg = (
            f"The COMET checkpoint {where} {what} {', '.join(names[:3])}{more}: its names do not fit the model, whose "
            f"weights would be random. Check the checkpoint, its hparams.yaml and its encoder."
        )
        raise UserError(msg)
