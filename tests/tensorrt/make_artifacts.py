"""Export for GPUs whatever `tests/tensorrt` has TensorRT parse, in the environment that has torch.

    python -m tests.tensorrt.make_artifacts build/tensorrt

`graphs.json` then lists the graphs, in folders by what was exported. The loss in `any` is for every
runtime instead, and TensorRT for RTX is to refuse it.
"""

from __future__ import annotations

import json
import multiprocessing
import shutil
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import torch

from exportloss import YoloLoss
from exportloss.export import export_loss, export_train_step
from exportloss.models import yolov5
from tests.support import anchor_free
from tests.support.golden_cases import find_cases, load
from tests.support.graphs.small_losses import LAYOUTS, LOSSES, export_small_loss
from tests.support.tiny_detector import IMAGE, make_detector, make_loss

GOLDEN = Path(__file__).parents[1] / "golden"
CLASSES = 2
WORKERS = 2
FOR_GPUS: dict[str, Any] = {"provider": "gpu"}
STEPS: dict[str, dict[str, Any]] = {
    "yolov5n": {"head": "dense"},
    "yolov5n-sparse": {"head": "sparse", "optimizer": "adamw", "ema": True},
    "yolov5n-frozen": {"freeze": 10, "optimizer": "adamw"},
    "yolov5n-float16": {"precision": "float16"},
    "yolov5n-bfloat16": {"precision": "bfloat16", "ema": True},
    "yolov5s": {},
    "yolov5n6": {},
}

Job = Callable[[], Any]


def make_step(folder: Path, options: dict[str, Any]) -> None:
    """Export the steps of a YOLOv5 on the smallest images that it takes."""
    model = yolov5(folder.name.partition("-")[0], CLASSES)
    size = max(model.strides)
    sizes = {"image_size": (2 * size, size), "batch_size": 2, "max_targets": 4}
    loss = YoloLoss(model.anchors_px, model.strides, CLASSES)
    export_train_step(model, loss, folder, **sizes, **options, **FOR_GPUS)


def make_small_step(folder: Path) -> None:
    """Export the steps of a detector that has every kind of layer."""
    sizes = {"image_size": (IMAGE, IMAGE), "batch_size": 1, "max_targets": 4}
    export_train_step(make_detector(), make_loss(), folder, **sizes, **FOR_GPUS)


def make_anchor_free(folder: Path) -> None:
    """Export the steps of a detector without anchors, with the task-aligned loss."""
    size = anchor_free.IMAGE
    sizes = {"image_size": (size, size), "batch_size": 1, "max_targets": 4}
    export_train_step(
        anchor_free.make_model(), anchor_free.make_loss(), folder, **sizes, **FOR_GPUS
    )


def make_task_aligned_loss(folder: Path) -> None:
    """Export the task-aligned loss."""
    sizes = {"image_size": (64, 32), "batch_size": 1, "max_targets": 3, "tiers": ()}
    export_loss(anchor_free.make_loss(), folder, gradients=True, **sizes, **FOR_GPUS)


def make_loss_alone(folder: Path, options: dict[str, Any], *, gradients: bool = True) -> None:
    """Export a loss with options of the loss."""
    sizes = {"image_size": (64, 32), "batch_size": 1, "max_targets": 3, "tiers": ()}
    export_loss(make_loss(**options), folder, gradients=gradients, **sizes, **FOR_GPUS)


def make_golden(folder: Path, path: Path) -> None:
    """Export the loss of a golden case."""
    graph = load(path).graph
    export_loss(graph.make_loss(), folder, tiers=(), gradients=True, **graph.sizes, **FOR_GPUS)


def make_yolov5_loss(folder: Path, provider: str) -> None:
    """Export YOLOv5's loss for images of 320 x 320 pixels."""
    model = yolov5("yolov5n", 80)
    loss = YoloLoss(model.anchors_px, model.strides, 80)
    sizes = {"image_size": (320, 320), "batch_size": 4, "max_targets": 64}
    export_loss(loss, folder, gradients=True, provider=provider, **sizes)  # type: ignore[arg-type]


def jobs(folder: Path) -> Iterator[Job]:
    """Exports, the longest first."""
    for name, options in reversed(STEPS.items()):
        yield partial(make_step, folder / name, options)
    yield partial(make_small_step, folder / "small")
    yield partial(make_anchor_free, folder / "anchor-free")
    yield partial(make_task_aligned_loss, folder / "task-aligned-loss")
    for provider in ("any", "gpu"):
        name = "any" if provider == "any" else "yolov5-loss"
        yield partial(make_yolov5_loss, folder / name, provider)
    for name, options in LOSSES.items():
        yield partial(make_loss_alone, folder / f"loss-{name}", options)
    yield partial(make_loss_alone, folder / "loss-without-gradients", {}, gradients=False)
    for layout in LAYOUTS:
        yield partial(export_small_loss, folder / layout, layout, **FOR_GPUS)
    for path in find_cases(GOLDEN):
        yield partial(make_golden, folder / f"golden-{path.stem}", path)


def main(folder: Path) -> None:
    """Make all of it anew; the list at last, so that it tells of whole folders only."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(WORKERS, context, torch.set_num_threads, (1,)) as pool:
        for future in [pool.submit(job) for job in jobs(folder)]:
            future.result()
    for state in folder.glob("*/state.safetensors"):
        state.unlink()  # weights, which no parser looks at
    graphs = sorted(str(path.relative_to(folder)) for path in folder.glob("*/*.onnx"))
    (folder / "graphs.json").write_text(json.dumps(graphs, indent=1) + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
