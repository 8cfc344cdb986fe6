"""The order of a training step's nodes in the file, by which ONNX Runtime keeps little at a time.

A runtime decides itself when a node runs. ONNX Runtime goes from the outputs to what they need, and
of several inputs first to the node that comes last in the file. In the order of a trace it would go
down to the first layer, and keep the gradients of all maps for those of the weights. So a node
stands here as late as its readers allow, and of several the one that should run first comes last.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator, Mapping, Sequence

import onnx
import onnx_ir as ir

__all__ = ["is_late", "order"]

_BACKWARD = ("backward", "optimizer", "ema")

Sources = Mapping[ir.Node, Sequence[ir.Node]]


def order(model: ir.Model) -> None:
    """Sort a training step anew, in place, so that its values live briefly in ONNX Runtime.

    Its nodes should run in the order of the trace, in which the gradient of a weight is next to
    that of its map, and what only the backward pass reads just before it is read.

    Args:
        model: Graph of a training step, sorted, whose nodes are named after their modules.
    """
    graph = model.graph
    nodes = list(graph)
    sources = {node: _sources(node) for node in nodes}
    place = {node: index for index, node in enumerate(_wanted(nodes, sources))}
    readers = dict.fromkeys(nodes, 0)
    for source in (source for node in nodes for source in sources[node]):
        readers[source] += 1
    free = [(place[node], node) for node in nodes if not readers[node]]
    heapq.heapify(free)
    last_first: list[ir.Node] = []
    while free:
        _, node = heapq.heappop(free)
        last_first.append(node)
        for source in sources[node]:
            readers[source] -= 1
            if not readers[source]:
                heapq.heappush(free, (place[source], source))
    graph.remove(nodes)
    graph.extend(reversed(last_first))


def _updates(node: ir.Node) -> bool:
    return (node.name or "").startswith("optimizer/")


def is_late(node: ir.Node | onnx.NodeProto) -> bool:
    """Return whether a node belongs to the backward pass or to the update."""
    parts = (node.name or "").split("/")[:-1]
    return any(part in _BACKWARD for part in parts)


def _wanted(nodes: Sequence[ir.Node], sources: Sources) -> Iterator[ir.Node]:
    """Yield the nodes in the order in which they should run."""
    after_the_loss: set[ir.Node] = set()
    for node in nodes:
        if (node.name or "").startswith("loss/") or not after_the_loss.isdisjoint(sources[node]):
            after_the_loss.add(node)
    done: set[ir.Node] = set()

    def is_next(reader: ir.Node) -> bool:
        """Return whether a node should run as soon as what it waits for is there.

        Another shape of a result costs nothing, and sums of gradients take their place. Not so
        where a result is cut, which the rest of it may still have to wait for.
        """
        if reader in done or reader not in sources:
            return False
        if reader.op_type == "Slice" and sources[reader][0].op_type != "Reshape":
            return False
        if reader.op_type != "Reshape" and not _updates(reader):
            return False
        return all(source in done for source in sources[reader] if source in after_the_loss)

    for node in nodes:
        # Derivatives of activations need no gradient; they are computed when it is there.
        waiting = [(node, False)] if node in after_the_loss or not is_late(node) else []
        while waiting:
            current, is_ready = waiting.pop()
            if current in done:
                continue
            if not is_ready:
                waiting.append((current, True))
                waiting.extend((source, False) for source in sources[current])
                continue
            done.add(current)
            yield current
            if current in after_the_loss:
                uses = [use.node for value in current.outputs for use in value.uses()]
                waiting.extend((reader, False) for reader in reversed(uses) if is_next(reader))
    yield from (node for node in nodes if node not in done)


def _sources(node: ir.Node) -> list[ir.Node]:
    """Return the nodes of the graph whose results a node, or a branch of it, reads."""
    values = list(node.inputs)
    for attribute in node.attributes.values():
        if attribute.type == ir.AttributeType.GRAPH:
            branch = attribute.as_graph()
            values += [value for inner in branch for value in inner.inputs]
    producers = (value.producer() for value in values if value is not None)
    found = dict.fromkeys(source for source in producers if source is not None)
    return [source for source in found if source.graph is node.graph]
