"""What the graphs are made of: standard operators and known shapes only."""

from __future__ import annotations

from pathlib import Path

import onnx
import onnx_ir as ir
import pytest
import torch

from exportloss import YoloLoss
from exportloss.export import check, export_loss
from exportloss.export.aten.forms import FORMS
from exportloss.export.aten.to_onnx import to_onnx
from exportloss.export.detector.wrapper import prepare
from exportloss.export.step.functions import Step
from exportloss.models import yolov5
from exportloss.runtime import Manifest
from exportloss.runtime.optimizers.table import OPTIMIZERS, OptimizerName
from tests.support.graphs.on_gpu import assert_runs_on_gpus
from tests.support.graphs.small_losses import LOSSES
from tests.support.tiny_detector import IMAGE, make_detector, make_loss

# Not every runtime has them or computes them rightly, they race, or they have a shape or a path
# that depends on data.
FORBIDDEN = {"Abs", "Atan", "If", "Loop", "NonZero", "Scan", "ScatterND", "Unique", "Compress"}
# Every operator that a loss may use. A new one is a decision: can every runtime run it?
LOSS_OPERATORS = set(
    """Add And Cast Concat Div Equal Exp Expand Floor Gather Greater GreaterOrEqual Identity
    Less LessOrEqual Log Max Min Mul Neg Or Pad Pow Reciprocal ReduceMax ReduceMean ReduceMin
    ReduceSum Relu Reshape ScatterElements Sign Slice Split Sqrt Sub Transpose Where""".split()
)
TYPES = {
    ir.DataType.FLOAT,
    ir.DataType.INT64,
    ir.DataType.INT32,
    ir.DataType.UINT8,
    ir.DataType.BOOL,
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
    remarks = {trouble.name for trouble in check(model, provider="web").troubles}
    assert not {name for name in remarks if "WebGPU lacks" not in name}, remarks
    assert_runs_on_gpus(model)


def train_step(model: torch.nn.Module, loss: YoloLoss, size: int, optimizer: str) -> ir.Model:
    detector = prepare(model, loss, image_size=(size, size), batch_size=1, max_targets=4)
    step = Step(detector, optimizer)  # type: ignore[arg-type]
    return to_onnx(
        step.train,
        step.train_example(),
        modules=step.modules,
        name="train_step",
        forms=FORMS["any"],
    )


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
    assert "Log" in kinds  # of the loss
    assert kinds.count("Conv") == 8  # BatchNorm is folded into the convolutions before it


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_update_alone(optimizer: OptimizerName):
    detector = prepare(
        make_detector(), make_loss(), image_size=(IMAGE, IMAGE), batch_size=1, max_targets=4
    )
    step = Step(detector, optimizer, ema=True)
    check_graph(to_onnx(step.apply, step.apply_example(), modules=step.modules, name="apply_step"))


@pytest.mark.parametrize(("name", "size"), [("yolov5n", 64), ("yolov5n6", 128)])
def test_step_of_yolov5_is_small(name: str, size: int):
    model = yolov5(name, 2)
    loss = YoloLoss(model.anchors_px, model.strides, 2)
    graph = train_step(model, loss, size, "sgd")
    check_graph(graph)
    assert len(ir.to_proto(graph).SerializeToString()) < 2e6


@pytest.mark.parametrize("gradients", [False, True], ids=["alone", "gradients"])
@pytest.mark.parametrize("options", LOSSES.values(), ids=LOSSES.keys())
def test_loss(tmp_path: Path, options: dict[str, object], gradients: bool):
    folder = tmp_path / "loss"
    manifest = export_loss(
        make_loss(**options),
        folder,
        image_size=(64, 32),
        batch_size=1,
        max_targets=3,
        gradients=gradients,
        names=("a", "b", "c"),
    )
    model = ir.load(folder / "loss.onnx")
    check_graph(model)
    assert {node.op_type for node in model.graph} <= LOSS_OPERATORS
    assert any(node.name.startswith("loss/") for node in model.graph)  # as a person reads it
    values = (*model.graph.inputs, *model.graph.outputs)
    shapes = {value.name: value.shape.numpy() for value in values}
    levels = [(1, 2, 8, 4, 8), (1, 2, 4, 2, 8)]
    expected = {f"predictions_{i}": shape for i, shape in enumerate(levels)}
    expected |= {"targets": (3, 6), "balance": (2,), "loss": (), "items": (3,), "new_balance": (2,)}
    if gradients:
        expected |= {f"gradient_{i}": shape for i, shape in enumerate(levels)}
    assert list(shapes.items()) == list(expected.items())
    assert model.metadata_props["names"] == "{0: 'a', 1: 'b', 2: 'c'}"
    assert manifest.gradients is gradients
    assert manifest == Manifest.read(folder)


def test_loss_of_five_levels(tmp_path: Path):
    anchors = [[[10.0 * 2**i, 13.0 * 2**i]] for i in range(5)]
    loss = YoloLoss(anchors, [8 * 2**i for i in range(5)], 1)
    sizes = {"image_size": (128, 128), "batch_size": 2, "max_targets": 3}
    export_loss(loss, tmp_path / "loss", gradients=True, **sizes)
    check_graph(ir.load(tmp_path / "loss" / "loss.onnx"))
