"""The trainings that the page recorded, repeated by Python.

    python -m tests.web.replay RUN.json IMAGES ARTIFACTS [STATE]

IMAGES has the recorded images, in folders or not, by their names. The training starts from the
weights of STATE, or else from those of ARTIFACTS. Prints the largest relative difference of a loss.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from exportloss.runtime import TrainSession
from exportloss.runtime.images.letterbox import Letterbox
from exportloss.runtime.images.load import load_scaled
from exportloss.runtime.training.hyp import TrainingConfig
from exportloss.runtime.training.schedule import Schedule

__all__ = ["image_path", "make_batch", "repeat", "schedule_of"]

MAX_NORM = 10.0


def image_path(images: Path, name: str) -> Path:
    """Return the file of an image that the tests gave the page as SPLIT-NAME."""
    split, file = name.split("-")
    return images / split / file


def make_batch(
    run: dict[str, Any], step: dict[str, Any], images_path: Path
) -> tuple[np.ndarray, np.ndarray]:
    """Decode, letterbox and turn the images of a step, from their files."""
    size = tuple(run["image_size"])
    images, rows = [], []
    for place, name in enumerate(step["images"]):
        with Image.open(image_path(images_path, name)) as file:
            box = Letterbox.fit((file.height, file.width), size, truncate=True)
        canvas = np.asarray(
            box.place(load_scaled(image_path(images_path, name), size, linear=True))
        )
        labels = box.map_labels(np.array(run["labels"][name], np.float32).reshape(-1, 5))
        if step["mirrored"][place]:
            canvas, labels[:, 1] = canvas[:, ::-1], 1 - labels[:, 1]
        if step["flipped"][place]:
            canvas, labels[:, 2] = canvas[::-1], 1 - labels[:, 2]
        images.append(canvas.transpose(2, 0, 1))
        rows.append(np.insert(labels, 0, place, axis=1))
    return np.ascontiguousarray(np.stack(images)), np.concatenate(rows)


def schedule_of(run: dict[str, Any]) -> Schedule:
    """Return Python's schedule for the settings of a run."""
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


def repeat(run: dict[str, Any], session: TrainSession, images_path: Path) -> list[float]:
    """Train on the same batches, by Python's own schedule; return the losses."""
    schedule, losses = schedule_of(run), []
    planned = [step for epoch in range(schedule.epochs) for step in schedule.steps(epoch)]
    for step, settings in zip(run["steps"], planned, strict=True):
        images, rows = make_batch(run, step, images_path)
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


def main(run: str, images: str, artifacts: str, state: str | None = None) -> None:
    """Repeat a run and print how far the losses are apart."""
    record = json.loads(Path(run).read_text())
    session = TrainSession.open(artifacts)
    if state is not None:
        session.start_from(state)
    losses = np.array(repeat(record, session, Path(images)))
    found = np.array([step["loss"] for step in record["steps"]])
    difference = np.abs(found - losses) / losses
    print(f"{len(losses)} steps, losses at most {difference.max():.1e} apart, relative")


if __name__ == "__main__":
    main(*sys.argv[1:])
