"""Python repeats what the page trained, and opens what it gave to download.

`make web` runs the page first: see devices/web/tests/browser.ts.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from exportloss.cli import main as command
from exportloss.runtime import Detector, TrainSession
from exportloss.runtime.artifact.state import load_state
from exportloss.runtime.images.letterbox import Letterbox
from exportloss.runtime.images.load import load_scaled
from exportloss.runtime.training.hyp import TrainingConfig
from exportloss.runtime.training.schedule import Schedule

WEB = Path(__file__).parents[2] / "build" / "web"
MAX_NORM = 10.0
RELATIVE = 1e-5


def record(name: str) -> dict[str, Any]:
    path = WEB / "browser" / name
    if not path.is_file():
        pytest.fail(f"{path} is missing; say `make web`", pytrace=False)
    content: dict[str, Any] = json.loads(path.read_text())
    return content


def image_path(name: str) -> Path:
    split, file = name.split("-")
    return WEB / "data" / "shapes" / "images" / split / file


def make_batch(run: dict[str, Any], step: dict[str, Any]) -> tuple[np.ndarray, np.ndarray]:
    """Decode, letterbox and turn the images of a step, from their files."""
    size = tuple(run["image_size"])
    images, rows = [], []
    for place, name in enumerate(step["images"]):
        with Image.open(image_path(name)) as file:
            box = Letterbox.fit((file.height, file.width), size, truncate=True)
        canvas = np.asarray(box.place(load_scaled(image_path(name), size, linear=True)))
        labels = box.map_labels(np.array(run["labels"][name], np.float32).reshape(-1, 5))
        if step["mirrored"][place]:
            canvas, labels[:, 1] = canvas[:, ::-1], 1 - labels[:, 1]
        if step["flipped"][place]:
            canvas, labels[:, 2] = canvas[::-1], 1 - labels[:, 2]
        images.append(canvas.transpose(2, 0, 1))
        rows.append(np.insert(labels, 0, place, axis=1))
    return np.ascontiguousarray(np.stack(images)), np.concatenate(rows)


def schedule_of(run: dict[str, Any]) -> Schedule:
    epochs = run["settings"]["epochs"]
    lr0 = run["settings"]["lr0"]
    return Schedule(
        epochs=epochs,
        batches=len(run["steps"]) // epochs,
        batch_size=run["batch_size"],
        config=TrainingConfig(lr0=lr0, warmup_bias_lr=lr0),
        cosine=True,
        nominal_batch=run["batch_size"],
    )


def repeat(run: dict[str, Any], session: TrainSession) -> list[float]:
    """Train on the same batches, by Python's own schedule; return the losses."""
    schedule, losses = schedule_of(run), []
    planned = [step for epoch in range(schedule.epochs) for step in schedule.steps(epoch)]
    for step, settings in zip(run["steps"], planned, strict=True):
        images, rows = make_batch(run, step)
        result = session.step(
            images,
            rows,
            lr=settings.lr,
            momentum=settings.momentum,
            weight_decay=schedule.weight_decay,
            max_norm=MAX_NORM,
            update=settings.update,
        )
        losses.append(result.loss)
    return losses


@pytest.fixture
def session() -> TrainSession:
    return TrainSession.open(WEB / "data" / "detector", threads=1)


def test_losses_and_weights_are_those_of_python(session):
    run = record("run.json")
    start = session.state()
    losses = repeat(run, session)
    assert len(losses) == 20
    np.testing.assert_allclose([s["loss"] for s in run["steps"]], losses, rtol=RELATIVE)
    expected, found = session.state(), load_state(WEB / "browser" / "state.safetensors")
    assert (found.updates, found.skipped) == (20, 0)
    names = session.manifest.groups.all
    change, difference = (
        np.concatenate([np.ravel(a.model[name] - b.model[name]) for name in names])
        for a, b in ((expected, start), (found, expected))
    )
    assert np.linalg.norm(difference) < 1e-3 * np.linalg.norm(change)


def test_a_training_that_was_stopped_and_reloaded_is_the_same(session):
    run = record("further.json")
    session.start_from(WEB / "browser" / "state.safetensors")
    losses = repeat(run, session)
    np.testing.assert_allclose([s["loss"] for s in run["steps"]], losses, rtol=RELATIVE)


def test_python_continues_from_the_state(session, tmp_path):
    run = record("run.json")
    session.resume(WEB / "browser" / "state.safetensors")
    assert session.updates == 20
    session.save(tmp_path / "state.safetensors")
    written = (WEB / "browser" / "state.safetensors").read_bytes()
    assert (tmp_path / "state.safetensors").read_bytes() == written
    result = session.step(*make_batch(run, run["steps"][0]), lr=1e-3)
    assert np.isfinite(result.loss) and not result.skipped


def test_the_detector_is_the_one_that_python_exports(session, tmp_path, capsys):
    session.resume(WEB / "browser" / "state.safetensors")
    session.export_inference(tmp_path / "detector.onnx")
    detector = WEB / "browser" / "detector.onnx"
    assert (tmp_path / "detector.onnx").read_bytes() == detector.read_bytes()
    assert Detector.open(detector).names == session.manifest.names
    images = WEB / "data" / "shapes" / "images" / "val"
    arguments = ["detect", "--weights", detector, "--source", images, "--project", tmp_path]
    assert command([str(each) for each in arguments]) == 0
    assert len(list((tmp_path / "exp").glob("*.png"))) == len(list(images.iterdir()))
    capsys.readouterr()
