"""One training step in two engines, compared number by number."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Self

import numpy as np
import numpy.typing as npt

from exportloss.export.verify.differences import Difference, largest, relative, whole_l2, worst_l2
from exportloss.export.verify.report import StepDifferences
from exportloss.runtime.artifact.state import TrainState
from exportloss.runtime.sessions.session import StepResult

__all__ = ["Step", "compare"]

Tensors = Mapping[str, npt.NDArray[np.float32]]

_STATISTICS = (".running_mean", ".running_var")


@dataclasses.dataclass(frozen=True)
class Step:
    """What an engine made of a batch.

    Attributes:
        result: loss and items.
        gradients: by parameter.
        parameters: after the step.
        statistics: running means and variances after the step.
        memories: what the optimizer remembers after the step, by kind and parameter.
        balance: (nl,) objectness weights after the step.
        ema: moving average of parameters and statistics after the step, if one is kept.
    """

    result: StepResult
    gradients: Tensors
    parameters: Tensors
    statistics: Tensors
    memories: Mapping[str, Tensors]
    balance: npt.NDArray[np.float32]
    ema: Tensors

    @classmethod
    def of(cls, result: StepResult, gradients: Tensors, after: TrainState) -> Self:
        """Make it from a step's gradients and the state after it."""
        model = after.model
        return cls(
            result=result,
            gradients=gradients,
            parameters={n: t for n, t in model.items() if not n.endswith(_STATISTICS)},
            statistics={n: t for n, t in model.items() if n.endswith(_STATISTICS)},
            memories=after.optimizer,
            balance=after.balance,
            ema=after.ema,
        )


def compare(got: Step, expected: Step) -> StepDifferences:
    """Measure how far a step is from a reference; the free run is left at 0."""
    items, expected_items = got.result.items, expected.result.items
    balance = zip(got.balance.tolist(), expected.balance.tolist(), strict=True)
    return StepDifferences(
        loss=relative(got.result.loss, expected.result.loss),
        box=relative(items.box, expected_items.box),
        objectness=relative(items.objectness, expected_items.objectness),
        category=relative(items.category, expected_items.category),
        gradient=worst_l2(got.gradients, expected.gradients),
        gradient_whole=whole_l2(got.gradients, expected.gradients),
        parameters=whole_l2(got.parameters, expected.parameters),
        statistics=worst_l2(got.statistics, expected.statistics),
        memory=largest(
            whole_l2(got.memories[memory], tensors, name=memory)
            for memory, tensors in expected.memories.items()
        ),
        balance=largest(
            relative(mine, theirs, name=f"level {level}")
            for level, (mine, theirs) in enumerate(balance)
        ),
        ema=whole_l2(got.ema, expected.ema),
        free_loss=Difference(0.0),
    )
