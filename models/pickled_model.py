"""Modules and tensors of a pickled torch module that was loaded as stand-ins."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from torch import Tensor

from exportloss.errors import ArtifactError
from exportloss.models.torch_file import StandIn

__all__ = ["modules_of", "tensors_of"]

_MAX_MODULES = 10_000  # ten times those of the largest YOLOv5; a crafted file may have a cycle


def modules_of(root: StandIn) -> dict[str, StandIn]:
    """Return all modules by their paths, as `named_modules` does; the path of `root` is "".

    Raises:
        ArtifactError: there are more modules than a detector has.
    """
    found: dict[str, StandIn] = {}
    waiting = [("", root)]
    while waiting:
        path, module = waiting.pop()
        found[path] = module
        if len(found) > _MAX_MODULES:
            raise ArtifactError(f"the model has more than {_MAX_MODULES} modules: it is damaged")
        children = [
            (f"{path}.{name}" if path else f"{name}", child)
            for name, child in _mapping(module, "_modules").items()
            if isinstance(child, StandIn)
        ]
        waiting.extend(reversed(children))
    return found


def tensors_of(modules: Mapping[str, StandIn]) -> dict[str, Tensor]:
    """Return parameters and persistent buffers by their names in the state dict."""
    return {
        f"{path}.{name}" if path else name: tensor
        for path, module in modules.items()
        for name, tensor in _own_tensors(module)
    }


def _own_tensors(module: StandIn) -> Iterator[tuple[str, Tensor]]:
    hidden = module.attributes.get("_non_persistent_buffers_set")
    for kind in ("_parameters", "_buffers"):
        for name, tensor in _mapping(module, kind).items():
            if isinstance(tensor, Tensor) and not (isinstance(hidden, set) and name in hidden):
                yield str(name), tensor


def _mapping(module: StandIn, attribute: str) -> Mapping[Any, Any]:
    value = module.attributes.get(attribute)
    return value if isinstance(value, Mapping) else {}
