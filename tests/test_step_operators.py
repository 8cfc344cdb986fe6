"""What the graphs are made of: standard operators and known shapes only."""

from __future__ import annotations

import onnx
import onnx_ir as ir
import pytest
import torch

from exportloss import YoloLoss
from exportloss.export.aten_to_onnx import to_onnx
from exportloss.export.detector_graph import prepare
from exportloss.export.loss_gradients import loss_with_gradients
from exportloss.export.step_functions import Step
from exportloss.models import yolov5
from tests.tiny_detector import IMAGE, make_detector, make_loss

# Not every runtime has them, they race, or they have a shape or a path that depends on data.
FORBIDDEN = {"Atan", "If", "Loop", "NonZero", "Scan", "ScatterND", "Unique", "Compress"}
TYPES = {
    ir.DataType.FLOAT,
    ir.DataType.INT64,
    ir.DataType.INT32,
    ir.DataType.UINT8,
    ir.DataType.BOOL,
}

LOSSES = {
    "default": {},
    "focal": {"fl_gamma": 1.5},
    "qfocal": {"fl_gamma": 1.5, "criterion": "qfocal"},
    "blur": {"criterion": "blur"},
    "smooth": {"label_smoothing": 0.1, "cls_pw": 2.0, "obj_pw": 0.5},
    "sorted": {"sort_obj_iou": True, "gr": 0.5},
    "autobalance": {"autobalance": True},
}


def check_graph(model: ir.Model) -> None:
    """Everything that a graph for devices must hold to."""
    graph = model.graph
    assert graph.opset_imports == {"": 18}
    assert {node.domain for node in graph} == {""}
    assert not {node.op_type for node in graph} & FORBIDDEN
    values = [*graph.inputs, *graph.initializers.values()]
    for node in graph:
        values.extend(node.outputs)
        if node.op_type == "MaxPool":
            assert len(node.outputs) == 1, "MaxPool gives indices"
    for value in values:
        assert value.dtype in TYPES, (value.name, value.dtype)
        assert value.shape is not None and value.shape.is_static(), value.name
    names = [value.name for value in values]
    assert len(set(names)) == len(names)
    # Shapes that ONNX infers by itself must be those that were written.
    onnx.checker.check_model(ir.to_proto(model), full_check=True)


def train_step(model: torch.nn.Module, loss: YoloLoss, size: int, optimizer: str) -> ir.Model:
    detector = prepare(model, loss, image_size=(size, size), batch_size=1, max_targets=4)
    step = Step(detector, optimizer)  # type: ignore[arg-type]
    return to_onnx(step.train, step.train_example(), modules=step.modules, name="train_step")


def test_step_of_a_small_detector():
    model = make_detector()
    graph = train_step(model, make_loss(), IMAGE, "adamw")
    check_graph(graph)
    names = {node.name for node in graph.graph}
    assert any(name.startswith("fine.0.0/Conv") for name in names), sorted(names)[:20]


def test_evaluation_of_a_small_detector():
    detector = prepare(
        make_detector(), make_loss(), image_size=(IMAGE, IMAGE), batch_size=1, max_targets=4
    )
    step = Step(detector, "sgd")
    graph = to_onnx(
        step.evaluate, step.evaluation_example(), modules=step.modules, name="eval_step"
    )
    check_graph(graph)
    kinds = [node.op_type for node in graph.graph]
    assert "ReduceMean" in kinds  # of the loss
    assert kinds.count("Conv") == 8  # BatchNorm is folded into the convolutions before it


def test_step_of_yolov5n_is_small():
    model = yolov5("yolov5n", 2)
    loss = YoloLoss(model.anchors_px, model.strides, 2)
    graph = train_step(model, loss, 64, "sgd")
    check_graph(graph)
    assert len(ir.to_proto(graph).SerializeToString()) < 2e6


@pytest.mark.parametrize("options", LOSSES.values(), ids=LOSSES.keys())
def test_loss_with_gradients(options: dict[str, object]):
    loss = make_loss(**options)
    check_graph(loss_with_gradients(loss, [(1, 2, 8, 8, 8), (1, 2, 4, 4, 8)], max_targets=3))


def test_loss_of_five_levels():
    levels = 5
    anchors = [[[10.0 * 2**i, 13.0 * 2**i]] for i in range(levels)]
    loss = YoloLoss(anchors, [8 * 2**i for i in range(levels)], 1)
    shapes = [(2, 1, 16 >> i, 16 >> i, 6) for i in range(levels)]
    check_graph(loss_with_gradients(loss, shapes, max_targets=3))
