"""Export YOLOv5n at 320 pixels for `make cpp-long`, in the environment that has torch.

python -m tests.cpp.make_artifacts build/cpp-320
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from typing import Any

import torch

from exportloss import YoloLoss
from exportloss.export.step.export import export_train_step
from exportloss.models import yolov5

CASES: dict[str, dict[str, Any]] = {
    "sgd": {"optimizer": "sgd"},
    "adamw": {"optimizer": "adamw", "ema": True},
    "frozen": {"optimizer": "sgd", "freeze": 10},
}


def main(folder: Path) -> None:
    for name, options in CASES.items():
        shutil.rmtree(folder / name, ignore_errors=True)
        torch.manual_seed(0)
        detector = yolov5("yolov5n", 3)
        loss = YoloLoss(detector.anchors_px, detector.strides, detector.num_classes)
        sizes = {"image_size": (320, 320), "batch_size": 2, "max_targets": 32}
        export_train_step(detector, loss, folder / name, **sizes, **options)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
