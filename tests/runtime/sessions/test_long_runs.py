"""Two thousand steps: memory stays flat, and closing the session changes no bit."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from exportloss.export import export_train_step, export_training_artifacts
from tests.support.long_run import ACCUMULATE
from tests.support.tiny_detector import CLASSES, block, make_loss

STEPS, EVERY = 2000, 100
MOST_GROWTH = 0.01  # from the 200th step on


class SmallestDetector(nn.Module):
    """Two levels, so that a step takes next to nothing beside its loss."""

    def __init__(self) -> None:
        super().__init__()
        self.fine, self.coarse = block(3, 4, 7, 8), block(4, 4, 3, 2)
        self.head = nn.ModuleList(nn.Conv2d(4, 2 * (5 + CLASSES), 1) for _ in range(2))

    def forward(self, images: Tensor) -> list[Tensor]:
        fine = self.fine(images)
        return [
            head(x).unflatten(1, (2, 5 + CLASSES)).permute(0, 1, 3, 4, 2)
            for head, x in zip(self.head, (fine, self.coarse(fine)), strict=True)
        ]


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="Linux tells what memory is held")
@pytest.mark.parametrize(
    ("export", "optimizer"), [(export_train_step, "adamw"), (export_training_artifacts, "sgd")]
)
def test_two_thousand_steps(export, optimizer, tmp_path):
    torch.manual_seed(0)
    sizes = {"image_size": (32, 32), "batch_size": 2, "max_targets": 4}
    folder = tmp_path / "artifact"
    export(SmallestDetector(), make_loss(), folder, optimizer=optimizer, ema=True, **sizes)
    done = subprocess.run(
        [sys.executable, "-m", "tests.support.long_run", folder, str(STEPS), str(EVERY)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["differences"] == []
    assert (found["updates"], found["skipped"]) == (STEPS // ACCUMULATE, 0)
    assert found["last_losses"] < found["first_losses"]
    early, *_, late = found["memory"][200 // EVERY - 1 :]
    assert late < early * (1 + MOST_GROWTH)
