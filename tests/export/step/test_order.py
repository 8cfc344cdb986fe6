"""The order of a step's nodes: the same results, and few maps at a time in ONNX Runtime."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import onnx_ir as ir
import pytest

from exportloss.export.aten.forms import FORMS
from exportloss.export.aten.to_onnx import to_onnx
from exportloss.export.detector.wrapper import prepare
from exportloss.export.step.functions import Step
from exportloss.export.step.order import order
from exportloss.export.step.recompute import recompute
from exportloss.runtime.artifact.manifest import StepProvider
from tests.support.graphs.portable_loss import open_session
from tests.support.tiny_detector import IMAGE, make_batch, make_detector, make_loss


def traced(provider: StepProvider) -> tuple[Step, ir.Model]:
    size = {"image_size": (2 * IMAGE, 2 * IMAGE), "batch_size": 2, "max_targets": 8}
    step = Step(prepare(make_detector(), make_loss(), **size), "sgd")
    example = step.train_example()
    forms = FORMS[provider]
    model = to_onnx(step.train, example, modules=step.modules, name="train_step", forms=forms)
    return step, model


def in_order_of_onnx_runtime(model: ir.Model) -> Iterator[ir.Node]:
    """The nodes as ONNX Runtime visits them: from outputs to inputs, the last in the file first."""
    place = {node: index for index, node in enumerate(model.graph)}
    ends = [value.producer() for value in model.graph.outputs]
    waiting = [(node, False) for node in sorted(ends, key=place.__getitem__)]
    done = set()
    while waiting:
        node, is_ready = waiting.pop()
        if node in done:
            continue
        if is_ready:
            done.add(node)
            yield node
            continue
        sources = {value.producer() for value in node.inputs if value is not None} - {None}
        waiting += [(node, True), *((s, False) for s in sorted(sources, key=place.__getitem__))]


def outputs(step: Step, model: ir.Model) -> list[np.ndarray]:
    images, targets = make_batch(0)
    feed = {name: np.asarray(value) for name, value in step.train_example().items()}
    feed["images"], feed["targets"] = np.tile(images.numpy(), (1, 1, 2, 2)), targets.numpy()
    feed["learning_rates"] = np.full(3, 0.1, np.float32)
    return open_session(model).run(None, feed)


@pytest.mark.parametrize("provider", ["any", "cpu"])
def test_the_results_stay_and_the_file_stays_sorted(provider: StepProvider):
    step, model = traced(provider)
    before = outputs(step, model)
    count = len(list(model.graph))
    recompute(model)
    order(model)
    place = {node: index for index, node in enumerate(model.graph)}
    assert len(place) >= count
    for node, index in place.items():
        sources = {value.producer() for value in node.inputs if value is not None} - {None}
        assert all(place[source] < index for source in sources)
    for got, wanted in zip(outputs(step, model), before, strict=True):
        np.testing.assert_allclose(got, wanted, rtol=1e-4, atol=1e-6)


def chain(layers: int) -> ir.Model:
    """A step of layers that square a map, with the gradients of their factors joined last."""
    graph = ir.val("images", shape=[4, 4], type=ir.TensorType(ir.DataType.FLOAT))
    nodes: list[ir.Node] = []

    def add(op_type: str, inputs: list[ir.Value], name: str) -> ir.Value:
        nodes.append(ir.node(op_type, inputs, name=f"{name}/{op_type}_{len(nodes)}"))
        return nodes[-1].outputs[0]

    maps = [graph]
    for i in range(layers):
        maps.append(add("Mul", [maps[-1], maps[-1]], f"layer.{i}"))
    gradient = add("Neg", [maps[-1]], "loss")
    weights = []
    for i in reversed(range(layers)):
        weights.append(add("MatMul", [gradient, maps[i]], f"layer.{i}/backward/weight"))
        slope = add("Add", [maps[i], maps[i]], f"layer.{i}/backward/slope")
        gradient = add("Mul", [gradient, slope], f"layer.{i}/backward/map")
    del nodes[-2:]  # nothing reads the gradient of the images
    flat = [add("Reshape", [weight], "layer.0/backward") for weight in reversed(weights)]
    new = add("Concat", flat, "optimizer")
    return ir.Model(ir.Graph([graph], [new], nodes=nodes, name="train_step"), ir_version=8)


def test_a_weights_gradient_runs_when_its_maps_is_there():
    model = chain(4)
    order(model)
    runs = [node.name.split("_")[0] for node in in_order_of_onnx_runtime(model)]
    late = [name for name in runs if "/backward/" in name and "Reshape" not in name]
    per_layer = ("weight/MatMul", "slope/Add", "map/Mul")
    wanted = [f"layer.{i}/backward/{what}" for i in (3, 2, 1, 0) for what in per_layer]
    assert late == wanted[:-2]


def test_the_order_of_a_graph_is_the_same_every_time():
    (_, one), (_, other) = traced("any"), traced("any")
    for model in (one, other):
        recompute(model)
        order(model)
    assert ir.to_proto(one).SerializeToString() == ir.to_proto(other).SerializeToString()
