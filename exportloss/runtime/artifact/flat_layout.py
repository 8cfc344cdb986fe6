"""Places of named tensors in the flat vectors of the portable step."""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from exportloss.errors import excerpt
from exportloss.runtime.artifact.limits import MAX_TENSORS
from exportloss.runtime.artifact.manifest_values import integer, text, texts

__all__ = ["FlatLayout", "StateLayout"]

Array = npt.NDArray[np.float32]


@dataclasses.dataclass(frozen=True)
class FlatLayout:
    """Tensors placed one after the other in a vector, each in C order.

    A graph with one vector for all parameters has hundreds of inputs and outputs fewer than a graph
    with an input per parameter, and updates all of them with a few nodes.

    Attributes:
        names: Names of the tensors, in order.
        shapes: Shape of each tensor.
    """

    names: tuple[str, ...] = ()
    shapes: tuple[tuple[int, ...], ...] = ()

    @property
    def sizes(self) -> tuple[int, ...]:
        """Number of elements of each tensor."""
        return tuple(math.prod(shape) for shape in self.shapes)

    @property
    def offsets(self) -> tuple[int, ...]:
        """Element at which each tensor begins."""
        return tuple(itertools.accumulate(self.sizes, initial=0))[:-1]

    @property
    def size(self) -> int:
        """Number of elements of the vector."""
        return sum(self.sizes)

    @property
    def by_name(self) -> dict[str, tuple[int, ...]]:
        """Shapes by name."""
        return dict(zip(self.names, self.shapes, strict=True))

    def split(self, vector: Array) -> dict[str, Array]:
        """Return views of the tensors in a vector, (size,)."""
        parts = np.split(vector, self.offsets[1:]) if self.names else []
        return {
            name: part.reshape(shape)
            for name, part, shape in zip(self.names, parts, self.shapes, strict=True)
        }

    def join(self, tensors: Mapping[str, Array]) -> Array:
        """Copy the tensors into one vector, (size,); others of the mapping are ignored."""
        vector = np.empty(self.size, np.float32)
        for name, offset, size in zip(self.names, self.offsets, self.sizes, strict=True):
            vector[offset : offset + size] = tensors[name].ravel()
        return vector

    def to_values(self) -> list[dict[str, Any]]:
        """Return name, shape and offset (in elements) per tensor, as the manifest holds them."""
        return [
            {"name": name, "shape": list(shape), "offset": offset}
            for name, shape, offset in zip(self.names, self.shapes, self.offsets, strict=True)
        ]

    @classmethod
    def from_values(cls, values: Any) -> FlatLayout:
        """Return the layout of `to_values`.

        Raises:
            KeyError, TypeError, ValueError: an entry is incomplete or has no size, a tensor has two
                entries, or two entries have a gap or overlap between them.
        """
        if not isinstance(values, list) or len(values) > MAX_TENSORS:
            raise ValueError(f"{excerpt(repr(values))}, expected at most {MAX_TENSORS} tensors")
        shapes: dict[str, tuple[int, ...]] = {}
        end = 0
        for entry in values:
            name = text(entry["name"], "name")
            shape = tuple(integer(side, "shape") for side in entry["shape"])
            if name in shapes:
                raise ValueError(f"{name!r} has two places")
            if any(side < 1 for side in shape):
                raise ValueError(f"{name!r} has shape {shape}")
            if (offset := integer(entry["offset"], "offset")) != end:
                raise ValueError(f"{name!r} begins at {offset}, expected {end}")
            shapes[name] = shape
            end += math.prod(shape)
        return cls(tuple(shapes), tuple(shapes.values()))


@dataclasses.dataclass(frozen=True, kw_only=True)
class StateLayout:
    """The flat state of the portable step.

    Attributes:
        parameters: Trainable parameters; gradients and optimizer state have the same layout.
        statistics: BatchNorm statistics; empty if none are trained.
        optimizer_state: Names of the optimizer's state tensors, one vector each.
    """

    parameters: FlatLayout
    statistics: FlatLayout = dataclasses.field(default_factory=FlatLayout)
    optimizer_state: tuple[str, ...] = ()

    def to_values(self) -> dict[str, Any]:
        """Return the layout as the manifest holds it."""
        return {
            "parameters": self.parameters.to_values(),
            "statistics": self.statistics.to_values(),
            "memories": list(self.optimizer_state),
        }

    @classmethod
    def from_values(cls, values: Any) -> StateLayout:
        """Return the layout of `to_values`; errors as for `FlatLayout.from_values`."""
        return cls(
            parameters=FlatLayout.from_values(values["parameters"]),
            statistics=FlatLayout.from_values(values["statistics"]),
            optimizer_state=texts(values["memories"], "memories"),
        )
