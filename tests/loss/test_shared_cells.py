"""The form of the loss for GPUs: no scatter reduces, and no order of writing matters."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from exportloss import LossConfig, SparseHeadLoss, YoloLoss, pad_targets
from exportloss.export import export_loss
from exportloss.export.step.export import export_train_step
from exportloss.loss.matching import match
from exportloss.loss.shared_cells import SharedCells, write_equals
from exportloss.models import yolov5
from exportloss.models.layers import Detect
from exportloss.runtime import TrainSession
from exportloss.runtime.artifact.state import load_state
from tests.support.graphs.on_gpu import assert_runs_on_gpus
from tests.support.graphs.portable_loss import open_session
from tests.support.tiny_detector import ANCHORS, CLASSES, IMAGE, STRIDES, make_detector, make_loss

BATCH, MAX_TARGETS, CHANNELS = 2, 40, (3, 4)
LAYOUTS = ("permuted", "head-output", "head-input")
OPTIONS: list[dict[str, Any]] = [
    {"autobalance": True},
    {"sort_obj_iou": True, "gr": 0.5},
    {"fl_gamma": 1.5, "label_smoothing": 0.1},
]

Arrays = dict[str, NDArray[Any]]


def make_head() -> Detect:
    torch.manual_seed(0)
    anchors = [[side for pair in level for side in pair] for level in ANCHORS]
    return Detect(CLASSES, anchors, CHANNELS, STRIDES)


def crowd(seed: int = 0, rows: int = 30) -> Tensor:
    """Boxes around a few places, so that most cells are shared, and padding."""
    rng = np.random.default_rng(seed)
    places = rng.uniform(0.1, 0.9, (3, 2))[rng.integers(0, 3, rows)]
    table = np.column_stack(
        [
            *(rng.integers(0, BATCH, rows), rng.integers(0, CLASSES, rows)),
            np.clip(places + rng.normal(0, 0.02, (rows, 2)), 0, 1),
            rng.uniform(0.1, 0.9, (rows, 2)),
        ]
    )
    return torch.tensor(pad_targets(table, MAX_TARGETS, batch_size=BATCH, num_classes=CLASSES))


def drawn(shape: tuple[int, ...], seed: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def maps(layout: str) -> list[Tensor]:
    grids, outputs = [IMAGE // stride for stride in STRIDES], 5 + CLASSES
    shapes = {
        "permuted": [(BATCH, 2, side, side, outputs) for side in grids],
        "head-output": [(BATCH, 2 * outputs, side, side) for side in grids],
        "head-input": [(BATCH, c, side, side) for c, side in zip(CHANNELS, grids, strict=True)],
    }[layout]
    return [drawn(shape, level).requires_grad_() for level, shape in enumerate(shapes)]


def value_and_gradients(loss: YoloLoss, layout: str) -> list[Tensor]:
    read, head = maps(layout), make_head()
    leaves = read
    if layout == "head-input":
        leaves = [
            x for pair in zip(read, head.m, strict=True) for x in (pair[0], *pair[1].parameters())
        ]
    of_maps = SparseHeadLoss(head, loss) if layout == "head-input" else loss
    value, *rest = of_maps(read, crowd(), loss.initial_balance)
    return [value, *rest, *torch.autograd.grad(value, leaves)]


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("options", OPTIONS)
def test_the_same_loss_and_gradients_in_torch(options, layout):
    loss = make_loss(**options)
    assert not loss.pairwise
    pairwise = value_and_gradients(loss.as_pairwise(), layout)
    for found, expected in zip(pairwise, value_and_gradients(loss, layout), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)


def test_loss_can_be_made_pairwise_from_the_start():
    loss = YoloLoss(ANCHORS, STRIDES, CLASSES, LossConfig(), pairwise=True)
    assert loss.pairwise
    assert loss.as_pairwise() is loss


def inputs_of(layout: str) -> Arrays:
    """Inputs by name, as the graph of a loss takes them."""
    name = "features" if layout == "head-input" else "predictions"
    inputs = {f"{name}_{i}": level.detach().numpy() for i, level in enumerate(maps(layout))}
    if layout == "head-input":
        for i, convolution in enumerate(make_head().m):
            inputs |= {f"weight_{i}": convolution.weight.detach().numpy()}
            inputs |= {f"bias_{i}": convolution.bias.detach().numpy()}
    return inputs | {"targets": crowd().numpy(), "balance": np.array([4.0, 1.0], np.float32)}


def in_another_order(model: ir.Model, seed: int) -> ir.Model:
    """Permute what every scatter writes."""
    rng = np.random.default_rng(seed)
    for number, node in enumerate([n for n in model.graph if n.op_type == "ScatterElements"]):
        assert node.attributes["reduction"].as_string() == "none"
        assert node.attributes["axis"].as_int() == 0
        order = ir.tensor(rng.permutation(int(node.inputs[1].shape[0])), name=f"order_{number}")
        initializer = ir.Value(name=order.name, const_value=order)
        model.graph.register_initializer(initializer)
        for place in (1, 2):
            moved = ir.node("Gather", [node.inputs[place], initializer], {"axis": 0})
            model.graph.insert_before(node, moved)
            node.replace_input_with(place, moved.outputs[0])
    return model


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("options", OPTIONS)
def test_no_order_of_writing_matters(tmp_path: Path, options, layout):
    sizes = {"image_size": (IMAGE, IMAGE), "batch_size": BATCH, "max_targets": MAX_TARGETS}
    folder = tmp_path / "loss"
    export_loss(
        make_loss(**options),
        folder,
        **({"layout": layout, "head": make_head(), "gradients": True, "tiers": ()} | sizes),
        provider="gpu",
    )
    path = folder / "loss.onnx"
    assert_runs_on_gpus(path, scattered_sums=False)
    inputs = inputs_of(layout)
    expected = open_session(path.read_bytes()).run(None, inputs)
    in_torch = value_and_gradients(make_loss(**options), layout)
    for found, wanted in zip(expected, in_torch, strict=True):
        torch.testing.assert_close(torch.from_numpy(found), wanted.detach(), rtol=1e-5, atol=1e-6)
    for seed in range(5):
        session = open_session(in_another_order(ir.load(path), seed))
        for found, wanted in zip(session.run(None, inputs), expected, strict=True):
            np.testing.assert_array_equal(found, wanted)


@pytest.mark.parametrize("head", ["dense", "sparse"])
def test_a_step_for_gpus_is_the_same_step(tmp_path: Path, head):
    torch.manual_seed(0)
    model = yolov5("yolov5n", CLASSES)
    loss = YoloLoss(model.anchors_px, model.strides, CLASSES)
    sizes = {"image_size": (96, 64), "batch_size": BATCH, "max_targets": MAX_TARGETS}
    results = {}
    for provider in ("any", "gpu"):
        folder = tmp_path / provider
        manifest = export_train_step(model, loss, folder, provider=provider, head=head, **sizes)
        assert (manifest.provider, manifest.head) == (provider, head)
        session = TrainSession.open(folder)
        images = np.random.default_rng(0).integers(0, 256, (BATCH, 3, 96, 64), np.uint8)
        result = session.step(images, crowd().numpy(), lr=0.01)
        results[provider] = result.loss, session.state().model
    for name in ("train_step", "eval_step"):
        assert_runs_on_gpus(tmp_path / "gpu" / f"{name}.onnx", scattered_sums=False)
    (loss_any, any_state), (loss_gpu, gpu_state) = results.values()
    assert loss_gpu == pytest.approx(loss_any, rel=1e-6)
    start = load_state(tmp_path / "any" / "state.safetensors").model
    moved, error = (
        np.concatenate([(one[name] - other[name]).ravel() for name in start])
        for one, other in ((any_state, start), (gpu_state, any_state))
    )
    assert np.linalg.norm(error) <= 1e-4 * np.linalg.norm(moved)


@pytest.mark.parametrize("precision", ["float16", "bfloat16"])
def test_precision_and_provider_go_together(tmp_path: Path, precision):
    folder, sizes = tmp_path / "half", {"image_size": (IMAGE, IMAGE), "batch_size": BATCH}
    options = {"precision": precision, "provider": "gpu", "max_targets": MAX_TARGETS}
    export_train_step(make_detector(), make_loss(), folder, **options, **sizes)
    assert_runs_on_gpus(folder / "train_step.onnx", scattered_sums=False)


def shared(targets: Tensor, *, pairwise: bool) -> tuple[SharedCells, Tensor, Tensor]:
    """What is shared at both levels, and image and cell of the slots."""
    grids = [(IMAGE // stride, IMAGE // stride) for stride in STRIDES]
    slots = match(
        targets,
        make_loss().anchors,
        batch_size=BATCH,
        grids=grids,
        num_classes=CLASSES,
        anchor_t=4.0,
    )
    image = slots.image.expand(slots.cell.shape[1:]).flatten()
    found = SharedCells.of(slots, grids, pairwise=pairwise, batch_size=BATCH)
    return found, image, slots.cell.flatten(1)


@pytest.mark.parametrize("pairwise", [False, True], ids=["scatters", "pairs"])
@pytest.mark.parametrize("seed", range(5))
def test_by_the_definition(seed, pairwise):
    found, image, cells = shared(crowd(seed), pairwise=pairwise)
    shape = (2, 2, 3, MAX_TARGETS)  # levels, anchors, slots of a row, rows
    values = drawn(shape, seed).abs()
    largest = found.largest(values).flatten(2)
    at_last = found.largest_at_last(values).flatten(2)
    gradients = drawn((*shape, 5), seed)
    read = torch.zeros_like(gradients).requires_grad_()
    (summed,) = torch.autograd.grad(found.read(read), read, gradients)
    for level, cell in enumerate(cells):
        rows = gradients[level].flatten(1, 2)
        total = found.of_level(level).combined(summed[level].flatten(1, 2))
        for slot in range(3 * MAX_TARGETS):
            same = (image == image[slot]) & (cell == cell[slot])
            last = same.nonzero().max()
            assert found.last[level, slot] == last
            assert torch.equal(found.last_boxes(2)[level, :, slot] % len(same), last.expand(2))
            expected = values.flatten(2)[level][:, same].amax(dim=1)
            assert torch.equal(largest[level, :, slot], expected)
            assert torch.equal(at_last[level, :, slot], expected * (slot == last))
            torch.testing.assert_close(total[:, slot], rows[:, same].sum(dim=1))
            assert torch.equal(total[:, slot], total[:, same.nonzero()[0, 0]])  # to the bit


def test_more_values_than_places():
    index = torch.tensor([1, 0, 1, 1])
    values = torch.tensor([5.0, 7.0, 5.0, 5.0])
    assert write_equals(2, index, values).tolist() == [7.0, 5.0]
    assert write_equals(6, index, values).tolist() == [7.0, 5.0, 0, 0, 0, 0]
