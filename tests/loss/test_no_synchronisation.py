"""The loss never waits for a GPU: no operator of it looks at data, forward or backward."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, fx
from torch._ops import OpOverload

from exportloss import LossConfig, YoloLoss
from exportloss.errors import ExportError
from exportloss.export.aten.tracing import trace

ANCHORS, STRIDES, CLASSES, SLOTS = (((10, 13), (16, 30)), ((30, 61), (62, 45))), (8, 16), 3, 8
OPTIONS: list[dict[str, Any]] = [
    {},
    {"autobalance": True, "label_smoothing": 0.1},
    {"fl_gamma": 1.5, "cls_pw": 2.0, "obj_pw": 0.5},
    {"sort_obj_iou": True, "gr": 0.5},
]
# Of these the host must know a value, or a shape that depends on one.
LOOKING = (torch.Tag.data_dependent_output, torch.Tag.dynamic_output_shape)


def loss_and_gradients(loss: YoloLoss, *tensors: Tensor) -> tuple[Tensor, ...]:
    targets, *given = tensors
    maps = [level.detach().requires_grad_() for level in given]
    value, items, balance = loss(maps, targets, loss.initial_balance)
    return value.detach(), items, balance, *torch.autograd.grad(value, maps)


def make_inputs(device: str) -> list[Tensor]:
    shapes = [(2, 2, 64 // stride, 64 // stride, 5 + CLASSES) for stride in STRIDES]
    return [torch.zeros(shape, device=device) for shape in ((SLOTS, 6), *shapes)]


def looking(traced: fx.GraphModule) -> set[str]:
    operators = {node.target for node in traced.graph.nodes if isinstance(node.target, OpOverload)}
    found = {str(one) for one in operators if any(tag in one.tags for tag in LOOKING)}
    for node in traced.graph.nodes:  # an index by a mask has no tag
        if node.target in (torch.ops.aten.index.Tensor, torch.ops.aten.index_put.default):
            indices = [index for index in node.args[1] if index is not None]
            if any(index.meta["val"].dtype == torch.bool for index in indices):
                found.add(f"{node.target} by a mask")
    return found


@pytest.mark.parametrize("options", OPTIONS)
def test_no_operator_looks_at_data(options):
    loss = YoloLoss(ANCHORS, STRIDES, CLASSES, LossConfig(**options))
    traced = trace(lambda *tensors: loss_and_gradients(loss, *tensors), tuple(make_inputs("cpu")))
    assert len(traced.graph.nodes) > 100
    assert looking(traced) == set()


@pytest.mark.parametrize("options", OPTIONS)
def test_it_runs_where_there_is_no_data(options):
    """A tensor on the meta device has none; whatever reads one, or brings one along, raises."""
    loss = YoloLoss(ANCHORS, STRIDES, CLASSES, LossConfig(**options)).to("meta")
    value, _, _, *gradients = loss_and_gradients(loss, *make_inputs("meta"))
    assert value.shape == ()
    assert [g.shape for g in gradients] == [x.shape for x in make_inputs("meta")[1:]]


@pytest.mark.parametrize(
    ("function", "operator"),
    [
        (lambda x: x[x > 0].sum(), "aten.index.Tensor by a mask"),
        (
            lambda x: x.index_put((x > 0,), torch.tensor(2.0)),
            "aten.index_put.default by a mask",
        ),
        (lambda x: x * x.sum().item(), "aten._local_scalar_dense.default"),
        (lambda x: torch.nonzero(x).sum(), "aten.nonzero.default"),
        (lambda x: x.masked_select(x > 0).sum(), "aten.masked_select.default"),
    ],
)
def test_what_looks_is_found(function, operator):
    assert operator in looking(trace(lambda x: (function(x),), (torch.ones(4),)))


def test_a_path_that_depends_on_data_is_not_traced():
    with pytest.raises(ExportError, match="data-dependent"):
        trace(lambda x: (x if x.sum() > 0 else -x,), (torch.ones(4),))
