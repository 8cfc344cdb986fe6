"""The Python of the documents, run as it is written, and what their commands print."""

from __future__ import annotations

import re
import shlex
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import exportloss
from exportloss import YoloLoss, pad_targets
from exportloss.cli import main
from exportloss.export import (
    export_inference,
    export_loss,
    export_train_step,
    export_training_artifacts,
)
from exportloss.models import yolov5
from exportloss.runtime import TrainSession
from tests.support.videos import noise, write_video

ROOT = Path(exportloss.__file__).parents[1]
SIZE: dict[str, Any] = {"image_size": (64, 64), "batch_size": 2, "max_targets": 8}
ROWS = np.array([[0, 1, 0.5, 0.5, 0.2, 0.4]], np.float32)
NOT_RUN = {
    "README.md": "tests/project/test_readme.py does",
    "docs/checkpoints.md": "in a checkout of YOLOv5",
    "docs/tensorrt.md": "on a GPU with TensorRT",
}


def detector() -> tuple[Any, YoloLoss]:
    model = yolov5("yolov5n", num_classes=3)
    return model, YoloLoss(model.anchors_px, model.strides, 3)


def batch() -> dict[str, Any]:
    rng = np.random.default_rng(0)
    return {"images": rng.integers(0, 256, (2, 3, 64, 64), dtype=np.uint8), "rows": ROWS}


def nothing() -> dict[str, Any]:
    return {}


@pytest.fixture(scope="module")
def step(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("step") / "artifacts"
    export_train_step(*detector(), folder, ema=True, **SIZE)
    return folder


def a_step() -> dict[str, Any]:
    return batch() | {"TrainSession": TrainSession}


def training_artifacts() -> dict[str, Any]:
    export_training_artifacts(*detector(), "artifacts", ema=True, **SIZE)
    return batch() | {"targets": ROWS}


def a_loss_alone() -> dict[str, Any]:
    export_loss(detector()[1], "artifacts", gradients=True, **SIZE)
    maps = [np.zeros((2, 3, 64 // s, 64 // s, 8), np.float32) for s in (8, 16, 32)]
    return batch() | dict(zip(("fine", "medium", "coarse"), maps, strict=True))


def a_model_of_80_classes() -> dict[str, Any]:
    targets = torch.from_numpy(pad_targets(ROWS, 8, batch_size=2, num_classes=80))
    return {"model": yolov5("yolov5n"), "images": torch.zeros(2, 3, 64, 64), "targets": targets}


def a_detector_an_image_and_a_video() -> dict[str, Any]:
    export_inference(detector()[0], "best.onnx", image_size=(64, 64))
    Image.new("RGB", (64, 48)).save("street.jpg")
    write_video(Path("street.mp4"), noise(6), codec="libx264", pixels="yuv420p")
    return {}


SETUPS: dict[str, Callable[[], dict[str, Any]]] = {
    "docs/cuda.md": a_step,
    "docs/data-parallel.md": a_step,
    "docs/fleets.md": a_step,
    "docs/loss.md": nothing,
    "docs/own-detector.md": nothing,
    "docs/task-aligned-loss.md": nothing,
    "docs/portable-step.md": a_loss_alone,
    "docs/reference/errors.md": nothing,
    "docs/reference/export.md": nothing,
    "docs/reference/exportloss.md": nothing,
    "docs/reference/models.md": nothing,
    "docs/reference/runtime.md": a_step,
    "docs/sparse-head.md": a_model_of_80_classes,
    "docs/training-artifacts.md": training_artifacts,
    "docs/val-and-detect.md": a_detector_an_image_and_a_video,
}


def blocks(page: str, language: str = "python") -> list[str]:
    text = (ROOT / page).read_text(encoding="utf-8")
    return re.findall(rf"```{language}\n(.*?)```", text, re.DOTALL)


def test_every_page_with_python_is_run_or_says_where_it_runs():
    paths = [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")]
    pages = {path.relative_to(ROOT).as_posix() for path in paths}
    assert {page for page in pages if blocks(page)} == SETUPS.keys() | NOT_RUN.keys()


@pytest.mark.parametrize("page", SETUPS)
def test_python_runs_as_it_is_written(page, request, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names = SETUPS[page]()
    for block in blocks(page):
        if "TrainSession.open" in block and SETUPS[page] is not training_artifacts:
            shutil.rmtree("artifacts", ignore_errors=True)  # the page's block before has a loss
            shutil.copytree(request.getfixturevalue("step"), "artifacts")
        exec(block.replace('"cuda:0"', '"cpu"'), names)


def test_the_nodes_of_a_step_are_counted_as_the_documents_say(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    console = blocks("docs/check.md", "console")[0].splitlines()
    for line in console:
        if line.startswith("$ exportloss "):
            assert main(shlex.split(line, comments=True)[2:]) == 0
    printed = capsys.readouterr().out.splitlines()
    assert printed[-2:] == console[-2:]
    nodes = int(console[-2].split()[0])
    megabytes = Path("artifacts/train_step.onnx").stat().st_size / 1e6
    text = (ROOT / "docs" / "portable-step.md").read_text(encoding="utf-8")
    assert f"| {nodes:,} nodes, {megabytes:.1f} MB |" in text
