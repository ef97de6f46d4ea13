"""Adapters: encoder frames in, speech embeddings of the LLM's width out.

A file beside this one that registers an adapter is found by itself.
"""

import importlib
import pkgutil

for _module in pkgutil.iter_modules(__path__, f"{__name__}."):
    importlib.import_module(_module.name)
