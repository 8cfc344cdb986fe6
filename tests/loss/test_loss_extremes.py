"""Loss and gradients are finite for 10,000 random cases at the ends of what can occur."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch

from exportloss import LossConfig, YoloLoss, pad_targets
from exportloss.export import export_loss
from tests.support.graphs.portable_loss import open_session

Arrays = list[npt.NDArray[np.float32]]

# A case is an image with its logits and boxes. Those of a batch share a loss, in which what is not
# finite in one of them cannot hide.
CASES, IMAGES = 10_000, 50
CLASSES, ANCHORS, STRIDES, SIZE = 3, [[[2, 3], [16, 30]], [[30, 61], [62, 45]]], [8, 16], (16, 32)
ROWS = 3 * IMAGES
EXPORTED = {
    "default": {},
    "any anchor": {"anchor_t": 1e9, "gr": 0.5, "sort_obj_iou": True},
    "focal": {"fl_gamma": 0.5, "cls_pw": 4.0, "obj_pw": 0.25, "anchor_t": 1e9},
    "qfocal": {"fl_gamma": 1.5, "criterion": "qfocal", "label_smoothing": 0.1, "anchor_t": 1e9},
    "blur": {"criterion": "blur", "autobalance": True, "anchor_t": 1e9},
}


def draw_options(rng: np.random.Generator) -> dict[str, Any]:
    """Every option, each often at its ends; an `anchor_t` of 1e9 lets any box match any anchor."""
    criterion = str(rng.choice(["bce", "focal", "qfocal", "blur"]))
    gammas = {"bce": [0.0, 0.5, 1.5], "blur": [0.0]}.get(criterion, [1e-3, 0.5, 1.5, 5.0])
    return {
        "criterion": criterion,
        "fl_gamma": float(rng.choice(gammas)),
        "focal_alpha": float(rng.choice([0.0, 0.25, 1.0])),
        "blur_alpha": float(rng.choice([1e-3, 0.05, 1.0])),
        "anchor_t": float(rng.choice([1.5, 4.0, 1e3, 1e9])),
        "label_smoothing": float(rng.choice([0.0, 0.1, 0.99])),
        "gr": float(rng.choice([0.0, 0.5, 1.0])),
        **{name: float(rng.choice([1e-2, 1.0, 20.0])) for name in ("cls_pw", "obj_pw")},
        **{name: float(rng.choice([0.0, 0.05, 10.0])) for name in ("box", "cls", "obj")},
        **{name: bool(rng.integers(2)) for name in ("sort_obj_iou", "autobalance")},
    }


def draw_cases(rng: np.random.Generator) -> tuple[Arrays, npt.NDArray[np.float32]]:
    """Logits of 100, -100, 0 and between; boxes of 1e-6, 1 and between, on borders and anywhere."""

    def mixed(shape: tuple[int, ...], ends: list[float], low: float, high: float) -> Any:
        at_end = rng.random(shape) < rng.random()
        return np.where(at_end, rng.choice(ends, shape), rng.uniform(low, high, shape))

    levels = [
        mixed(
            (IMAGES, 2, SIZE[0] // stride, SIZE[1] // stride, 5 + CLASSES),
            [-100, 100, 0],
            *(-100, 100),
        ).astype(np.float32)
        for stride in STRIDES
    ]
    rows = np.column_stack(
        (
            np.repeat(np.arange(IMAGES), ROWS // IMAGES),
            rng.integers(0, CLASSES, ROWS),
            mixed((ROWS, 2), [0, 0.25, 0.5, 1], 0, 1),
            mixed((ROWS, 2), [1e-6, 1], 1e-6, 1),
        )
    )
    return levels, pad_targets(rows, ROWS, batch_size=IMAGES, num_classes=CLASSES)


def make_loss(options: dict[str, Any]) -> YoloLoss:
    return YoloLoss(ANCHORS, STRIDES, CLASSES, LossConfig(**options))


def test_in_torch() -> None:
    matched = 0
    for seed in range(CASES // IMAGES):
        rng = np.random.default_rng(seed)
        options, (levels, targets) = draw_options(rng), draw_cases(rng)
        loss = make_loss(options)
        predictions = [torch.tensor(level, requires_grad=True) for level in levels]
        value, items, balance = loss(predictions, torch.tensor(targets), loss.initial_balance)
        gradients = torch.autograd.grad(value, predictions)
        for tensor in (value, items, balance, *gradients):
            assert torch.isfinite(tensor).all(), (seed, options)
        matched += bool(items[0])
    assert matched > CASES // IMAGES // 2


@pytest.mark.parametrize("options", EXPORTED.values(), ids=EXPORTED.keys())
def test_in_the_graph(tmp_path: Path, options: dict[str, Any]) -> None:
    sizes = {"image_size": SIZE, "batch_size": IMAGES, "max_targets": ROWS}
    loss = make_loss(options)
    export_loss(loss, tmp_path / "loss", gradients=True, **sizes)
    session = open_session((tmp_path / "loss" / "loss.onnx").read_bytes())
    for seed in range(CASES // IMAGES):
        levels, targets = draw_cases(np.random.default_rng(seed))
        feed = {f"predictions_{i}": level for i, level in enumerate(levels)}
        feed |= {"targets": targets, "balance": loss.initial_balance.numpy()}
        for array in session.run(None, feed):
            assert np.isfinite(array).all(), seed
