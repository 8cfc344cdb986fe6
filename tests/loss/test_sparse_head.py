"""The head evaluated where the loss looks: the dense head's loss and gradients."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest
import torch
from torch import Tensor, nn

import exportloss
from exportloss import LossConfig, SparseHeadLoss, YoloLoss, head_inputs, pad_targets
from exportloss.errors import ConfigError, ExportError
from exportloss.export import export_loss
from exportloss.export.aten.to_onnx import to_onnx
from exportloss.export.detector.wrapper import prepare
from exportloss.export.step.functions import Step
from exportloss.models import yolov5
from exportloss.models.layers import Detect
from tests.support.graphs.on_gpu import assert_runs_on_gpus
from tests.support.graphs.portable_loss import open_session
from tests.support.messages import mentions
from tests.support.tiny_detector import make_detector
from tests.support.tiny_detector import make_loss as make_tiny_loss

STRIDES = (8, 16)
ANCHORS = [[10, 13, 33, 23], [30, 61, 59, 119]]
CHANNELS, CLASSES, BATCH, HEIGHT, WIDTH = (6, 10), 5, 2, 64, 96
OPTIONS = {
    "default": {},
    "focal": {"fl_gamma": 1.5, "obj_pw": 2.0},
    "sorted": {"sort_obj_iou": True, "gr": 0.5},
    "smooth": {"label_smoothing": 0.1, "cls_pw": 2.0},
    "blur": {"criterion": "blur"},
}


def make_head(classes: int = CLASSES) -> Detect:
    torch.manual_seed(0)
    return Detect(classes, ANCHORS, CHANNELS, STRIDES)


def make_loss(classes: int = CLASSES, **options: object) -> YoloLoss:
    anchors = torch.tensor(ANCHORS, dtype=torch.float32).view(2, 2, 2)
    return YoloLoss(anchors, STRIDES, classes, LossConfig(**options))


def make_features() -> list[Tensor]:
    generator = torch.Generator().manual_seed(1)
    sizes = zip(CHANNELS, STRIDES, strict=True)
    shapes = [(BATCH, c, HEIGHT // stride, WIDTH // stride) for c, stride in sizes]
    return [torch.randn(shape, generator=generator).requires_grad_() for shape in shapes]


def make_targets(rows: int = 12, classes: int = CLASSES) -> Tensor:
    """Boxes in one corner of both images: many share a cell."""
    generator = torch.Generator().manual_seed(2)
    sizes = 0.1 + 0.3 * torch.rand(rows, 2, generator=generator)
    centres = 0.3 + 0.2 * torch.rand(rows, 2, generator=generator)
    image = torch.arange(rows) % BATCH
    category = torch.arange(rows) % classes
    table = torch.column_stack((image, category, centres, sizes)).numpy()
    return torch.tensor(pad_targets(table, 16, batch_size=BATCH, num_classes=classes))


def gradients(value: Tensor, head: nn.Module, features: list[Tensor]) -> tuple[Tensor, ...]:
    return torch.autograd.grad(value, (*features, *head.parameters()))


@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS.keys())
def test_loss_and_gradients_are_the_dense_heads(options: dict[str, object], layout: str):
    head, loss, features, targets = (
        make_head(),
        make_loss(**options),
        make_features(),
        make_targets(),
    )
    given = features
    if layout == "channels_last":
        given = [x.to(memory_format=torch.channels_last) for x in features]
    dense = loss(head(*given), targets, loss.initial_balance)
    sparse = SparseHeadLoss(head, loss)(given, targets, loss.initial_balance)
    for a, b in zip(sparse, dense, strict=True):
        torch.testing.assert_close(a, b, rtol=2e-6, atol=1e-7)
    for a, b in zip(*(gradients(v[0], head, features) for v in (sparse, dense)), strict=True):
        assert (a - b).norm() <= 2e-6 * b.norm()


@pytest.mark.parametrize("classes", [1, CLASSES])
@pytest.mark.parametrize("rows", [0, 12])
def test_the_convolutions_output_will_do(rows: int, classes: int):
    head, loss = make_head(classes), make_loss(classes)
    features, targets = make_features(), make_targets(rows, classes)
    outputs = [conv(x) for conv, x in zip(head.m, features, strict=True)]
    got, want = loss(outputs, targets), loss(head(*features), targets)
    for a, b in zip(got, want, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-6, atol=0)
    for a, b in zip(*(gradients(v[0], head, features) for v in (got, want)), strict=True):
        assert (a - b).norm() <= 1e-6 * b.norm()


def test_compiled_without_a_break():
    head, features, targets = make_head(), make_features(), make_targets()
    loss = SparseHeadLoss(head, make_loss())
    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")
    got, want = compiled(features, targets), loss(features, targets)
    torch.testing.assert_close(got[0], want[0], rtol=1e-6, atol=0)
    for a, b in zip(*(gradients(v[0], head, features) for v in (got, want)), strict=True):
        assert (a - b).norm() <= 1e-6 * b.norm()


def test_the_head_stays_the_models():
    loss = SparseHeadLoss(make_head(), make_loss())
    assert list(loss.parameters()) == []
    assert loss.state_dict() == {}


class ModelOfAnother(nn.Module):
    """As YOLOv5's own: the head is the last of `model`, and takes a list."""

    def __init__(self) -> None:
        super().__init__()

        class ListDetect(Detect):
            def forward(self, x: list[Tensor]) -> tuple[Tensor, ...]:  # type: ignore[override]
                return super().forward(*x)

        convolutions = [
            nn.Conv2d(3, c, 1, stride=s) for c, s in zip(CHANNELS, STRIDES, strict=True)
        ]
        head = ListDetect(CLASSES, ANCHORS, CHANNELS, STRIDES)
        self.model = nn.ModuleList([*convolutions, head])

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        *layers, head = self.model
        maps: tuple[Tensor, ...] = head([layer(images) for layer in layers])
        return maps


def test_another_model_trains_with_its_own_head():
    model, targets = ModelOfAnother(), make_targets()
    images = torch.rand(BATCH, 3, HEIGHT, WIDTH)
    loss = make_loss()
    head = model.model[-1]
    value, _ = SparseHeadLoss(head, loss)(head_inputs(model, head, images), targets)
    want, _ = loss(model(images), targets)
    parameters = tuple(model.parameters())
    for a, b in zip(*(torch.autograd.grad(v, parameters) for v in (value, want)), strict=True):
        assert (a - b).norm() <= 2e-6 * b.norm()


def test_bad_heads_are_refused():
    head, loss = make_head(), make_loss()
    with pytest.raises(ConfigError, match=mentions("Identity", "`m`", 2)):
        SparseHeadLoss(nn.Identity(), loss)
    with pytest.raises(ConfigError, match=mentions("level 0", "Conv2d(6, 20, ", 16)):
        SparseHeadLoss(head, make_loss(3))
    head.m[1] = nn.Conv2d(CHANNELS[1], head.na * head.no, 3, padding=1)
    with pytest.raises(ConfigError, match=mentions("level 1", "kernel_size=(3, 3)", "1x1")):
        SparseHeadLoss(head, loss)
    with pytest.raises(ConfigError, match=mentions("feature maps", 1, 2)):
        SparseHeadLoss(make_head(), loss)(make_features()[:1], make_targets())
    with pytest.raises(ConfigError, match=mentions("Identity", "Detect")):
        head_inputs(nn.Identity(), make_head(), torch.zeros(1, 3, 8, 8))
    with pytest.raises(ConfigError, match=mentions("autobalance", "`initial_balance`")):
        SparseHeadLoss(make_head(), make_loss(autobalance=True))(make_features(), make_targets())


def step_with(head: str, **options: object) -> Step:
    torch.manual_seed(0)
    model = yolov5("n", 3)
    loss = YoloLoss(model.anchors_px, model.strides, 3, LossConfig(**options))
    sizes = {"image_size": (64, 64), "batch_size": 2, "max_targets": 8}
    return Step(prepare(model, loss, head=head, **sizes), "sgd")  # type: ignore[arg-type]


@pytest.mark.parametrize("options", [{}, {"autobalance": True, "fl_gamma": 1.5}])
def test_steps_with_either_head_are_one(options: dict[str, object]):
    generator = torch.Generator().manual_seed(3)
    images = torch.randint(0, 256, (2, 3, 64, 64), generator=generator, dtype=torch.uint8)
    results = []
    for head in ("dense", "sparse"):
        step = step_with(head, **options)
        example = step.train_example() | {
            "images": images,
            "targets": torch.cat((make_targets(6, 3)[:6], torch.zeros(2, 6))),
            "learning_rates": torch.full((3,), 0.01),
        }
        graph = to_onnx(step.train, example, modules=step.modules, name="train_step")
        assert_runs_on_gpus(graph)
        session = open_session(graph, threads=1)
        names = [output.name for output in session.get_outputs()]
        feed = {name: tensor.numpy() for name, tensor in example.items()}
        results.append(dict(zip(names, session.run(names, feed), strict=True)))
    dense, sparse = results
    for name, value in dense.items():
        difference = np.linalg.norm(value.astype(np.float64) - sparse[name].astype(np.float64))
        # The gradient passes a whole network in training mode, of maps of two cells.
        bound = 2e-4 if "momentum" in name else 2e-6
        assert difference <= bound * max(float(abs(value).max()), 1) * math.sqrt(value.size), name


@pytest.mark.parametrize("layout", ["head-output", "head-input"])
def test_loss_alone_from_either_side_of_the_head(tmp_path: Path, layout: str):
    head, loss, features, targets = make_head(), make_loss(), make_features(), make_targets()
    sizes = {"image_size": (HEIGHT, WIDTH), "batch_size": BATCH, "max_targets": len(targets)}
    export_loss(loss, tmp_path / "loss", gradients=True, layout=layout, head=head, **sizes)
    graph = ir.load(tmp_path / "loss" / "loss.onnx")
    assert_runs_on_gpus(graph)
    convolutions = list(head.m)
    maps = [convolution(x) for convolution, x in zip(convolutions, features, strict=True)]
    leaves = {f"predictions_{level}": x for level, x in enumerate(maps)}
    if layout == "head-input":
        leaves = {f"features_{level}": x for level, x in enumerate(features)}
        leaves |= {f"weight_{level}": m.weight for level, m in enumerate(convolutions)}
        leaves |= {f"bias_{level}": m.bias for level, m in enumerate(convolutions)}
    permuted = [x.view(BATCH, 2, -1, *x.shape[2:]).permute(0, 1, 3, 4, 2) for x in maps]
    value, items = loss(permuted, targets)
    wanted = dict(zip(leaves, torch.autograd.grad(value, list(leaves.values())), strict=True))

    session = open_session(graph, threads=1)
    names = [output.name for output in session.get_outputs()]
    feed = {name: leaf.detach().numpy() for name, leaf in leaves.items()}
    feed |= {"targets": targets.numpy(), "balance": loss.initial_balance.numpy()}
    got = dict(zip(names, session.run(names, feed), strict=True))
    assert got["loss"] == pytest.approx(value.item(), rel=2e-6)
    assert got["items"] == pytest.approx(items.numpy(), rel=2e-6)
    for name, gradient in wanted.items():
        kind, _, level = name.rpartition("_")
        of = f"{kind}_" if kind in ("weight", "bias") else ""
        difference = got[f"{of}gradient_{level}"] - gradient.numpy()
        assert np.linalg.norm(difference) <= 2e-6 * gradient.norm(), name


def test_loss_alone_from_the_heads_input_needs_the_head(tmp_path: Path):
    sizes = {"image_size": (HEIGHT, WIDTH), "batch_size": BATCH, "max_targets": 4}
    with pytest.raises(ExportError, match=mentions("head-input", "head=")):
        export_loss(make_loss(), tmp_path / "loss", layout="head-input", **sizes)
    assert not (tmp_path / "loss").exists()


def test_the_faster_head_is_chosen():
    model = yolov5("n", 80)
    loss = YoloLoss(model.anchors_px, model.strides, 80)

    def choose(size: int, batch: int, max_targets: int) -> str:
        sizes = {"image_size": (size, size), "batch_size": batch, "max_targets": max_targets}
        return prepare(model, loss, **sizes).image_loss.head  # type: ignore[arg-type]

    assert choose(320, 4, 64) == "sparse"
    assert choose(64, 1, 64) == "dense"  # more target rows than cells
    model.detect.m[0] = nn.Sequential(model.detect.m[0])  # the same, but no convolution
    assert choose(320, 4, 64) == "dense"


def test_a_model_without_a_head_stays_dense():
    sizes = {"image_size": (64, 64), "batch_size": 2, "max_targets": 8}
    assert prepare(make_detector(), make_tiny_loss(), **sizes).image_loss.head == "dense"
    with pytest.raises(ExportError, match=mentions("TinyDetector", "`features`", "`detect`")):
        prepare(make_detector(), make_tiny_loss(), head="sparse", **sizes)


def test_it_is_public():
    assert exportloss.SparseHeadLoss is SparseHeadLoss
    assert exportloss.head_inputs is head_inputs
