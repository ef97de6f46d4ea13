"""Readers of corpora and their datamodules: one file a corpus, named as ``speechllm prepare`` names it."""

import importlib
import pkgutil

for _module in pkgutil.iter_modules(__path__, f"{__name__}."):
    importlib.import_module(_module.name)
