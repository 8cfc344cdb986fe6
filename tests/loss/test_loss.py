"""Properties of the static loss, against the eager one and against itself."""

from __future__ import annotations

import dataclasses
import math
import pickle

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from exportloss import ConfigError, LossConfig, YoloLoss, pad_targets
from exportloss.eager import ComputeLoss
from tests.support.messages import mentions

BATCH, CLASSES = 2, 3
SIZE = (64, 96)  # height, width
STRIDES = (8, 16)
ANCHORS = (((10, 13), (16, 30), (33, 23)), ((30, 61), (62, 45), (59, 80)))

OPTIONS = {
    "plain": LossConfig(),
    "focal": LossConfig(fl_gamma=1.5),
    "focal below one": LossConfig(fl_gamma=0.5),
    "quality focal": LossConfig(criterion="qfocal", fl_gamma=1.5, focal_alpha=0.4),
    "blur": LossConfig(criterion="blur", blur_alpha=0.1),
    "weights and smoothing": LossConfig(cls_pw=2.0, obj_pw=0.5, label_smoothing=0.1),
    "sorted": LossConfig(sort_obj_iou=True),
    "iou ratio": LossConfig(gr=0.3),
    "sorted, iou ratio": LossConfig(gr=0.3, sort_obj_iou=True),
    "tight anchors": LossConfig(anchor_t=1.5),
    "autobalance": LossConfig(autobalance=True),
}


def test_the_class_is_public_in_the_package_of_the_loss():
    from exportloss import loss

    assert loss.YoloLoss is YoloLoss
    assert loss.__all__ == ["YoloLoss"]
    # Files that were pickled before `exportloss.loss` was a package name the class like this.
    assert pickle.loads(b"cexportloss.loss\nYoloLoss\n.") is YoloLoss


def make_loss(config: LossConfig, classes: int = CLASSES) -> YoloLoss:
    return YoloLoss(ANCHORS, STRIDES, classes, config)


def make_predictions(seed: int, *, scale: float = 1.0, classes: int = CLASSES):
    generator = torch.Generator().manual_seed(seed)
    return [
        (
            torch.randn(BATCH, 3, SIZE[0] // s, SIZE[1] // s, 5 + classes, generator=generator)
            * scale
        ).requires_grad_()
        for s in STRIDES
    ]


def run_static(config, predictions, rows, *, max_targets=None, classes=CLASSES):
    targets = pad_targets(
        rows, max_targets or max(len(rows), 1), batch_size=BATCH, num_classes=classes
    )
    loss = make_loss(config, classes)
    value, items, balance = loss(predictions, torch.tensor(targets), loss.initial_balance)
    return value, items, balance, torch.autograd.grad(value, predictions)


# Centres on and beside cell borders and corners, on the image's edge, and anywhere.
_cells = st.integers(0, 24).map(lambda k: k / 24)
_coordinate = st.one_of(_cells, st.sampled_from([0.0, 1.0]), st.floats(0, 1, width=32))
_side = st.one_of(st.sampled_from([0.0, 1.0, 0.25]), st.floats(1 / 64, 1, width=32))
_row = st.tuples(
    st.integers(0, BATCH - 1), st.integers(0, CLASSES - 1), _coordinate, _coordinate, _side, _side
)
# A row twice and rows in one cell come up often.
_rows = st.lists(_row, min_size=0, max_size=12).flatmap(
    lambda rows: st.permutations(rows + rows[:3]) if rows else st.just([])
)


def as_rows(rows) -> np.ndarray:
    return np.asarray(rows, np.float32).reshape(-1, 6)


@settings(max_examples=60, deadline=None)
@given(rows=_rows, seed=st.integers(0, 1000), name=st.sampled_from(sorted(OPTIONS)))
def test_static_equals_eager(rows, seed, name):
    config, rows = OPTIONS[name], as_rows(rows)
    predictions = make_predictions(seed)
    eager = ComputeLoss.from_config(
        torch.tensor(ANCHORS, dtype=torch.float32), torch.tensor(STRIDES), CLASSES, config
    )
    expected, expected_items = eager(predictions, torch.tensor(rows))
    expected_gradients = torch.autograd.grad(expected.sum(), predictions)

    value, items, balance, gradients = run_static(config, predictions, rows)
    torch.testing.assert_close(value, expected[0], rtol=2e-6, atol=1e-8)
    torch.testing.assert_close(items, expected_items, rtol=2e-6, atol=1e-8)
    torch.testing.assert_close(
        balance, torch.tensor(eager.balance[: len(STRIDES)]).float(), rtol=2e-6, atol=0
    )
    for got, want in zip(gradients, expected_gradients, strict=True):
        assert (got - want).norm() <= 1e-5 * want.norm() + 1e-9


@settings(max_examples=25, deadline=None)
@given(rows=_rows, seed=st.integers(0, 1000), extra=st.integers(1, 40))
def test_padding_changes_no_bit_but_rounding(rows, seed, extra):
    predictions, rows = make_predictions(seed), as_rows(rows)
    tight = run_static(LossConfig(), predictions, rows)
    loose = run_static(LossConfig(), predictions, rows, max_targets=max(len(rows), 1) + extra)
    torch.testing.assert_close(loose[0], tight[0], rtol=1e-6, atol=0)
    for got, want in zip(loose[3], tight[3], strict=True):
        assert (got - want).norm() <= 1e-6 * want.norm()
        assert torch.equal(got == 0, want == 0)


@settings(max_examples=25, deadline=None)
@given(rows=_rows, seed=st.integers(0, 1000), data=st.data())
def test_order_of_rows_does_not_matter_when_sorting(rows, seed, data):
    config, predictions = LossConfig(sort_obj_iou=True), make_predictions(seed)
    shuffled = data.draw(st.permutations(rows))
    one = run_static(config, predictions, as_rows(rows))
    other = run_static(config, predictions, as_rows(shuffled))
    torch.testing.assert_close(one[0], other[0], rtol=1e-6, atol=0)
    for got, want in zip(one[3], other[3], strict=True):
        assert (got - want).norm() <= 1e-6 * want.norm()


def test_order_of_rows_matters_without_sorting():
    rows = as_rows([(0, 0, 0.52, 0.52, 0.3, 0.3), (0, 1, 0.53, 0.53, 0.2, 0.35)])
    predictions = make_predictions(0)
    one = run_static(LossConfig(), predictions, rows)
    other = run_static(LossConfig(), predictions, rows[::-1])
    assert one[1][1] != other[1][1]  # objectness: another winner
    torch.testing.assert_close(one[1][0], other[1][0])  # the box term sees both either way


def test_gamma_zero_is_bce():
    rows = as_rows([(0, 1, 0.4, 0.6, 0.3, 0.3)])
    predictions = make_predictions(3)
    tiny = dataclasses.replace(LossConfig(), fl_gamma=1e-7, focal_alpha=0.5)
    plain, nearly = run_static(LossConfig(), predictions, rows), run_static(tiny, predictions, rows)
    torch.testing.assert_close(nearly[1][1:] * 2, plain[1][1:], rtol=1e-5, atol=0)


@pytest.mark.parametrize("config", OPTIONS.values(), ids=OPTIONS.keys())
@pytest.mark.parametrize("logit", [-100.0, -60.0, -43.0, -22.0, 0.0, 22.0, 60.0, 100.0])
def test_extreme_logits_stay_finite(config, logit):
    rows = as_rows([(0, 1, 0.4, 0.6, 0.3, 0.3), (1, 2, 0.5, 0.5, 1.0, 1.0)])
    predictions = [torch.full_like(level, logit).requires_grad_() for level in make_predictions(0)]
    value, items, balance, gradients = run_static(config, predictions, rows)
    for tensor in (value, items, balance, *gradients):
        assert torch.isfinite(tensor).all()


@pytest.mark.parametrize("config", OPTIONS.values(), ids=OPTIONS.keys())
@settings(max_examples=10, deadline=None)
@given(rows=_rows, seed=st.integers(0, 1000), scale=st.sampled_from([10.0, 50.0, 100.0]))
def test_random_extremes_stay_finite(config, rows, seed, scale):
    results = run_static(config, make_predictions(seed, scale=scale), as_rows(rows))
    for tensor in (*results[:3], *results[3]):
        assert torch.isfinite(tensor).all()


def test_rows_out_of_range_match_nothing():
    """The host refuses such rows; the graph must not read outside its tensors either."""
    predictions = make_predictions(1)
    good = (0, 1, 0.4, 0.6, 0.3, 0.3)
    bad = [(BATCH, *good[1:]), (-1, *good[1:]), (0, CLASSES, *good[2:]), (0, -1, *good[2:])]
    for column, values in enumerate(((1e30, -0.5), (1e30, -0.5), *[(-0.1, 1.1, 1e30)] * 4)):
        for value in (*values, math.nan, math.inf, -math.inf):
            bad.append((*good[:column], value, *good[column + 1 :]))
    bad.append((*good[:4], -0.3, -0.3))
    loss = make_loss(LossConfig())
    expected, _ = loss(predictions, torch.tensor([good]))
    value, _ = loss(predictions, torch.tensor([good, *bad], dtype=torch.float32))
    torch.testing.assert_close(value, expected, rtol=1e-6, atol=0)


def test_one_class_has_no_class_term():
    rows = as_rows([(0, 0, 0.4, 0.6, 0.3, 0.3)])
    predictions = make_predictions(2, classes=1)
    _, items, _, gradients = run_static(LossConfig(), predictions, rows, classes=1)
    assert items[2] == 0
    assert all((gradient[..., 5:] == 0).all() for gradient in gradients)


def test_half_precision_predictions_give_a_float32_loss():
    rows = torch.tensor(as_rows([(0, 1, 0.4, 0.6, 0.3, 0.3)]))
    predictions = [level.detach().half().requires_grad_() for level in make_predictions(2)]
    loss = make_loss(LossConfig())
    value, _ = loss(predictions, rows)
    expected, _ = loss([level.float() for level in predictions], rows)
    assert value.dtype == torch.float32
    torch.testing.assert_close(value, expected)


def test_items_are_detached_and_balance_is_optional():
    predictions = make_predictions(2)
    loss = make_loss(LossConfig())
    value, items = loss(predictions, torch.zeros(4, 6))
    assert value.requires_grad and not items.requires_grad
    *_, balance = loss(predictions, torch.zeros(4, 6), loss.initial_balance)
    assert torch.equal(balance, loss.initial_balance)


@pytest.mark.parametrize(
    ("call", "told"),
    [
        (lambda: YoloLoss(ANCHORS[:1], STRIDES[:1], 3), ("levels", 1, 2, 5)),
        (lambda: YoloLoss(ANCHORS, (8, 16, 32), 3), ("strides", (3,))),
        (lambda: YoloLoss(torch.zeros(2, 3, 2), STRIDES, 3), ("anchors", 0)),
        (lambda: YoloLoss(torch.ones(2, 3), STRIDES, 3), ("anchors", (2, 3), "(nl, na, 2)")),
        (lambda: YoloLoss(ANCHORS, STRIDES, 0), ("num_classes", 0)),
        (
            lambda: YoloLoss(ANCHORS, (8, 32), 3, LossConfig(autobalance=True)),
            ("autobalance", 16),
        ),
        (
            lambda: make_loss(LossConfig())(make_predictions(0)[:1], torch.zeros(1, 6)),
            ("maps", 1, 2),
        ),
        (
            lambda: make_loss(LossConfig(), 4)(make_predictions(0), torch.zeros(1, 6)),
            ((2, 3, 8, 12, 8), "(B, 3, H, W, 9)"),
        ),
        (
            lambda: make_loss(LossConfig(autobalance=True))(make_predictions(0), torch.zeros(1, 6)),
            ("autobalance", "`initial_balance`"),
        ),
    ],
)
def test_bad_input_is_refused(call, told):
    with pytest.raises(ConfigError, match=mentions(*told)):
        call()
