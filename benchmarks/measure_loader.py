"""Measure how long a training step waits for its images.

    exportloss export --weights yolov5n --nc 4 --format step --imgsz 320 --batch-size 4 \
        --max-targets 128 --output build/step
    python -m benchmarks.measure_loader build/step

100 JPEGs of 640 x 480 pixels, YOLOv5's default augmentation; `alone` repeats a step with the same
batch, `loader` takes the batches without a step.
"""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image

from exportloss.demo.dataset import SHAPE_NAMES, render
from exportloss.runtime.data.augment import Augmentation
from exportloss.runtime.data.dataset import Dataset
from exportloss.runtime.data.loader import Batch, Batches
from exportloss.runtime.sessions.session import TrainSession
from exportloss.runtime.training.hyp import TrainingConfig
from exportloss.targets import pad_targets

IMAGES, EPOCHS = 100, 1


def draw_images(folder: Path) -> Dataset:
    """Draw a data set of JPEG files."""
    for index in range(IMAGES):
        image, rows = render(np.random.default_rng(index), 480)
        drawn = Image.fromarray(image).resize((640, 480))
        drawn.save(folder / f"{index:03d}.jpg", quality=90)
        lines = (f"{int(row[0])} {' '.join(map(str, row[1:]))}\n" for row in rows)
        (folder / f"{index:03d}.txt").write_text("".join(lines))
    images = tuple(sorted(folder.glob("*.jpg")))
    labels = tuple(path.with_suffix(".txt") for path in images)
    return Dataset(images=images, labels=labels, names=SHAPE_NAMES)


class Steps:
    """Training steps on a folder of artifacts."""

    def __init__(self, folder: Path) -> None:
        self.session = TrainSession.open(folder)

    def __call__(self, batch: Batch) -> None:
        """Train on a batch."""
        manifest = self.session.manifest
        targets, _ = pad_targets(
            batch.targets,
            manifest.max_targets,
            batch_size=manifest.batch_size,
            num_classes=manifest.num_classes,
            overflow="keep_largest",
        )
        self.session.step(batch.images, targets, lr=1e-4, momentum=0.9, weight_decay=5e-4)


def measure(name: str, batches: Batches, step: Steps | None) -> None:
    """Print how long steps take, and how long they wait for their images."""
    list(batches.epoch(0))  # fills the cache of `cache="ram"`
    spent = waited = 0.0
    slowest = []
    for epoch in range(1, 1 + EPOCHS):
        started = time.perf_counter()
        for batch in batches.epoch(epoch):
            if step:
                step(batch)
            waited += batch.waited
            slowest.append(batch.waited)
        spent += time.perf_counter() - started
    steps = EPOCHS * len(batches)
    print(
        f"{name:22} {1e3 * spent / steps:6.1f} ms per step, {waited / spent:6.1%} of it waiting "
        f"(median {1e3 * np.median(slowest):.1f} ms, largest {1e3 * max(slowest):.1f} ms)"
    )


def main(artifacts: Path) -> None:
    """Measure the loader with and without training."""
    step = Steps(artifacts)
    manifest = step.session.manifest
    with tempfile.TemporaryDirectory() as temporary:
        dataset = draw_images(Path(temporary))
        default = TrainingConfig().augmentation

        def batches(augment: Augmentation | None = default, **options) -> Batches:
            return Batches(
                dataset,
                manifest.batch_size,
                manifest.image_size,
                shuffle=True,
                augment=augment,
                **options,
            )

        batch = next(batches().epoch(0))
        step(batch)
        started = time.perf_counter()
        for _ in range(25):
            step(batch)
        print(f"{'alone':22} {40 * (time.perf_counter() - started):6.1f} ms per step")
        measure("loader, 1 worker", batches(workers=1), None)
        measure("loader, 2 workers", batches(), None)
        measure("loader, ram", batches(cache="ram"), None)
        measure("step, mosaic", batches(), step)
        measure("step, mosaic, ram", batches(cache="ram"), step)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
