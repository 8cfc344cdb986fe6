"""Skipped training steps: counted, and the end of a run with too many in a row."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from exportloss.bounds import at_least
from exportloss.errors import TrainingError
from exportloss.runtime.data.loader import Batch
from exportloss.runtime.sessions.session import StepResult
from exportloss.runtime.storage.files import new_file

__all__ = ["MAX_SKIPPED", "SkippedSteps"]

MAX_SKIPPED = 10


class SkippedSteps:
    """Counts skipped steps in a row.

    Args:
        path: File for the batch that ends the run.
        most: Number of skipped steps in a row that ends it, >= 1.

    Raises:
        ConfigError: `most` is below 1.
    """

    def __init__(self, path: Path, most: int) -> None:
        at_least(1, max_skipped=most)
        self._path = path
        self._most = most
        self._in_a_row = 0

    def note(self, result: StepResult, batch: Batch, where: str) -> None:
        """Count a step.

        Args:
            result: Result of the step.
            batch: Batch of the step.
            where: Place of the batch in the run, in words.

        Raises:
            TrainingError: too many steps in a row were skipped; the message names the batch, which
                is kept as numpy's `.npz` with `images`, `targets` and `paths` as in `Batch`.
        """
        self._in_a_row = self._in_a_row + 1 if result.skipped else 0
        if self._in_a_row < self._most:
            return
        with new_file(self._path) as temporary, temporary.open("wb") as file:
            paths = np.array([str(path) for path in batch.paths])
            np.savez(file, images=batch.images, targets=batch.targets, paths=paths)
        raise TrainingError(
            f"{self._in_a_row} steps in a row were skipped because their loss or gradients are "
            f"not finite; the last is {where} (loss {result.loss}; {name_images(batch)}), kept in "
            f"{self._path}. Train with a lower lr0 or a longer warm-up. States saved "
            "after earlier epochs are kept"
        )


def name_images(batch: Batch) -> str:
    """Return the image files of a batch, separated by commas."""
    return ", ".join(map(str, batch.paths))
