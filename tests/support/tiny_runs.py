"""Artifacts and data of training runs whose epochs take a fraction of a second."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from exportloss.demo.dataset import SHAPE_NAMES, make_shapes
from tests.support import anchor_free
from tests.support.tiny_detector import CLASSES, IMAGE, DecodingDetector, make_loss

NAMES = SHAPE_NAMES[:CLASSES]


def export_tiny(folder: Path, **options: Any) -> Path:
    """Export the tiny detector as a portable step: batch 2, 32 targets, SGD, a moving average."""
    from exportloss.export.step.export import export_train_step

    torch.manual_seed(0)
    export_train_step(
        DecodingDetector(),
        make_loss(),
        folder,
        image_size=(IMAGE, IMAGE),
        batch_size=2,
        max_targets=32,
        ema=True,
        names=NAMES,
        **options,
    )
    return folder


def export_anchor_free(folder: Path) -> None:
    """Export a detector without anchors, of the same classes, as a portable step with AdamW."""
    from exportloss.export.step.export import export_train_step

    torch.manual_seed(0)
    export_train_step(
        anchor_free.AnchorFree(CLASSES, width=8),
        anchor_free.make_loss(),
        folder,
        image_size=(IMAGE, IMAGE),
        batch_size=2,
        max_targets=32,
        optimizer="adamw",
        ema=True,
        names=NAMES,
    )


def export_tiny_ort(folder: Path) -> None:
    """Export the same detector as training artifacts, without a moving average."""
    from exportloss.export import export_training_artifacts

    torch.manual_seed(0)
    export_training_artifacts(
        DecodingDetector(),
        make_loss(),
        folder,
        image_size=(IMAGE, IMAGE),
        batch_size=2,
        max_targets=32,
        names=NAMES,
    )


def make_tiny_shapes(folder: Path, *, seed: int = 0, size: int = IMAGE) -> Path:
    """Draw 8 images for training and 3 for validation; leave out what the detector lacks."""
    recipe = make_shapes(folder, train=8, val=3, size=size, seed=seed)
    for label in folder.glob("labels/*/*.txt"):
        rows = [row for row in label.read_text().splitlines() if int(row.split()[0]) < CLASSES]
        label.write_text("".join(f"{row}\n" for row in rows))
    names = "".join(f"  {index}: {name}\n" for index, name in enumerate(NAMES))
    recipe.write_text(f"path: .\ntrain: images/train\nval: images/val\nnames:\n{names}")
    return recipe
