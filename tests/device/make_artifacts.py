"""Make what the device's tests run on, in the environment that has torch.

    python -m tests.device.make_artifacts build/device

For each of `CASES` the folder then holds an artifact, `sgd`, and the expected states,
`sgd-expected`; for all of them `batches.safetensors`, and settings and losses in `expected.json`.
Golden cases are in `golden`. The loss alone is in `loss`, and what torch makes of it for several
numbers of rows in `loss-expected.safetensors`. `small-sgd` and so on are of a small detector,
`small-ort` is its training artifacts; `anchor-free`
is of a detector without anchors. For `val` and `detect` there are `bright.onnx` and the data set
`spots`, and pycocotools' numbers for them in `expected.json`.
"""

from __future__ import annotations

import json
import shutil
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.numpy import save_file

from exportloss import YoloLoss
from exportloss.cli import main as command
from exportloss.export import export_loss, export_training_artifacts
from exportloss.export.step.export import export_train_step
from exportloss.export.verify.eager_session import EagerTrainSession
from exportloss.models import yolov5
from exportloss.runtime import TrainSession
from exportloss.runtime.artifact.manifest import Manifest
from tests.support import anchor_free
from tests.support import tiny_detector as tiny
from tests.support.bright_detector import make_spots, write_bright_detector
from tests.support.golden_cases import load

CASES: dict[str, dict[str, Any]] = {
    "sgd": {"optimizer": "sgd"},
    "adamw": {"optimizer": "adamw", "ema": True},
    "frozen": {"optimizer": "sgd", "freeze": 10},
    "frozen-adamw": {"optimizer": "adamw", "freeze": 10},
}
SETTINGS = {"lr": 2e-4, "momentum": 0.937, "weight_decay": 5e-4, "max_norm": 10.0}
CLASSES = ("circle", "square", "triangle")
# BatchNorm over the few cells of a smaller image amplifies rounding.
SIZE, BATCH, TARGETS, MAX_TARGETS, STEPS = 128, 2, 12, 16, 5
LOSS_TIER = 4  # slots of the smaller graph of the loss alone
GOLDEN = Path(__file__).parents[1] / "golden"
# Shared cells, both orders of winning, clamped cells, four levels, a trained detector's background.
GOLDEN_CASES = ("shared_cells", "sort_obj_iou", "borders", "p6", "trained_background")

Batches = dict[str, np.ndarray]


def draw_batches() -> Batches:
    """Noise, and boxes of all sizes; the targets are padded with zero rows."""
    rng = np.random.default_rng(0)
    rows = (STEPS, TARGETS)
    targets = np.zeros((STEPS, MAX_TARGETS, 6), np.float32)
    targets[:, :TARGETS, 0] = np.sort(rng.integers(0, BATCH, rows))
    targets[:, :TARGETS, 1] = rng.integers(0, len(CLASSES), rows)
    targets[:, :TARGETS, 2:4] = rng.uniform(0, 1, (*rows, 2))
    targets[:, :TARGETS, 4:] = rng.uniform(0.05, 0.6, (*rows, 2))
    images = rng.integers(0, 256, (STEPS, BATCH, 3, SIZE, SIZE), dtype=np.uint8)
    return {"images": images, "targets": targets}


def make_case(folder: Path, batches: Batches, **options: Any) -> dict[str, list[float]]:
    """Export to `folder`, train in the references, and return their losses."""
    manifest = export_case(export_train_step, folder, **options)
    losses = {"eager": train(EagerTrainSession(folder, manifest), folder, "eager", batches)}
    if folder.name == "sgd":  # in training artifacts all optimizers share a graph
        with tempfile.TemporaryDirectory() as temporary:
            other = Path(temporary) / "artifact"
            export_case(export_training_artifacts, other, **options)
            losses["ort"] = train(TrainSession.open(other, threads=1), folder, "ort", batches)
    return losses


def export_case(
    export: Callable[..., Manifest], folder: Path, *, model: str = "yolov5n", **options: Any
) -> Manifest:
    """Export a detector of the tests' sizes, with the same random weights every time."""
    torch.manual_seed(0)
    detector = yolov5(model, len(CLASSES))
    loss = YoloLoss(detector.anchors_px, detector.strides, detector.num_classes)
    options |= {"image_size": (SIZE, SIZE), "batch_size": BATCH, "max_targets": MAX_TARGETS}
    return export(detector, loss, folder, names=CLASSES, **options)


def make_small(
    folder: Path,
    *,
    export: Callable[..., Manifest] = export_train_step,
    freeze: int = 0,
    **options: Any,
) -> None:
    """Export a detector for engines that are slow here; `freeze` keeps its stem."""
    torch.manual_seed(0)
    detector = tiny.make_detector()
    detector.stem.requires_grad_(not freeze)
    sizes = {"image_size": (tiny.IMAGE, tiny.IMAGE), "batch_size": BATCH}
    export(detector, tiny.make_loss(), folder, max_targets=MAX_TARGETS, **sizes, **options)


def make_anchor_free(folder: Path) -> None:
    """Export a detector without anchors, with the task-aligned loss."""
    sizes = {"image_size": (SIZE, SIZE), "batch_size": BATCH, "max_targets": MAX_TARGETS}
    model, loss = anchor_free.make_model(), anchor_free.make_loss()
    export_train_step(model, loss, folder, names=CLASSES, **sizes)


def train(session: TrainSession, folder: Path, name: str, batches: Batches) -> list[float]:
    """Train and save the state after each step, which starts from eager torch's state."""
    expected = folder.with_name(f"{folder.name}-expected")
    start, losses = folder / "state.safetensors", []
    for step, batch in enumerate(zip(batches["images"], batches["targets"], strict=True)):
        session.resume(start)
        losses.append(session.step(*batch, **SETTINGS).loss)
        session.save(expected / f"{name}-{step}.safetensors")
        start = expected / f"eager-{step}.safetensors"
    return losses


def make_loss_alone(folder: Path, rows: np.ndarray) -> None:
    """Export the loss with a tier, and save maps, and what torch makes of them, by filled rows.

    Args:
        folder: where to write `loss` and `loss-expected.safetensors`.
        rows: (MAX_TARGETS, 6) boxes and zeros.
    """
    detector = yolov5("yolov5n", len(CLASSES))
    loss = YoloLoss(detector.anchors_px, detector.strides, len(CLASSES))
    sizes = {"image_size": (SIZE, SIZE), "batch_size": BATCH, "max_targets": MAX_TARGETS}
    export_loss(loss, folder / "loss", tiers=(LOSS_TIER,), gradients=True, **sizes)
    generator = torch.Generator().manual_seed(0)
    shapes = [(BATCH, 3, SIZE // s, SIZE // s, 5 + len(CLASSES)) for s in (8, 16, 32)]
    maps = [torch.randn(shape, generator=generator).requires_grad_() for shape in shapes]
    expected = {f"predictions_{level}": x.detach().numpy() for level, x in enumerate(maps)}
    for count in (0, LOSS_TIER, LOSS_TIER + 1, TARGETS):
        targets = torch.from_numpy(rows * (np.arange(len(rows)) < count)[:, None])
        value, items = loss(maps, targets.float())
        gradients = torch.autograd.grad(value, maps)
        expected |= {f"{count}/loss": value.detach().numpy(), f"{count}/items": items.numpy()}
        expected |= {f"{count}/gradient_{i}": g.numpy() for i, g in enumerate(gradients)}
    save_file(expected, folder / "loss-expected.safetensors")


def make_golden(folder: Path, *names: str) -> None:
    """Export golden cases in the form for GPUs, beside their inputs and expected values by step."""
    for name in names:
        case = load(GOLDEN / f"{name}.npz")
        options = {"tiers": (), "gradients": True, "provider": "gpu", **case.graph.sizes}
        export_loss(case.graph.make_loss(), folder / name, exist_ok=True, **options)
        expected, balance = {}, case.initial_balance
        for number, step in enumerate(case.steps):
            values = {f"predictions_{i}": level for i, level in enumerate(step.predictions)}
            values |= {f"gradient_{i}": level for i, level in enumerate(step.gradients)}
            values |= {"targets": case.padded(step), "balance": balance}
            values |= {"loss": case.loss[number], "items": case.items[number]}
            expected |= {f"{number}/{k}": np.asarray(v, np.float32) for k, v in values.items()}
            balance = case.balance[number]
        save_file(expected, folder / f"{name}.safetensors")


def make_detections(folder: Path) -> dict[str, float]:
    """Write a detector and a data set, and return what pycocotools says of the detections."""
    from tests.support.coco_numbers import coco_map  # a machine with a GPU may lack pycocotools

    shutil.rmtree(folder / "spots", ignore_errors=True)
    data = make_spots(folder / "spots")
    weights = write_bright_detector(folder / "bright.onnx", names={0: "green", 1: "blue"})
    with tempfile.TemporaryDirectory() as temporary:
        options = ["--imgsz", "64", "--project", temporary, "--save-json"]
        if command(["val", "--weights", str(weights), "--data", str(data), *options]):
            raise RuntimeError("val failed")
        ap50, ap = coco_map(data, Path(temporary) / "exp" / "bright_predictions.json")
    return {"map50": ap50, "map50_95": ap}


def main(folder: Path) -> None:
    torch.set_num_threads(1)
    small = {f"small-{name}": case for name, case in CASES.items()}
    small["small-ort"] = {**CASES["adamw"], "export": export_training_artifacts}
    for name in (*CASES, *small, "anchor-free", "loss"):
        shutil.rmtree(folder / name, ignore_errors=True)
    folder.mkdir(parents=True, exist_ok=True)
    batches = draw_batches()
    save_file(batches, folder / "batches.safetensors")
    make_loss_alone(folder, batches["targets"][0])
    make_golden(folder / "golden", *GOLDEN_CASES)
    losses = {name: make_case(folder / name, batches, **case) for name, case in CASES.items()}
    for name, case in small.items():
        make_small(folder / name, **case)
    make_anchor_free(folder / "anchor-free")
    expected = {"settings": SETTINGS, "losses": losses, "coco": make_detections(folder)}
    (folder / "expected.json").write_text(json.dumps(expected, indent=1) + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
