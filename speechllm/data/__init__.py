"""Corpora: files on disk in, batches out.

A file in ``corpora`` that defines a datamodule is found by itself, and its class can be imported from here and named
in a recipe by its bare name.
"""

import importlib
import pkgutil
from typing import Any

from speechllm.data.base import SpeechDataModule
from speechllm.errors import did_you_mean

for _module in pkgutil.iter_modules(__path__, f"{__name__}."):
    importlib.import_module(_module.name)


def _datamodules() -> dict[str, type[Any]]:
    found: list[type[Any]] = [SpeechDataModule]
    for parent in found:
        found += [child for child in parent.__subclasses__() if child.__module__.startswith(f"{__name__}.")]
    return {datamodule.__name__: datamodule for datamodule in found}


__all__ = sorted(_datamodules())


def __getattr__(name: str) -> Any:
    """Return the datamodule called ``name``."""
    found = _datamodules()
    if name not in found:
        msg = f"No datamodule '{name}' in {__name__}.{did_you_mean(name, found)} There are: {', '.join(sorted(found))}."
        raise AttributeError(msg)
    return found[name]
