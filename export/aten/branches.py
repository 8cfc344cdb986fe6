"""Selections by one condition as a branch that computes only what is selected.

A training step selects between the updated and the old state. Written as `If`, it neither makes a
pass over both nor computes an update that it does not take. Not every engine has `If`, and a GPU's
host waits for its condition.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import onnx_ir as ir

from exportloss.export.aten.nodes import NodeWriter, dtype_of, shape_of

__all__ = ["branch_on_conditions"]

_MANY = 16384  # elements selected by a condition, at least, for a branch to be worth its node


def branch_on_conditions(t: NodeWriter) -> None:
    """Replace large selections by one number with branches, one for all with the same condition.

    The nodes of `t` are then no longer in order.
    """
    groups: dict[int, list[ir.Node]] = {}
    for node in t.nodes:
        condition = node.inputs[0] if node.op_type == "Where" else None
        if condition is not None and math.prod(shape_of(condition)) == 1:
            groups.setdefault(id(condition), []).append(node)
    # The largest comes first, so that a branch may take over selections by another condition.
    for selections in sorted(groups.values(), key=_size, reverse=True):
        left = selections
        while _size(together := _independent(t, left)) >= _MANY:
            _branch(t, together)
            taken = set(map(id, together))
            left = [node for node in left if id(node) not in taken]


def _size(selections: Sequence[ir.Node]) -> int:
    return sum(math.prod(shape_of(node.outputs[0])) for node in selections)


def _independent(t: NodeWriter, selections: Sequence[ir.Node]) -> list[ir.Node]:
    """Return the selections, still in the graph, that depend on no other one of these."""
    wanted, found = set(map(id, selections)), []
    dependent: set[int] = set()  # values
    for node in t.nodes:
        depends = any(id(value) in dependent for value in node.inputs)
        if id(node) in wanted and not depends:
            found.append(node)
        if id(node) in wanted or depends:
            dependent.update(map(id, node.outputs))
    return found


def _branch(t: NodeWriter, selections: Sequence[ir.Node]) -> None:
    sides = {operand: _taken_over(t, selections, operand) for operand in (1, 2)}
    graphs = {operand: _graph(t, selections, operand, sides[operand]) for operand in sides}
    outputs = [_like(node.outputs[0], "branch") for node in selections]
    node = ir.node(
        "If",
        selections[0].inputs[:1],
        {"then_branch": graphs[1], "else_branch": graphs[2]},
        outputs=outputs,
        name=f"{selections[0].name}:branch",
    )
    for selection, output in zip(selections, outputs, strict=True):
        selection.outputs[0].replace_all_uses_with(output)
    gone = set(map(id, (*selections, *sides[1], *sides[2])))
    t.nodes[:] = [n for n in t.nodes if id(n) not in gone]
    t.nodes.append(node)


def _taken_over(t: NodeWriter, selections: Sequence[ir.Node], operand: int) -> list[ir.Node]:
    """Return the nodes whose results only this operand of the selections uses, in order."""
    ends = set(map(id, selections))
    inside: set[int] = set()
    nodes: list[ir.Node] = []
    for node in reversed(t.nodes):  # a node comes after those whose results it uses
        uses = [use for value in node.outputs for use in value.uses()]
        for_operand = all(
            use.idx == operand if id(use.node) in ends else id(use.node) in inside for use in uses
        )
        if uses and for_operand:
            inside.add(id(node))
            nodes.append(node)
    return nodes[::-1]


def _graph(
    t: NodeWriter, selections: Sequence[ir.Node], operand: int, nodes: Sequence[ir.Node]
) -> ir.Graph:
    """Return the branch that computes an operand of each selection, in its full shape."""
    results: list[ir.Value] = []
    ends = []
    for selection in selections:
        value, out = selection.inputs[operand], selection.outputs[0]
        assert value is not None
        selection.replace_input_with(operand, None)
        same = shape_of(value) == shape_of(out)
        # An output of a branch has to be computed in it, and no value can be two outputs.
        if same and value.producer() in nodes and value not in results:
            results.append(value)
            continue
        inputs = [value] if same else [value, t.integers(shape_of(out))]
        results.append(_like(out, str(operand)))
        ends.append(ir.node("Identity" if same else "Expand", inputs, outputs=results[-1:]))
    return ir.Graph([], results, nodes=[*nodes, *ends], name=f"branch_{operand}")


def _like(value: ir.Value, name: str) -> ir.Value:
    return ir.Value(
        name=f"{value.name}:{name}",
        shape=ir.Shape(shape_of(value)),
        type=ir.TensorType(dtype_of(value)),
    )
