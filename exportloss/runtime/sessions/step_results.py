"""Results of a training or evaluation step, whichever engine computed it."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from exportloss.loss_kinds import LOSS_KINDS

__all__ = ["Evaluation", "Images", "LossTerms", "PendingStepResult", "StepResult"]

Images = npt.NDArray[Any]  # uint8 or float32

_YOLOV5 = LOSS_KINDS["yolov5"].terms


class LossTerms(Mapping[str, float]):
    """Terms of the loss by name, each times its gain, before the multiplication by the batch size.

    Args:
        values: Values of the terms.
        names: Names of the terms, as many: `box`, `obj` and `cls` of YOLOv5's loss by default.
    """

    def __init__(self, *values: float, names: Sequence[str] = _YOLOV5) -> None:
        self._terms = dict(zip(names, values, strict=True))

    @property
    def total(self) -> float:
        """Sum of the terms: the loss per image."""
        return sum(self._terms.values())

    @property
    def box(self) -> float:
        """Box term."""
        return self._terms["box"]

    @property
    def objectness(self) -> float:
        """Objectness term; only YOLOv5's loss has one."""
        return self._terms["obj"]

    @property
    def category(self) -> float:
        """Class term."""
        return self._terms["cls"]

    def __getitem__(self, name: str) -> float:
        return self._terms[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._terms)

    def __len__(self) -> int:
        return len(self._terms)

    def __hash__(self) -> int:
        return hash(tuple(self._terms.items()))

    def __repr__(self) -> str:
        return f"LossTerms({', '.join(f'{name}={value}' for name, value in self._terms.items())})"


@dataclasses.dataclass(frozen=True, kw_only=True)
class StepResult:
    """Result of a training step.

    Attributes:
        loss: Sum of the loss terms, times the batch size.
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
            in every call: `loss` (), `items` (a value per term) and `skipped` (), which artifacts
            of 0.1 lack.
        terms: Names of the loss terms.
    """

    def __init__(
        self,
        read: Callable[[], Mapping[str, npt.NDArray[Any]]],
        *,
        terms: Sequence[str] = _YOLOV5,
    ) -> None:
        self._read = read
        self._terms = terms

    @property
    def loss(self) -> float:
        """As in `StepResult`."""
        return float(self._read()["loss"])

    @property
    def items(self) -> LossTerms:
        """As in `StepResult`."""
        return LossTerms(*self._read()["items"].tolist(), names=self._terms)

    @property
    def skipped(self) -> bool:
        """As in `StepResult`; False for artifacts of 0.1."""
        return bool(self._read().get("skipped", False))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Evaluation:
    """Loss and decoded predictions, computed with the running statistics; nothing is updated.

    Attributes:
        loss: Sum of the loss terms, times the batch size.
        items: Terms of the loss.
        predictions: (B, N, 5 + nc) predictions before non-maximum suppression: centre x, centre y,
            width, height (pixels), objectness and class probabilities. N is 0 if the model has no
            `decode`.
    """

    loss: float
    items: LossTerms
    predictions: npt.NDArray[np.float32]
