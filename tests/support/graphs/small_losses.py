"""Losses alone of the tiny detector's sizes, with tiers, from every place they can start from."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from exportloss.export import export_loss
from exportloss.models.layers import Detect
from tests.support.tiny_detector import ANCHORS, CLASSES, IMAGE, STRIDES, make_loss

TIERS, MAX_TARGETS, BATCH, CHANNELS = (2, 5), 9, 2, (3, 4)
LAYOUTS = ("permuted", "head-output", "head-input")
# With autobalance the balance changes, so that it can be compared.
OPTIONS = {"autobalance": True, "label_smoothing": 0.1}

# Options of losses whose graphs differ, by name.
LOSSES = {
    "default": {},
    "focal": {"fl_gamma": 1.5},
    "qfocal": {"fl_gamma": 1.5, "criterion": "qfocal"},
    "blur": {"criterion": "blur"},
    "smooth": {"label_smoothing": 0.1, "cls_pw": 2.0, "obj_pw": 0.5},
    "sorted": {"sort_obj_iou": True, "gr": 0.5},
    "autobalance": {"autobalance": True},
}


def make_head() -> Detect:
    torch.manual_seed(0)
    anchors = [[side for pair in level for side in pair] for level in ANCHORS]
    return Detect(CLASSES, anchors, CHANNELS, STRIDES)


def export_small_loss(folder: Path, layout: str = "permuted", **options: Any) -> Path:
    sizes = {"image_size": (IMAGE, IMAGE), "batch_size": BATCH, "max_targets": MAX_TARGETS}
    settings = {"tiers": TIERS, "gradients": True, **sizes, **options}
    export_loss(make_loss(**OPTIONS), folder, layout=layout, head=make_head(), **settings)
    return folder
