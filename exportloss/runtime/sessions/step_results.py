"""What a step of training or evaluation reports, whatever computed it."""

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
    """The three terms of the loss, with their gains, before * batch size."""

    box: float
    objectness: float
    category: float


@dataclasses.dataclass(frozen=True, kw_only=True)
class StepResult:
    """What a training step reports.

    Attributes:
        loss: (box + objectness + class) * batch size.
        items: the three terms.
        skipped: whether the step changed nothing, because the loss, the gradients or the BatchNorm
            statistics would not have been finite. A gradient whose L2 norm is above 1.8e19, where
            its square overflows, counts as such.
    """

    loss: float
    items: LossTerms
    skipped: bool = False


class PendingStepResult(StepResult):
    """A result that stays on the device until first accessed.

    Args:
        read: waits for the step and returns its outputs `loss` (), `items` (3,) and, except from
            artifacts of 0.1, `skipped` (), on the host; the same ones in every call.
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
        """As in `StepResult`; steps of 0.1 are never skipped."""
        return bool(self._read().get("skipped", False))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Evaluation:
    """Loss and decoded predictions with the running statistics; nothing is updated.

    Attributes:
        loss: scalar loss of the batch.
        items: its terms.
        predictions: (B, N, 5 + nc) centre x, centre y, width, height in pixels, objectness and
            class probabilities, before non-maximum suppression; N is 0 where the model has no
            `decode` to make boxes of.
    """

    loss: float
    items: LossTerms
    predictions: npt.NDArray[np.float32]
