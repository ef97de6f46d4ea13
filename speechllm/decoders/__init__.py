"""Decoders: prompt and speech embeddings in, text out.

A file beside this one that registers a decoder is found by itself.
"""

import importlib
import pkgutil

for _module in pkgutil.iter_modules(__path__, f"{__name__}."):
    importlib.import_module(_module.name)
