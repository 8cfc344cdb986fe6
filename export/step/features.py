"""A training step cut where its frozen layers end: what they compute of an image is kept.

The cut is made in the finished graph, so that both parts together are the whole step, node by node.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import onnx
import onnx_ir as ir

from exportloss.errors import ExportError
from exportloss.export.step.order import is_late

__all__ = ["cut_features"]


def cut_features(model: ir.Model) -> tuple[ir.Model, ir.Model]:
    """Cut a training step into its frozen layers and the rest.

    Args:
        model: Graph of a training step with the input `images`; it is not changed.

    Returns:
        The graph from `images` to `feature_0` and so on, the activations that cross the cut, each
        (B, ...); and the step, which has these as inputs instead of `images`.

    Raises:
        ExportError: the first layers are trained.
    """
    proto = ir.to_proto(model)
    graph = proto.graph
    constants = {tensor.name for tensor in graph.initializer}
    known = {"images"}
    frozen: list[onnx.NodeProto] = []
    rest: list[onnx.NodeProto] = []
    for node in graph.node:
        read = set(_read(node)) - constants
        is_frozen = bool(read) and read <= known and not _is_later(node)
        (frozen if is_frozen else rest).append(node)
        known.update(node.output if is_frozen else ())
    if not any(node.op_type == "Conv" for node in frozen):
        raise ExportError(
            "features are what frozen layers compute, and the first layers are trained; freeze "
            "them, such as with freeze=10, or leave features out"
        )
    batch, made = _dims(_value(graph, "images"))[0], {x for node in frozen for x in node.output}
    crossing = list(dict.fromkeys(x for node in rest for x in _read(node) if x in made))
    kinds = [_value(graph, name) for name in crossing]
    if any("images" in _read(node) for node in rest) or not all(
        _dims(kind)[:1] == [batch] for kind in kinds
    ):
        raise ExportError(
            "the trained layers read the images themselves, or mixtures of several; leave "
            "features out"
        )
    names = {name: f"feature_{index}" for index, name in enumerate(crossing)}
    features = [onnx.ValueInfoProto() for _ in kinds]
    for value, kind in zip(features, kinds, strict=True):
        value.CopyFrom(kind)
        value.name = names[kind.name]
    inputs = [value for value in graph.input if value.name != "images"]
    first, step = (_part(proto, nodes, names) for nodes in (frozen, rest))
    _declare(first, "features", [_value(graph, "images")], features)
    _declare(step, "train_features", [*features, *inputs], graph.output)
    return ir.from_proto(first), ir.from_proto(step)


def _is_later(node: onnx.NodeProto) -> bool:
    return is_late(node) or "loss" in node.name.split("/")[:-1]


def _read(node: onnx.NodeProto) -> list[str]:
    """Return the names of the values that a node or a branch of it reads, in order."""
    found = [name for name in node.input if name]
    for attribute in node.attribute:
        branch = attribute.g.node
        made = {name for inner in branch for name in inner.output}
        found += [name for inner in branch for name in _read(inner) if name not in made]
    return found


def _value(graph: onnx.GraphProto, name: str) -> onnx.ValueInfoProto:
    found: onnx.ValueInfoProto = next(
        value for value in (*graph.input, *graph.value_info) if value.name == name
    )
    return found


def _dims(value: onnx.ValueInfoProto) -> list[int]:
    return [dim.dim_value for dim in value.type.tensor_type.shape.dim]


def _part(
    proto: onnx.ModelProto, nodes: list[onnx.NodeProto], names: Mapping[str, str]
) -> onnx.ModelProto:
    """Return a model of some of the nodes, with values renamed, without inputs and outputs."""
    part = onnx.ModelProto()
    part.CopyFrom(proto)
    graph = part.graph
    for field in ("node", "input", "output", "initializer", "value_info"):
        graph.ClearField(field)
    graph.node.extend(nodes)
    for node in graph.node:
        for values in (node.input, node.output):
            values[:] = [names.get(value, value) for value in values]
    used = {value for node in nodes for value in (*_read(node), *node.output)}
    graph.initializer.extend(t for t in proto.graph.initializer if t.name in used)
    graph.value_info.extend(
        v for v in proto.graph.value_info if v.name in used and v.name not in names
    )
    return part


def _declare(
    model: onnx.ModelProto,
    name: str,
    inputs: Iterable[onnx.ValueInfoProto],
    outputs: Iterable[onnx.ValueInfoProto],
) -> None:
    model.graph.name = name
    model.graph.input.extend(inputs)
    model.graph.output.extend(outputs)
