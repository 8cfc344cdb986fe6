"""All that a command imports, for processes that fork one again and again."""

from __future__ import annotations

import importlib
import pkgutil

__all__ = ["preload"]

_PACKAGES = ("exportloss.cli", "exportloss.export", "exportloss.runtime")
# What the engine and torch import late, where a graph is first run or traced.
_OTHERS = ("torch._dynamo", "exportloss.__main__")


def preload() -> None:
    """Import what the commands need, engines included."""
    from exportloss.runtime.sessions.installation import import_onnxruntime

    import_onnxruntime()
    for name in _OTHERS:
        importlib.import_module(name)
    for package in map(importlib.import_module, _PACKAGES):
        for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
            importlib.import_module(module.name)
