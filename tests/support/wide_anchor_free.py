"""A detector of YOLOv8's shape and width, written from its published diagrams.

`python -m tests.support.wide_anchor_free` trains it at full width in both kinds of artifact, with
SGD and AdamW, and compares with eager torch in float64.
"""

from __future__ import annotations

import argparse
import math
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from exportloss import TaskAlignedConfig, TaskAlignedLoss
from exportloss.export import export_train_step, export_training_artifacts
from exportloss.export.verify.report import Verification
from exportloss.export.verify.verify import verify_all
from tests.support.anchor_free import decode_boxes
from tests.support.manifests import edit_manifest
from tests.support.tiny_detector import block

_EXPORTS = {"step": export_train_step, "ort": export_training_artifacts}
# At verify's default rate the free runs, in which each engine goes on from its own state, drift
# apart by more than its bound; single steps do not.
RATE = 1e-4
_NANO = 16  # channels of the stem of the smallest of the family


class Residual(nn.Module):
    """Two convolutions, added to their input."""

    def __init__(self, channels: int, *, shortcut: bool) -> None:
        super().__init__()
        self.body = nn.Sequential(block(channels, channels, 3), block(channels, channels, 3))
        self.shortcut = shortcut

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.body(x)
        return x + y if self.shortcut else y


class SplitStage(nn.Module):
    """Half of the channels go through residual blocks, whose results are all kept."""

    def __init__(self, inputs: int, outputs: int, depth: int = 1, *, shortcut: bool = False):
        super().__init__()
        half = outputs // 2
        self.enter = block(inputs, 2 * half, 1)
        self.blocks = nn.ModuleList(Residual(half, shortcut=shortcut) for _ in range(depth))
        self.leave = block((2 + depth) * half, outputs, 1)

    def forward(self, x: Tensor) -> Tensor:
        kept = list(self.enter(x).chunk(2, dim=1))
        for one in self.blocks:
            kept.append(one(kept[-1]))
        y: Tensor = self.leave(torch.cat(kept, dim=1))
        return y


class Pooling(nn.Module):
    """Three poolings after each other; all results are kept."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.enter = block(channels, channels // 2, 1)
        self.pool = nn.MaxPool2d(5, 1, 2)
        self.leave = block(2 * channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        kept = [self.enter(x)]
        for _ in range(3):
            kept.append(self.pool(kept[-1]))
        y: Tensor = self.leave(torch.cat(kept, dim=1))
        return y


class WideAnchorFree(nn.Module):
    """Backbone, a way down and a way up, and at three levels a head of boxes and one of classes.

    Args:
        num_classes: Number of classes.
        width: Channels of the stem; 16 is the smallest of the family, of 3.2 million parameters.
        reg_max: Bins per distance.
    """

    strides = (8, 16, 32)

    def __init__(self, num_classes: int = 80, *, width: int = _NANO, reg_max: int = 16) -> None:
        super().__init__()
        self.num_classes, self.reg_max = num_classes, reg_max
        c1, c2, c3, c4, c5 = (width * 2**i for i in range(5))
        self.stem = nn.Sequential(
            block(3, c1, 3, 2), block(c1, c2, 3, 2), SplitStage(c2, c2, shortcut=True)
        )
        self.down3 = nn.Sequential(block(c2, c3, 3, 2), SplitStage(c3, c3, 2, shortcut=True))
        self.down4 = nn.Sequential(block(c3, c4, 3, 2), SplitStage(c4, c4, 2, shortcut=True))
        self.down5 = nn.Sequential(
            block(c4, c5, 3, 2), SplitStage(c5, c5, shortcut=True), Pooling(c5)
        )
        self.up = nn.Upsample(scale_factor=2)
        self.mix4, self.mix3 = SplitStage(c5 + c4, c4), SplitStage(c4 + c3, c3)
        self.back4, self.back5 = block(c3, c3, 3, 2), block(c4, c4, 3, 2)
        self.out4, self.out5 = SplitStage(c3 + c4, c4), SplitStage(c4 + c5, c5)
        channels, bins = (c3, c4, c5), 4 * reg_max
        self.boxes = nn.ModuleList(self._head(c, max(c3 // 4, bins), bins) for c in channels)
        hidden = max(c3, min(num_classes, 100))
        self.classes = nn.ModuleList(self._head(c, hidden, num_classes) for c in channels)
        for head, stride in zip(self.classes, self.strides, strict=True):
            share = 5 * stride**2 / 640**2  # of cells that hold an object: five per image
            nn.init.constant_(head[-1].bias, math.log(share / (1 - share)))

    @staticmethod
    def _head(inputs: int, hidden: int, outputs: int) -> nn.Sequential:
        return nn.Sequential(
            block(inputs, hidden, 3), block(hidden, hidden, 3), nn.Conv2d(hidden, outputs, 1)
        )

    def forward(self, images: Tensor) -> list[Tensor]:
        p3 = self.down3(self.stem(images))
        p4 = self.down4(p3)
        p5 = self.down5(p4)
        middle = self.mix4(torch.cat((self.up(p5), p4), dim=1))
        fine = self.mix3(torch.cat((self.up(middle), p3), dim=1))
        middle = self.out4(torch.cat((self.back4(fine), middle), dim=1))
        coarse = self.out5(torch.cat((self.back5(middle), p5), dim=1))
        return [
            torch.cat((boxes(x), classes(x)), dim=1)
            for boxes, classes, x in zip(
                self.boxes, self.classes, (fine, middle, coarse), strict=True
            )
        ]

    def decode(self, levels: Sequence[Tensor]) -> Tensor:
        """(B, N, 5 + nc) boxes in pixels, with an objectness of 1."""
        return decode_boxes(levels, self.strides, self.reg_max)

    def layers(self) -> list[nn.Module]:
        """The parts that `freeze` counts."""
        ways = [self.mix4, self.mix3, self.back4, self.out4, self.back5, self.out5]
        heads = [module for pair in zip(self.boxes, self.classes, strict=True) for module in pair]
        return [self.stem, self.down3, self.down4, self.down5, *ways, *heads]


def make_wide(num_classes: int = 80, *, width: int = _NANO, seed: int = 0) -> WideAnchorFree:
    torch.manual_seed(seed)
    return WideAnchorFree(num_classes, width=width)


def verify_wide(
    folder: Path, model: WideAnchorFree, *, optimizer: str, image: int, batch: int, **options: Any
) -> tuple[Verification, ...]:
    """Export both kinds of artifact, and compare their training with that of eager torch.

    Args:
        folder: Where to export.
        model: Detector.
        optimizer: Name of the optimizer.
        image: Height and width of the images in pixels.
        batch: Images per batch.
        options: Options of `verify`.
    """
    loss = TaskAlignedLoss(
        model.strides, model.num_classes, TaskAlignedConfig(reg_max=model.reg_max)
    )
    sizes: dict[str, Any] = {
        "image_size": (image, image),
        "batch_size": batch,
        "max_targets": 8 * batch,
    }
    folders = []
    for kind, export in _EXPORTS.items():
        folders.append(folder / f"{kind}-{optimizer}")
        made = folder / f"{kind}-sgd"
        if kind == "ort" and made.exists():  # the session updates: its graphs are the same
            shutil.copytree(made, folders[-1])
            edit_manifest(folders[-1], optimizer=optimizer)
        else:
            export(model, loss, folders[-1], optimizer=optimizer, **sizes)
    return verify_all(folders, model=model, threads=1, **options)


def main() -> None:
    """Verify, and print the worst differences of all steps."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--width", type=int, default=_NANO, help="channels of the stem")
    parser.add_argument("--nc", type=int, default=80)
    parser.add_argument("--imgsz", type=int, default=160)
    parser.add_argument("--batch-size", type=int, default=4)
    parser.add_argument("--lr", type=float, default=RATE)
    parser.add_argument("--steps", type=int, default=5)
    options = parser.parse_args()
    model = make_wide(options.nc, width=options.width)
    print(f"{sum(p.numel() for p in model.parameters()):,} parameters")
    with tempfile.TemporaryDirectory() as folder:
        for optimizer in ("sgd", "adamw"):
            found = verify_wide(
                Path(folder),
                model,
                optimizer=optimizer,
                image=options.imgsz,
                batch=options.batch_size,
                steps=options.steps,
                lr=options.lr,
            )
            for kind, verification in zip(_EXPORTS, found, strict=True):
                result = "passed" if verification.passed else f"exceeds {verification.broken}"
                print(f"{optimizer} {kind}: {result}")
                worst = verification.worst.by_name.items()
                print("  " + ", ".join(f"{name} {found.value:.1e}" for name, found in worst))


if __name__ == "__main__":
    main()
