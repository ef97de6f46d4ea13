"""Encoders out of Hugging Face checkpoints, or with random weights; every mistake is an error that says what to do."""

from collections.abc import Sequence
from typing import Any

import torch

from speechllm.errors import UserError


def check_source(encoder: str, pretrained: str | None, config: dict[str, Any] | None) -> None:
    """Check that an encoder is given either a checkpoint or a configuration for random weights.

    Args:
        encoder: Name of the encoder, for the message.
        pretrained: Checkpoint name or folder.
        config: Fields of the configuration.

    Raises:
        UserError: If it is given both, or neither.
    """
    if (pretrained is None) == (config is None):
        msg = f"The encoder '{encoder}' needs either `pretrained` (a checkpoint) or `config` (random weights)."
        raise UserError(msg)


def load_pretrained(
    model_class: Any,
    pretrained: str,
    revision: str | None,
    dtype: torch.dtype,
    ignored: Sequence[str] = (),
    **options: Any,
) -> tuple[Any, list[str]]:
    """Load the weights of a model that a checkpoint holds, maybe beside others.

    Args:
        model_class: A model class of transformers.
        pretrained: Name on the Hugging Face hub, or a folder.
        revision: Git revision of the checkpoint.
        dtype: Number format of the weights.
        ignored: Patterns of the weights that the checkpoint may have and the model does not.
        options: Further arguments of ``from_pretrained``, fields of the configuration among them.

    Returns:
        The model in evaluation mode, and the keys of the weights that the checkpoint lacks, sorted.

    Raises:
        UserError: If the checkpoint cannot be read or is one of another model.
    """
    from safetensors import SafetensorError
    from transformers import AutoConfig

    expected = model_class.config_class.model_type

    class WithoutTheRest(model_class):  # type: ignore[misc]  # transformers is untyped
        _keys_to_ignore_on_load_unexpected = list(ignored)  # noqa: RUF012  # as transformers declares it

    try:
        given = AutoConfig.from_pretrained(pretrained, revision=revision).model_type
        if given == expected:
            model, info = WithoutTheRest.from_pretrained(
                pretrained, revision=revision, dtype=dtype, output_loading_info=True, **options
            )
            return model, sorted(info["missing_keys"])
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        msg = (
            f"The {expected} checkpoint '{pretrained}' could not be loaded: {error} Give a name on the "
            f"Hugging Face hub or a folder with config.json and model.safetensors."
        )
        raise UserError(msg) from error
    msg = f"'{pretrained}' is a checkpoint of '{given}', but this encoder takes '{expected}'."
    raise UserError(msg)


def refuse_missing(pretrained: str, missing: list[str]) -> None:
    """Refuse a checkpoint that lacks weights, which would stay random.

    Args:
        pretrained: Name or folder of the checkpoint, for the message.
        missing: Keys of the weights that it lacks.

    Raises:
        UserError: If there are any.
    """
    if missing:
        msg = f"The checkpoint '{pretrained}' is incomplete: it lacks {missing[0]} and {len(missing) - 1} more weights."
        raise UserError(msg)
