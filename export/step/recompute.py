"""Activations that the backward pass computes again instead of keeping (arXiv 1604.06174).

Between the two passes a layer keeps the output of its convolution, its deviation from the mean, and
what BatchNorm, SiLU and Concat made of it. All but one of these are cheap to compute again.

When they are computed depends on the order of the nodes: `exportloss.export.step.order`.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import onnx_ir as ir

from exportloss.errors import ExportError
from exportloss.export.aten.nodes import shape_of
from exportloss.export.step.order import is_late

__all__ = ["MemoryPlan", "recompute"]

_CHEAP = frozenset(
    {"Add", "Mul", "Sigmoid", "Slice", "Concat", "Reshape", "Max", "Relu", "Resize"}
    | {"BatchNormalization"}
)
_MEGABYTE = 1_000_000
_SMALL = 4096  # elements: smaller values are kept, whatever they cost
_SMALL_WEIGHT = 1 << 18  # elements, likewise
_SWAPPED = frozenset({"Add", "Mul", "Max"})


@dataclasses.dataclass(frozen=True, kw_only=True)
class MemoryPlan:
    """What a training step keeps from the forward for the backward pass, in bytes.

    Attributes:
        kept_before: Bytes that it would keep.
        kept: Bytes that it keeps.
        recomputed: Number of activations that are computed again.
        nodes: Nodes that compute them again.
    """

    kept_before: int
    kept: int
    recomputed: int
    nodes: int

    @property
    def about(self) -> str:
        """Description for a user."""
        kept, before = (number / _MEGABYTE for number in (self.kept, self.kept_before))
        return (
            f"activations kept for the backward pass: {kept:.1f} of {before:.1f} MB; "
            f"{self.recomputed} are computed again, by {self.nodes} more nodes"
        )


def recompute(model: ir.Model, budget: int | None = None) -> MemoryPlan:
    """Rewrite a training step, in place, to keep less between the passes.

    The largest activations are computed again first, and only as many as the budget demands. The
    arithmetic stays the same: on an engine that computes node by node, every bit of the results.

    Args:
        model: Graph of a training step, sorted, whose nodes are named after their modules.
        budget: Bytes to keep at most; weights, state and what a single node needs come on top.
            None computes everything again that is cheap.

    Raises:
        ExportError: even with everything cheap computed again, more would be kept.
    """
    graph = model.graph
    nodes = list(graph)
    late = {node for node in nodes if is_late(node)}
    read = [
        value
        for node in nodes
        if node not in late
        for value in node.outputs
        if any(use.node in late for use in value.uses())
    ]
    copies = _Copies(read)
    before = kept = sum(map(_bytes, read))
    for value in sorted(filter(copies.is_cheap, read), key=_bytes, reverse=True):
        if budget is None or kept > budget:
            copies.chosen.add(value)
            kept = sum(map(_bytes, {*read, *copies.sources()} - copies.chosen))
    if budget is not None and kept > budget:
        least = math.ceil(10 * kept / _MEGABYTE) / 10  # rounded up, so that it would do
        raise ExportError(
            f"a step keeps at least {least:.1f} MB of activations, got a budget of "
            f"{budget / _MEGABYTE:g} MB; give more memory, or export for smaller images or batches"
        )
    for value in filter(copies.chosen.__contains__, read):
        copy = copies.of(value)
        for use in [use for use in value.uses() if use.node in late]:
            use.node.replace_input_with(use.idx, copy)
    if copies.nodes:
        if copies.last_axis.uses():
            graph.register_initializer(copies.last_axis)
        graph.insert_before(next(node for node in graph if node in late), copies.nodes)
    return MemoryPlan(
        kept_before=before, kept=kept, recomputed=len(copies.chosen), nodes=len(copies.nodes)
    )


def _is_weight(node: ir.Node) -> bool:
    """Return whether a node cuts a tensor from a flat vector of the state."""
    source = node.inputs[0]
    return node.op_type == "Slice" and source is not None and len(shape_of(source)) == 1


def _bytes(value: ir.Value) -> int:
    assert value.dtype is not None
    return int(math.prod(shape_of(value)) * value.dtype.itemsize)


class _Copies:
    """Copies of cheap nodes, down to values that are kept.

    Attributes:
        chosen: Values to compute again.
        nodes: Copies made so far, in order.
        last_axis: Constant that the copies of slices read.
    """

    def __init__(self, read: Iterable[ir.Value]) -> None:
        self.chosen: set[ir.Value] = set()
        self.nodes: list[ir.Node] = []
        self._read = set(read)
        self._made: dict[ir.Value, ir.Value] = {}
        axis = ir.tensor(np.array([-1], np.int64))
        self.last_axis = ir.Value(name="last_axis", shape=ir.Shape([1]), const_value=axis)
        self.last_axis.dtype = axis.dtype

    def is_cheap(self, value: ir.Value) -> bool:
        """Return whether a value is large, and computed by one pass over its operands.

        Deviations from the mean are kept: all of BatchNorm and SiLU follows from them.
        """
        node = value.producer()
        if node is None or node.op_type not in _CHEAP:
            return False
        source, size = node.inputs[0], math.prod(shape_of(value))
        assert source is not None
        if node.op_type == "Reshape":  # of what is kept it takes no memory
            return self.is_cheap(source)
        return size > (_SMALL_WEIGHT if _is_weight(node) else _SMALL)

    def is_kept(self, value: ir.Value) -> bool:
        """Return whether a copy reads a value instead of computing it again."""
        return not self.is_cheap(value) or (value in self._read and value not in self.chosen)

    def sources(self) -> set[ir.Value]:
        """Return the computed values that copies of the chosen ones read."""
        found: set[ir.Value] = set()
        waiting, seen = list(self.chosen), set(self.chosen)
        while waiting:
            node = waiting.pop().producer()
            assert node is not None
            for value in filter(None, node.inputs):
                if value.producer() is None or value in seen:
                    continue
                seen.add(value)
                if self.is_kept(value):
                    found.add(value)
                else:
                    waiting.append(value)
        return found

    def of(self, value: ir.Value) -> ir.Value:
        """Return the copy of a value, or the value itself if it is kept."""
        if value in self._made:
            return self._made[value]
        node = value.producer()
        if node is None or self.is_kept(value):
            return value
        inputs = [None if x is None else self.of(x) for x in node.inputs]
        if inputs == list(node.inputs):  # a runtime would find out that it is the same
            inputs = self._disguised(node, inputs)
        self._made[value] = self._write(node, inputs, value)
        return self._made[value]

    def _disguised(self, node: ir.Node, inputs: list[ir.Value | None]) -> list[ir.Value | None]:
        if node.op_type in _SWAPPED and len(inputs) == 2:
            return inputs[::-1]
        source = inputs[0]
        assert source is not None
        if node.op_type == "BatchNormalization":  # by an attribute, see `_write`
            return inputs
        if _is_weight(node):
            return [*inputs[:3], self.last_axis]
        return [self._write_like("Max", [source, source], source), *inputs[1:]]

    def _write(self, node: ir.Node, inputs: list[ir.Value | None], value: ir.Value) -> ir.Value:
        attributes = {name: attribute.value for name, attribute in node.attributes.items()}
        if node.op_type == "BatchNormalization":
            attributes["momentum"] = 0.0  # of no effect here, and a disguise as well
        return self._write_like(node.op_type, inputs, value, attributes)

    def _write_like(
        self,
        op_type: str,
        inputs: list[ir.Value | None],
        like: ir.Value,
        attributes: Mapping[str, Any] | None = None,
    ) -> ir.Value:
        name = f"{(like.name or '').rpartition('/')[0]}/again/{op_type}_{len(self.nodes)}"
        out = ir.Value(name=name, shape=like.shape, type=like.type)
        node = ir.node(op_type, inputs, dict(attributes or {}), outputs=[out], name=name)
        self.nodes.append(node)
        return out
