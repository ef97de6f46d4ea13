"""Corpora: files on disk in, batches out.

Every datamodule can be imported from here and named in a recipe by its bare name; a file in ``corpora`` that defines
one is found by itself. They are looked up when they are asked for, since they load Lightning.
"""

from typing import Any

from speechllm.errors import did_you_mean


def datamodules() -> dict[str, type[Any]]:
    """Return all datamodules by name."""
    from speechllm.data import corpora, mixture, prepared, sharded  # noqa: F401 (found as subclasses)
    from speechllm.data.base import SpeechDataModule

    found: list[type[Any]] = [SpeechDataModule]
    for parent in found:
        found += [child for child in parent.__subclasses__() if child.__module__.startswith(f"{__name__}.")]
    return {datamodule.__name__: datamodule for datamodule in found}


def __getattr__(name: str) -> Any:
    """Return the datamodule called ``name``."""
    if name == "__all__":
        return sorted(datamodules())
    if not name.endswith(("DataModule", "Datamodule")):
        msg = f"module '{__name__}' has no attribute '{name}'"
        raise AttributeError(msg)
    found = datamodules()
    if name not in found:
        msg = f"No datamodule '{name}' in {__name__}.{did_you_mean(name, found)} There are: {', '.join(sorted(found))}."
        raise AttributeError(msg)
    return found[name]
