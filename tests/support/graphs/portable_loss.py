"""Run graphs of standard operators, among them the loss of golden cases."""

from __future__ import annotations

import functools
import tempfile
from collections.abc import Iterator
from pathlib import Path

import onnx_ir as ir
import onnxruntime

from exportloss.export import export_loss
from exportloss.runtime.artifact.manifest import LossProvider
from tests.support.golden_cases import GoldenCase, LossGraph, StepResult
from tests.support.graphs.on_gpu import assert_runs_on_gpus


def open_session(model: ir.Model | bytes, *, threads: int = 1) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    content = model if isinstance(model, bytes) else ir.to_proto(model).SerializeToString()
    return onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])


@functools.cache
def loss_onnx(graph: LossGraph, *, gradients: bool, provider: LossProvider = "any") -> bytes:
    """Export a loss; return the content of `loss.onnx`."""
    options = {"tiers": (), "gradients": gradients, "provider": provider}
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "artifact"
        export_loss(graph.make_loss(), folder, **options, **graph.sizes)
        if provider != "cpu":
            assert_runs_on_gpus(folder / "loss.onnx", scattered_sums=provider == "any")
        return (folder / "loss.onnx").read_bytes()


@functools.cache
def open_loss(
    graph: LossGraph, *, gradients: bool, threads: int, provider: LossProvider = "any"
) -> onnxruntime.InferenceSession:
    content = loss_onnx(graph, gradients=gradients, provider=provider)
    return open_session(content, threads=threads)


def run_loss_onnx(
    case: GoldenCase, *, gradients: bool, threads: int = 1, provider: LossProvider = "any"
) -> Iterator[StepResult]:
    """Run a golden case through `loss.onnx`."""
    session = open_loss(case.graph, gradients=gradients, threads=threads, provider=provider)
    names = [output.name for output in session.get_outputs()]
    balance = case.initial_balance
    for step in case.steps:
        inputs = {f"predictions_{i}": level for i, level in enumerate(step.predictions)}
        inputs |= {"targets": case.padded(step), "balance": balance}
        values = dict(zip(names, session.run(names, inputs), strict=True))
        balance = values["new_balance"]
        yield StepResult(
            loss=float(values["loss"]),
            items=values["items"],
            gradients=tuple(values[name] for name in names if name.startswith("gradient_")),
            balance=balance,
        )
