"""The anchor-free loss as graphs: what they are made of, their sizes, and both forms."""

from __future__ import annotations

import dataclasses

import numpy as np
import onnx_ir as ir
import pytest

from exportloss import ExportError, TaskAlignedConfig, TaskAlignedLoss
from exportloss.export.loss.task_aligned import task_aligned_graph, task_aligned_graphs
from tests.export.step.test_operators import check_graph
from tests.support.graphs.portable_loss import open_session
from tests.support.graphs.task_aligned import run_graph
from tests.support.messages import mentions
from tests.support.task_aligned_cases import draw_case, run_static

SIZES = {"image_size": (64, 32), "batch_size": 2, "max_targets": 5}
# Every operator that the graphs may use. A new one is a decision: can every runtime run it?
OPERATORS = set(
    """Add And ArgMax Cast Concat Div Equal Exp Expand Gather GatherElements Greater GreaterOrEqual
    Identity Less LessOrEqual Log MatMul Max Min Mul Neg Not Or Pad ReduceMax ReduceMean ReduceMin
    ReduceSum Relu Reshape ScatterElements Slice Split Sqrt Sub Transpose Where""".split()
)
OPTIONS = {
    "plain": {},
    "one-to-one": {"topk": 7, "topk2": 1, "profile": "8.3"},
    "l1": {"reg_max": 1},
    "yolov9": {"profile": "yolov9"},
}


def make_loss(**options) -> TaskAlignedLoss:
    return TaskAlignedLoss((8, 16), 3, TaskAlignedConfig(**options))


@pytest.mark.parametrize(
    ("options", "provider"),
    [(name, "any") for name in OPTIONS] + [("plain", "gpu"), ("yolov9", "gpu")],
)
def test_operators(options, provider):
    loss = make_loss(**OPTIONS[options])
    graph = task_aligned_graph(loss, gradients=True, provider=provider, **SIZES)
    check_graph(graph)
    assert {node.op_type for node in graph.graph} <= OPERATORS
    scatters = [n.attributes["reduction"].value for n in graph.graph if n.op_type[:7] == "Scatter"]
    assert set(scatters) == {"none"}  # sums in the order of writing, and TensorRT refuses them
    assert any(node.name.startswith("loss/") for node in graph.graph)


def test_top_k_is_for_the_cpu_provider_alone():
    graph = task_aligned_graph(make_loss(), provider="cpu", **SIZES)
    kinds = [node.op_type for node in graph.graph]
    assert kinds.count("TopK") == 1
    assert {node for node in kinds if node not in OPERATORS} == {"TopK"}


def test_signature():
    model = task_aligned_graph(make_loss(), gradients=True, **SIZES)
    assert len(ir.to_proto(model).SerializeToString()) < 3e5
    graph = model.graph
    maps = {"0": (2, 67, 8, 4), "1": (2, 67, 4, 2)}
    inputs = {value.name: tuple(value.shape) for value in graph.inputs}
    outputs = {value.name: tuple(value.shape) for value in graph.outputs}
    assert inputs == {f"predictions_{i}": s for i, s in maps.items()} | {"targets": (5, 6)}
    assert outputs == {"loss": (), "items": (3,)} | {f"gradient_{i}": s for i, s in maps.items()}


@pytest.mark.parametrize("seed", [0, 9, 18])
def test_the_form_for_gpus_gives_the_same(seed):  # golden values decide about the others
    case = draw_case(seed)
    want, got = run_static(case), run_graph(case, provider="gpu")
    assert got.loss == pytest.approx(want.loss, rel=1e-5)
    for one, other in zip(got.gradients, want.gradients, strict=True):
        assert np.linalg.norm(one - other) <= 1e-5 * np.linalg.norm(other)


def test_size_buckets_give_the_same_loss():
    case = draw_case(4)
    sizes = {name: value for name, value in case.graph.sizes.items() if name != "max_targets"}
    graphs = task_aligned_graphs(case.graph.make_loss(), max_targets=100, tiers=(60,), **sizes)
    assert list(graphs) == [60, 100]
    inputs = {f"predictions_{i}": level for i, level in enumerate(case.maps)}
    losses = []
    for rows, graph in graphs.items():
        with_rows = dataclasses.replace(
            case, graph=dataclasses.replace(case.graph, max_targets=rows)
        )
        session = open_session(graph)
        losses.append(session.run(["loss"], inputs | {"targets": with_rows.padded()})[0])
    np.testing.assert_allclose(losses, losses[0], rtol=1e-6)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"image_size": (64, 40)}, ((64, 40), 16)),
        ({"image_size": (0, 32)}, ((0, 32), 16)),
        ({"batch_size": 0}, ("batch_size", 0)),
        ({"max_targets": 0}, ("max_targets", 0)),
        ({"tiers": (3, 2)}, ("tiers", (3, 2))),
        ({"tiers": (5,)}, ("tiers", (5,), 5)),
    ],
)
def test_sizes_that_cannot_be_are_refused_before_anything_is_traced(change, told, monkeypatch):
    monkeypatch.setattr("exportloss.export.loss.task_aligned.to_onnx", None)
    with pytest.raises(ExportError, match=mentions(*told)):
        task_aligned_graphs(make_loss(), **SIZES | change)
