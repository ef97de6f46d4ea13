"""Configurations of networks with random weights, as recipes give them; a mistake is an error that says what to do."""

from collections.abc import Callable
from typing import Any

from speechllm.errors import UserError, did_you_mean

OLDER_NAMES = ("rope_theta", "rope_scaling")
"""Fields that configurations take although they hold them under another name."""


def random_config(config_class: Any, fields: dict[str, Any]) -> Any:
    """Return a configuration with ``fields`` and the defaults of ``config_class``.

    Args:
        config_class: A configuration class of transformers.
        fields: Fields that differ from its defaults.

    Raises:
        UserError: If the class has no such field, or does not take a field's value.
    """
    from huggingface_hub.errors import StrictDataclassError

    allowed = {*config_class().to_dict(), *config_class.attribute_map, *OLDER_NAMES}
    unknown = [key for key in fields if key not in allowed]
    if unknown:
        msg = f"{config_class.__name__} has no field '{unknown[0]}'.{did_you_mean(unknown[0], allowed)}"
        raise UserError(msg)
    try:
        return config_class(**fields)
    except (StrictDataclassError, TypeError, ValueError) as error:
        msg = f"{config_class.__name__} does not take these values: {error}"
        raise UserError(msg) from error


def random_network(build: Callable[[Any], Any], config: Any) -> Any:
    """Return the network that ``build`` makes of a configuration.

    Raises:
        UserError: If the values of the configuration do not go together.
    """
    try:
        return build(config)
    except (AssertionError, TypeError, ValueError, ZeroDivisionError) as error:
        msg = f"The values of this {type(config).__name__} do not go together: {error}"
        raise UserError(msg) from error
