"""Export what the tests of this folder use: `python -m tests.fleet_network.make_artifacts FOLDER`.

A tiny detector, one with other classes, and three data sets. Needs torch; the tests do not.
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

from exportloss.export.step.export import export_train_step
from tests.support import tiny_detector as tiny
from tests.support.tiny_runs import export_tiny, make_tiny_shapes


def make(folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    for number in range(3):
        make_tiny_shapes(folder / f"device{number}", seed=number)
    export_train_step(
        tiny.DecodingDetector(),
        tiny.make_loss(),
        folder / "other",
        image_size=(tiny.IMAGE, tiny.IMAGE),
        batch_size=2,
        max_targets=32,
        names=("cat", "dog", "cow"),
    )
    export_tiny(folder / "artifacts")


if __name__ == "__main__":
    make(Path(sys.argv[1]))
