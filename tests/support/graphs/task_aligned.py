"""Run the anchor-free loss as a graph of standard operators."""

from __future__ import annotations

import functools

import onnx_ir as ir
import onnxruntime

from exportloss.export.loss.task_aligned import task_aligned_graph
from exportloss.runtime.artifact.manifest import LossProvider
from tests.support.graphs.portable_loss import open_session
from tests.support.task_aligned_cases import TaskAlignedCase, TaskAlignedGraph, TaskAlignedResult


@functools.lru_cache(maxsize=8)
def open_graph(
    graph: TaskAlignedGraph, *, provider: LossProvider, threads: int = 1
) -> onnxruntime.InferenceSession:
    return open_session(_content(graph, provider=provider), threads=threads)


@functools.lru_cache(maxsize=8)
def _content(graph: TaskAlignedGraph, *, provider: LossProvider) -> bytes:
    model = task_aligned_graph(graph.make_loss(), gradients=True, provider=provider, **graph.sizes)
    content: bytes = ir.to_proto(model).SerializeToString()
    return content


def run_graph(
    case: TaskAlignedCase, *, provider: LossProvider, threads: int = 1
) -> TaskAlignedResult:
    session = open_graph(case.graph, provider=provider, threads=threads)
    inputs = {f"predictions_{i}": level for i, level in enumerate(case.maps)}
    names = [output.name for output in session.get_outputs()]
    values = session.run(names, inputs | {"targets": case.padded()})
    found = dict(zip(names, values, strict=True))
    return TaskAlignedResult(
        loss=float(found["loss"]),
        terms=found["items"],
        gradients=tuple(found[name] for name in names if name.startswith("gradient_")),
    )
