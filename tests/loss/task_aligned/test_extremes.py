"""Finite values and gradients of the anchor-free loss, whatever finite numbers it is given."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from exportloss import TaskAlignedConfig, TaskAlignedLoss, pad_targets
from exportloss.loss.task_aligned.candidates import TargetBoxes

STRIDES, CLASSES, SIZE = (8, 16), 3, 64

ROWS = {
    "none": [],
    "whole image": [[0, 1, 0.5, 0.5, 1, 1]],
    "a point": [[0, 1, 0.5, 0.5, 0, 0], [1, 2, 0.0625, 0.0625, 0, 0]],
    "a line": [[0, 0, 0.3, 0.5, 1, 0], [1, 0, 0.3, 0.5, 0, 1]],
    "at the corner": [[0, 0, 0, 0, 0.5, 0.5], [1, 1, 1, 1, 0.01, 0.01]],
    "the same twice": [[0, 0, 0.4, 0.4, 0.5, 0.5]] * 2,
    "more than cells": [[0, 1, 0.5, 0.5, 0.9, 0.9]] * 100,
}
VALUES = {
    "zero": 0.0,
    "large": 1e4,
    "huge": 1e30,
    "largest": float(np.finfo(np.float32).max) / 1e4,
    "smallest": 1e-45,
}


def compute(maps, rows, config, capacity=None):
    loss = TaskAlignedLoss(STRIDES, CLASSES, config)
    padded = pad_targets(rows, capacity or max(len(rows), 4), batch_size=2, num_classes=CLASSES)
    maps = [level.requires_grad_() for level in maps]
    result = loss(maps, torch.from_numpy(padded))
    return result, torch.autograd.grad(result.loss, maps)


def make_maps(config, fill):
    channels = 4 * config.reg_max + CLASSES
    return [fill((2, channels, SIZE // s, SIZE // s)) for s in STRIDES]


@pytest.mark.parametrize("reg_max", [16, 1])
@pytest.mark.parametrize("profile", ["8.4", "8.3", "yolov9"])
@pytest.mark.parametrize("rows", ROWS.values(), ids=ROWS.keys())
@pytest.mark.parametrize("value", VALUES.values(), ids=VALUES.keys())
def test_finite(value, rows, profile, reg_max):
    config = TaskAlignedConfig(profile=profile, reg_max=reg_max)
    signs = torch.Generator().manual_seed(0)
    for fill in (
        lambda shape: torch.full(shape, value),
        lambda shape: torch.full(shape, -value),
        lambda shape: (torch.randint(0, 2, shape, generator=signs) * 2 - 1) * value,
    ):
        result, gradients = compute(make_maps(config, fill), rows, config)
        assert torch.isfinite(result.terms).all()
        assert all(torch.isfinite(gradient).all() for gradient in gradients)


@pytest.mark.parametrize("reg_max", [16, 1])
def test_without_targets_only_classes_learn(reg_max):
    config = TaskAlignedConfig(reg_max=reg_max)
    result, gradients = compute(make_maps(config, torch.zeros), [], config)
    cells = 2 * CLASSES * sum((SIZE // s) ** 2 for s in STRIDES)
    assert result.terms.tolist() == pytest.approx([0, config.cls * np.log(2) * cells, 0])
    for gradient in gradients:
        assert not gradient[:, : 4 * reg_max].any()
        torch.testing.assert_close(
            gradient[:, 4 * reg_max :],
            torch.full_like(gradient[:, 4 * reg_max :], 2 * config.cls / 2),
        )


def test_capacity_and_rows_that_do_not_exist_change_nothing():
    config = TaskAlignedConfig()
    rows = [[0, 1, 0.5, 0.5, 0.6, 0.4], [1, 2, 0.2, 0.7, 0.3, 0.3]]
    torch.manual_seed(0)
    maps = make_maps(config, torch.randn)
    small, wide = (compute(maps, rows, config, capacity) for capacity in (2, 50))
    torch.testing.assert_close(small[0].terms, wide[0].terms, rtol=1e-6, atol=0)
    for one, other in zip(small[1], wide[1], strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-9)
    bad = torch.tensor([[5, 0, 0.5, 0.5, 1, 1], [0, 7, 0.5, 0.5, 1, 1], [0, 0, torch.nan, 0, 1, 1]])
    loss = TaskAlignedLoss(STRIDES, CLASSES, config)
    with_bad = loss(maps, torch.cat((bad, torch.tensor(rows))))
    torch.testing.assert_close(with_bad.terms, small[0].terms, rtol=1e-6, atol=0)


def test_padding_costs_nothing_in_torch():
    """Rows after the last that exists meet no cell, unless a graph is made of the code."""
    rows = torch.tensor(
        [[0, 1, 0.5, 0.5, 0.6, 0.4], [0, 1, 0, 0, 0.1, 0.1], [1, 2, 0.2, 0.7, 1, 1]]
    )
    padded = torch.cat((rows, torch.zeros(300, 6)))
    sizes = {"batch_size": 2, "num_classes": CLASSES, "image_size": (SIZE, SIZE)}
    for given, left in (
        (padded, [True, False, True]),
        (rows[:2], [True]),
        (torch.zeros(300, 6), [False]),
    ):
        found = TargetBoxes.of(given, **sizes).without_padding()
        assert found.exists.tolist() == left
        assert len(found.image) == len(found.boxes.area) == len(left)
    somewhere = TargetBoxes.of(padded.to("meta"), **sizes).without_padding()
    assert len(somewhere.exists) == len(padded)


def test_half_precision_maps_are_computed_in_float32():
    config = TaskAlignedConfig()
    rows = [[0, 1, 0.5, 0.5, 0.6, 0.4]]
    torch.manual_seed(0)
    maps = [level.half() for level in make_maps(config, torch.randn)]
    half, gradients = compute(maps, rows, config)
    full, _ = compute([level.detach().float() for level in maps], rows, config)
    torch.testing.assert_close(half.loss, full.loss, rtol=1e-6, atol=0)
    assert {gradient.dtype for gradient in gradients} == {torch.float16}
