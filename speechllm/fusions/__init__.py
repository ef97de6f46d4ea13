"""Fusions: the frames of several encoders become one stream.

A file beside this one that registers a fusion is found by itself.
"""

import importlib
import pkgutil

for _module in pkgutil.iter_modules(__path__, f"{__name__}."):
    importlib.import_module(_module.name)
