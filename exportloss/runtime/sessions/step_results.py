"""Results of a training or evaluation step, whichever engine computed it."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["Evaluation", "Images", "LossTerms", "PendingStepResult", "StepResult"]

Images = npt.NDArray[Any]  # uint8 or float32


@dataclasses.dataclass(frozen=True)
class LossTerms:
    """Terms of the loss, each times its gain, before the multiplication by the batch size.

    Attributes:
        box: Box term.
        objectness: Objectness term.
        category: Class term.
    """

    box: float
    objectness: float
    category: float


@dataclasses.dataclass(frozen=True, kw_only=True)
class StepResult:
    """Result of a training step.

    Attributes:
        loss: (box + objectness + class) * batch size.
        items: Terms of the loss.
        skipped: True if the step changed nothing, because the loss, the gradients or the BatchNorm
            statistics would not have been finite. Gradients with an L2 norm above 1.8e19, whose
            square overflows, count as not finite.
    """

    loss: float
    items: LossTerms
    skipped: bool = False


class PendingStepResult(StepResult):
    """A result that stays on the device until first accessed.

    Args:
        read: Function that waits for the step and returns its outputs on the host, the same ones
            in every call: `loss` (), `items` (3,) and `skipped` (), which artifacts of 0.1 lack.
    """

    def __init__(self, read: Callable[[], Mapping[str, npt.NDArray[Any]]]) -> None:
        self._read = read

    @property
    def loss(self) -> float:
        """As in `StepResult`."""
        return float(self._read()["loss"])

    @property
    def items(self) -> LossTerms:
        """As in `StepResult`."""
        return LossTerms(*self._read()["items"].tolist())

    @property
    def skipped(self) -> bool:
        """As in `StepResult`; False for artifacts of 0.1."""
        return bool(self._read().get("skipped", False))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Evaluation:
    """Loss and decoded predictions, computed with the running statistics; nothing is updated.

    Attributes:
        loss: (box + objectness + class) * batch size.
        items: Terms of the loss.
        predictions: (B, N, 5 + nc) predictions before non-maximum suppression: centre x, centre y,
            width, height (pixels), objectness and class probabilities. N is 0 if the model has no
            `decode`.
    """

    loss: float
    items: LossTerms
    predictions: npt.NDArray[np.float32]
