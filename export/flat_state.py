"""Many named tensors in one flat vector, and where each of them lies."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from exportloss.export.traced_graph import region

__all__ = ["FlatLayout"]


@dataclasses.dataclass(frozen=True)
class FlatLayout:
    """Tensors one after the other in a vector, each in C order.

    A graph with a vector for all parameters has hundreds of inputs and outputs less than one with
    an input a parameter, and updates all of them with a handful of nodes.

    Attributes:
        names: of the tensors, in order.
        shapes: of the tensors.
    """

    names: tuple[str, ...]
    shapes: tuple[tuple[int, ...], ...]

    @classmethod
    def of(cls, tensors: Mapping[str, Tensor], names: Sequence[str]) -> FlatLayout:
        """Lay out the tensors of the given names in that order."""
        return cls(tuple(names), tuple(tuple(tensors[name].shape) for name in names))

    @property
    def sizes(self) -> tuple[int, ...]:
        """Number of elements of each tensor."""
        return tuple(math.prod(shape) for shape in self.shapes)

    @property
    def size(self) -> int:
        """Number of elements of the vector."""
        return sum(self.sizes)

    def flatten(self, tensors: Mapping[str, Tensor]) -> Tensor:
        """Join tensors to a vector, (size,)."""
        if not self.names:
            return torch.zeros(0)
        return torch.cat([tensors[name].reshape(-1) for name in self.names])

    def unflatten(self, vector: Tensor) -> dict[str, Tensor]:
        """Cut a vector, (size,), into its tensors."""
        if not self.names:
            return {}
        tensors = {}
        parts = torch.split(vector, list(self.sizes))
        for name, part, shape in zip(self.names, parts, self.shapes, strict=True):
            with region(name):
                tensors[name] = part.view(shape)
        return tensors

    def describe(self) -> list[dict[str, object]]:
        """Name, shape and offset (in elements) of each tensor, as the manifest holds them."""
        entries: list[dict[str, object]] = []
        offset = 0
        for name, shape, size in zip(self.names, self.shapes, self.sizes, strict=True):
            entries.append({"name": name, "shape": list(shape), "offset": offset})
            offset += size
        return entries
