"""Comparison of one training step in two engines, number by number."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from exportloss.export.verify.differences import Difference, largest, relative, whole_l2, worst_l2
from exportloss.export.verify.report import StepDifferences
from exportloss.runtime.artifact.state import TrainState
from exportloss.runtime.sessions.session import StepResult

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = ["StepOutcome", "compare"]

Tensors = Mapping[str, npt.NDArray[np.float32]]

_STATISTICS = (".running_mean", ".running_var")


@dataclasses.dataclass(frozen=True)
class StepOutcome:
    """Results of a training step, and the state after it.

    Attributes:
        result: Loss and loss terms.
        gradients: Gradients by parameter.
        parameters: Parameters by name.
        statistics: Running means and variances by name.
        optimizer_state: Optimizer state tensors by kind and parameter.
        state: State of the loss by name.
        ema: Moving average of parameters and statistics by name; empty without one.
    """

    result: StepResult
    gradients: Tensors
    parameters: Tensors
    statistics: Tensors
    optimizer_state: Mapping[str, Tensors]
    state: Tensors
    ema: Tensors

    @classmethod
    def of(cls, result: StepResult, gradients: Tensors, after: TrainState) -> Self:
        """Make it from a step's result, its gradients and the state after it."""
        model = after.model
        return cls(
            result=result,
            gradients=gradients,
            parameters={n: t for n, t in model.items() if not n.endswith(_STATISTICS)},
            statistics={n: t for n, t in model.items() if n.endswith(_STATISTICS)},
            optimizer_state=after.optimizer,
            state=after.loss,
            ema=after.ema,
        )


def compare(got: StepOutcome, expected: StepOutcome) -> StepDifferences:
    """Return the differences of a step from a reference, with 0 for the free run."""
    terms = expected.result.items
    return StepDifferences(
        loss=relative(got.result.loss, expected.result.loss),
        terms={name: relative(got.result.items[name], value) for name, value in terms.items()},
        gradient=worst_l2(got.gradients, expected.gradients),
        gradient_whole=whole_l2(got.gradients, expected.gradients),
        parameters=whole_l2(got.parameters, expected.parameters),
        statistics=worst_l2(got.statistics, expected.statistics),
        memory=largest(
            whole_l2(got.optimizer_state[kind], tensors, name=kind)
            for kind, tensors in expected.optimizer_state.items()
        ),
        state=largest(
            relative(mine, theirs, name=f"{name} of level {level}")
            for name, tensor in expected.state.items()
            for level, (mine, theirs) in enumerate(zip(got.state[name], tensor, strict=True))
        ),
        ema=whole_l2(got.ema, expected.ema),
        free_loss=Difference(0.0),
    )
