"""The reference loss: its parts against golden values, its interface as YOLOv5's users know it."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from exportloss import ConfigError, LossConfig
from exportloss.eager import (
    BCEBlurWithLogitsLoss,
    ComputeLoss,
    FocalLoss,
    QFocalLoss,
    bbox_iou,
    smooth_BCE,
)
from tests.support.messages import mentions

with (
    (Path(__file__).parents[1] / "golden" / "criteria.npz").open("rb") as _file,
    np.load(_file) as _z,
):
    CRITERIA = dict(_z)

INPUTS = {"pred", "true", "box1", "box2"}
NAMES = sorted(name for name in CRITERIA.keys() - INPUTS if not name.endswith("_grad"))
LOSSES = [name for name in NAMES if not name.startswith(("iou_", "smooth_bce_"))]
OVERLAPS = [name for name in NAMES if name.startswith("iou_")]
SMOOTHINGS = [name for name in NAMES if name.startswith("smooth_bce_")]

ANCHORS_PX = torch.tensor([[[10.0, 13], [16, 30], [33, 23]], [[30, 61], [62, 45], [59, 119]]])
STRIDES = torch.tensor([8.0, 16.0])


def make_criterion(name: str) -> nn.Module:
    """Parse a name such as `qfocal_mean_pw2.5_g1.5_a0.25`."""
    kind, reduction, *options = name.split("_")
    values = {}
    for option in options:
        key, value = re.fullmatch(r"([a-z]+)([0-9.]+)", option).groups()
        values[key] = float(value)
    if kind == "bceblur":
        assert reduction == "mean" and values.keys() == {"a"}
        return BCEBlurWithLogitsLoss(alpha=values["a"])
    pos_weight = torch.tensor([values.pop("pw")])
    bce = nn.BCEWithLogitsLoss(pos_weight=pos_weight, reduction=reduction)
    if kind == "bce":
        assert not values
        return bce
    wrap = {"focal": FocalLoss, "qfocal": QFocalLoss}[kind]
    return wrap(bce, gamma=values.pop("g"), alpha=values.pop("a"))


def assert_close(got: torch.Tensor, want: np.ndarray, rtol: float) -> None:
    assert got.shape == want.shape
    error = np.linalg.norm(got.detach().numpy().astype(np.float64) - want)
    assert error <= rtol * np.linalg.norm(want)


def fake_model(config: LossConfig, *, num_classes: int = 3) -> SimpleNamespace:
    """What `ComputeLoss` reads of a YOLOv5 model."""
    levels, anchors_a_level, _ = ANCHORS_PX.shape
    head = SimpleNamespace(
        nl=levels,
        na=anchors_a_level,
        nc=num_classes,
        anchors=ANCHORS_PX / STRIDES[:, None, None],
        stride=STRIDES,
    )
    return SimpleNamespace(hyp=dataclasses.asdict(config), model=[SimpleNamespace(), head])


def make_batch(
    *, num_classes: int = 3, rows: int = 20, dtype: torch.dtype = torch.float32
) -> tuple[list[torch.Tensor], torch.Tensor]:
    """Predictions of a 96 x 64 image in a batch of 2, and targets; the same in every call."""
    generator = torch.Generator().manual_seed(0)
    predictions = [
        torch.randn(2, 3, 96 // stride, 64 // stride, 5 + num_classes, generator=generator)
        for stride in (8, 16)
    ]
    boxes = torch.rand(rows, 4, generator=generator) * torch.tensor([1, 1, 0.4, 0.4])
    images = torch.randint(2, (rows, 1), generator=generator)
    classes = torch.randint(num_classes, (rows, 1), generator=generator)
    targets = torch.cat((images, classes, boxes), 1)
    return [level.to(dtype).requires_grad_() for level in predictions], targets.to(dtype)


def loss_and_gradients(compute, predictions, targets):
    loss, items = compute(predictions, targets)
    return loss.detach(), items, *torch.autograd.grad(loss.sum(), predictions)


def test_golden_names_cover_every_part():
    assert len(LOSSES) == 3 * 2 * (1 + 2 * 2) + 2
    assert OVERLAPS == ["iou_CIoU", "iou_DIoU", "iou_GIoU", "iou_IoU"]
    assert SMOOTHINGS


@pytest.mark.parametrize("name", LOSSES)
def test_criterion_equals_golden(name):
    pred = torch.tensor(CRITERIA["pred"], requires_grad=True)
    value = make_criterion(name)(pred, torch.tensor(CRITERIA["true"]))
    (gradient,) = torch.autograd.grad(value.sum(), pred)
    assert_close(value, CRITERIA[name], rtol=1e-6)
    assert_close(gradient, CRITERIA[f"{name}_grad"], rtol=1e-6)


@pytest.mark.parametrize("name", OVERLAPS)
def test_overlap_equals_golden(name):
    box1 = torch.tensor(CRITERIA["box1"], requires_grad=True)
    kind = name.removeprefix("iou_")
    flags = {} if kind == "IoU" else {kind: True}
    value = bbox_iou(box1, torch.tensor(CRITERIA["box2"]), **flags)
    (gradient,) = torch.autograd.grad(value.sum(), box1)
    assert value.shape == (len(box1), 1)
    assert_close(value.squeeze(-1), CRITERIA[name], rtol=1e-6)
    assert_close(gradient, CRITERIA[f"{name}_grad"], rtol=1e-6)


@pytest.mark.parametrize("name", SMOOTHINGS)
def test_smoothing_equals_golden(name):
    eps = float(name.removeprefix("smooth_bce_"))
    assert smooth_BCE(eps) == pytest.approx(tuple(CRITERIA[name]), rel=1e-12)


@pytest.mark.parametrize("wrap", [FocalLoss, QFocalLoss])
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_modulated_loss_takes_over_the_reduction(wrap, reduction):
    bce = nn.BCEWithLogitsLoss(reduction=reduction)
    loss = wrap(bce)
    assert (loss.reduction, bce.reduction) == (reduction, "none")
    assert (loss.gamma, loss.alpha) == (1.5, 0.25)


@pytest.mark.parametrize("wrap", [FocalLoss, QFocalLoss])
def test_no_focus_and_equal_weights_are_half_of_bce(wrap):
    pred, true = torch.tensor(CRITERIA["pred"]), torch.tensor(CRITERIA["true"])
    focal = wrap(nn.BCEWithLogitsLoss(), gamma=0.0, alpha=0.5)
    torch.testing.assert_close(focal(pred, true), nn.BCEWithLogitsLoss()(pred, true) / 2)


def test_blur_weighs_positives():
    pred, true = torch.tensor([0.3, -2.0]), torch.tensor([1.0, 1.0])
    weighted = BCEBlurWithLogitsLoss(pos_weight=torch.tensor([3.0]))
    torch.testing.assert_close(weighted(pred, true), 3 * BCEBlurWithLogitsLoss()(pred, true))


@pytest.mark.parametrize("flags", [{}, {"GIoU": True}, {"DIoU": True}, {"CIoU": True}])
def test_overlap_takes_corners_and_broadcasts(flags):
    centres = torch.tensor([[2.0, 3, 2, 4], [2.5, 3, 1, 1], [9, 9, 2, 2]])
    half = centres[:, 2:] / 2
    corners = torch.cat((centres[:, :2] - half, centres[:, :2] + half), 1)
    want = bbox_iou(centres[:1].expand(3, 4), centres, **flags)
    torch.testing.assert_close(bbox_iou(centres[:1], centres, **flags), want)
    torch.testing.assert_close(bbox_iou(corners[:1], corners, xywh=False, **flags), want)


def test_overlap_by_hand():
    box = torch.tensor([0.0, 0, 2, 2])
    beside = torch.tensor([3.0, 0, 2, 2])  # a gap of 1; hull 5 x 2
    shifted = torch.tensor([1.0, 0, 2, 2])  # overlap 1 x 2; hull 3 x 2
    assert bbox_iou(box, beside).tolist() == [0]
    assert bbox_iou(box, beside, GIoU=True).item() == pytest.approx(-2 / 10)
    assert bbox_iou(box, beside, DIoU=True).item() == pytest.approx(-9 / 29)
    assert bbox_iou(box, shifted).item() == pytest.approx(2 / 6)
    # Equal shapes have no aspect penalty.
    assert bbox_iou(box, shifted, CIoU=True).item() == pytest.approx(2 / 6 - 1 / 13)


def test_complete_iou_of_an_underflowed_box_is_nan():
    assert bbox_iou(torch.zeros(4), torch.ones(4), CIoU=True).isnan().all()


def test_targets_are_matched_to_cells_and_anchors():
    compute = ComputeLoss.from_config(ANCHORS_PX, STRIDES, 3, LossConfig())
    predictions, _ = make_batch()  # grids 12 x 8 and 6 x 4
    # 14 x 30 pixels, centred at cell (2.25, 4.75) of the first level: left and bottom join in.
    row = [1, 2, 2.25 * 8 / 64, 4.75 * 8 / 96, 14 / 64, 30 / 96]
    tcls, tbox, indices, anch = compute.build_targets(predictions, torch.tensor([row]))

    assert [len(level) for level in tcls] == [9, 3]  # 3 cells each; of level 1 only 30 x 61 fits
    assert tcls[0].tolist() == [2] * 9
    image, anchor, gj, gi = indices[0]
    assert image.tolist() == [1] * 9
    assert anchor.tolist() == [0, 1, 2] * 3
    assert list(zip(gi.tolist(), gj.tolist(), strict=True)) == (
        [(2, 4)] * 3 + [(1, 4)] * 3 + [(2, 5)] * 3
    )
    want = [
        [x, y, 1.75, 3.75] for x, y in ((0.25, 0.75), (1.25, 0.75), (0.25, -0.25)) for _ in range(3)
    ]
    torch.testing.assert_close(tbox[0], torch.tensor(want))
    torch.testing.assert_close(anch[0], (ANCHORS_PX[0] / 8).repeat(3, 1))
    for level in range(2):
        n = len(tcls[level])
        assert tbox[level].shape == (n, 4) and anch[level].shape == (n, 2)
        assert all(index.shape == (n,) and index.dtype == torch.int64 for index in indices[level])


def test_padding_rows_and_oversized_boxes_match_nothing():
    compute = ComputeLoss.from_config(ANCHORS_PX, STRIDES, 3, LossConfig())
    predictions, targets = make_batch()
    useless = torch.tensor([[0, 0, 0, 0, 0, 0], [0, 1, 0.5, 0.5, 0.3, 0], [0, 1, 0.5, 0.5, 1, 90]])
    tcls, *_ = compute.build_targets(predictions, useless)
    assert [len(level) for level in tcls] == [0, 0]
    want = loss_and_gradients(compute, predictions, targets)
    got = loss_and_gradients(compute, predictions, torch.cat((targets, useless)))
    torch.testing.assert_close(got, want, rtol=0, atol=0)


def test_drop_in_construction():
    config = LossConfig(label_smoothing=0.1, fl_gamma=2.0, cls_pw=2.0, obj_pw=0.5)
    model = fake_model(config)
    compute = ComputeLoss(model, autobalance=True)
    assert compute.hyp is model.hyp
    assert (compute.na, compute.nc, compute.nl) == (3, 3, 2)
    assert compute.anchors is model.model[-1].anchors
    assert (compute.gr, compute.ssi, compute.sort_obj_iou) == (1.0, 1, False)
    assert compute.balance[:2] == [4.0, 1.0]
    assert (compute.cp, compute.cn) == pytest.approx((0.95, 0.05))
    for criterion, weight in ((compute.BCEcls, 2.0), (compute.BCEobj, 0.5)):
        assert isinstance(criterion, FocalLoss) and criterion.gamma == 2.0
        assert criterion.loss_fcn.pos_weight.tolist() == [weight]


def test_label_smoothing_may_be_absent():
    model = fake_model(LossConfig())
    del model.hyp["label_smoothing"]
    assert (ComputeLoss(model).cp, ComputeLoss(model).cn) == (1.0, 0.0)


def test_wrapped_model_gives_the_same_loss():
    model = fake_model(LossConfig())
    outside = SimpleNamespace(module=SimpleNamespace(model=model.model), hyp=model.hyp)
    want = loss_and_gradients(ComputeLoss(model), *make_batch())
    for wrapper in (SimpleNamespace(module=model), outside):
        got = loss_and_gradients(ComputeLoss(wrapper), *make_batch())
        torch.testing.assert_close(got, want, rtol=0, atol=0)


@pytest.mark.parametrize("num_classes", [1, 3])
@pytest.mark.parametrize("rows", [0, 1, 20])
@pytest.mark.parametrize("fl_gamma", [0.0, 1.5])
def test_from_config_equals_drop_in(num_classes, rows, fl_gamma):
    config = LossConfig(fl_gamma=fl_gamma, label_smoothing=0.1, cls_pw=2.0, autobalance=True)
    drop_in = ComputeLoss(fake_model(config, num_classes=num_classes), autobalance=True)
    own = ComputeLoss.from_config(ANCHORS_PX.numpy(), STRIDES.tolist(), num_classes, config)
    batch = make_batch(num_classes=num_classes, rows=rows)
    for _ in range(2):
        want = loss_and_gradients(drop_in, *batch)
        torch.testing.assert_close(loss_and_gradients(own, *batch), want, rtol=0, atol=0)
    assert own.balance == drop_in.balance != [4.0, 1.0, 0.25, 0.06, 0.02]


def test_from_config_honours_every_option():
    base = LossConfig(fl_gamma=1.5, autobalance=True)
    changes = [
        {"box": 1.0},
        {"cls": 1.0},
        {"cls_pw": 2.0},
        {"obj": 2.0},
        {"obj_pw": 2.0},
        {"anchor_t": 2.0},
        {"fl_gamma": 2.0},
        {"label_smoothing": 0.2},
        {"gr": 0.5},
        {"sort_obj_iou": True},
        {"autobalance": False},
        {"criterion": "qfocal"},
        {"focal_alpha": 0.5},
    ]
    options = {field.name for field in dataclasses.fields(LossConfig)} - {"blur_alpha"}
    assert {name for change in changes for name in change} == options
    blur = LossConfig(criterion="blur")
    configs = [base, *(dataclasses.replace(base, **change) for change in changes)]
    configs += [LossConfig(), blur, dataclasses.replace(blur, blur_alpha=0.3)]

    predictions, targets = make_batch(rows=60)
    second_losses = []
    for config in configs:
        compute = ComputeLoss.from_config(ANCHORS_PX, STRIDES, 3, config)
        compute(predictions, targets)
        second_losses.append(compute(predictions, targets)[0].item())
    assert len(set(second_losses)) == len(configs)


@pytest.mark.parametrize(
    ("config", "kind", "attributes"),
    [
        (LossConfig(), nn.BCEWithLogitsLoss, {}),
        (LossConfig(fl_gamma=2, focal_alpha=0.6), FocalLoss, {"gamma": 2, "alpha": 0.6}),
        (LossConfig(criterion="focal", fl_gamma=2), FocalLoss, {"gamma": 2, "alpha": 0.25}),
        (LossConfig(criterion="qfocal", fl_gamma=2), QFocalLoss, {"gamma": 2, "alpha": 0.25}),
        (LossConfig(criterion="blur", blur_alpha=0.3), BCEBlurWithLogitsLoss, {"alpha": 0.3}),
    ],
)
def test_from_config_chooses_the_criterion(config, kind, attributes):
    compute = ComputeLoss.from_config(ANCHORS_PX, STRIDES, 3, config)
    for criterion in (compute.BCEcls, compute.BCEobj):
        assert type(criterion) is kind
        assert {name: getattr(criterion, name) for name in attributes} == attributes


def test_autobalance_without_stride_16_is_refused():
    with pytest.raises(ConfigError, match=mentions("autobalance", 16, [8.0, 32.0])):
        ComputeLoss.from_config(ANCHORS_PX, [8, 32], 3, LossConfig(autobalance=True))


def test_loss_is_the_sum_of_its_items_times_the_batch():
    compute = ComputeLoss.from_config(ANCHORS_PX, STRIDES, 3, LossConfig())
    loss, items = compute(*make_batch())
    assert loss.shape == (1,) and items.shape == (3,)
    assert loss.requires_grad and not items.requires_grad
    assert (items > 0).all()
    torch.testing.assert_close(loss.detach(), items.sum(0, keepdim=True) * 2)


def test_one_match_survives_sorting():
    """The original raises IndexError here."""
    config = LossConfig(anchor_t=1.1)
    predictions, _ = make_batch()
    # The size of one anchor; in the first cell's centre, so that no neighbour joins in.
    target = torch.tensor([[0, 1, 0.5 * 8 / 64, 0.5 * 8 / 96, 10 / 64, 13 / 96]])
    plain = ComputeLoss.from_config(ANCHORS_PX, STRIDES, 3, config)
    assert sum(len(level) for level in plain.build_targets(predictions, target)[0]) == 1
    sorting = ComputeLoss.from_config(
        ANCHORS_PX, STRIDES, 3, dataclasses.replace(config, sort_obj_iou=True)
    )
    want = loss_and_gradients(plain, predictions, target)
    torch.testing.assert_close(loss_and_gradients(sorting, predictions, target), want)


def test_sorting_makes_the_loss_independent_of_row_order():
    predictions, targets = make_batch(rows=60)
    losses = {}
    for sort in (False, True):
        config = LossConfig(sort_obj_iou=sort)
        compute = ComputeLoss.from_config(ANCHORS_PX, STRIDES, 3, config)
        losses[sort] = [compute(predictions, rows)[0].item() for rows in (targets, targets.flip(0))]
    assert losses[True][0] == pytest.approx(losses[True][1], rel=1e-6)
    assert losses[False][0] != pytest.approx(losses[False][1], rel=1e-6)


def test_double_precision_is_kept():
    config = LossConfig(fl_gamma=1.5, label_smoothing=0.1)
    compute = ComputeLoss.from_config(ANCHORS_PX, STRIDES, 3, config)
    double = loss_and_gradients(compute, *make_batch(dtype=torch.float64))
    assert all(value.dtype == torch.float64 for value in double)
    single = loss_and_gradients(compute, *make_batch())
    torch.testing.assert_close(single, tuple(v.float() for v in double), rtol=1e-4, atol=1e-6)
    assert double[0].item() != double[0].float().item()
