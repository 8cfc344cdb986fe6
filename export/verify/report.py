"""Results of `verify`: differences step by step, and the bounds on them."""

from __future__ import annotations

import dataclasses

from exportloss.export.verify.differences import Difference, largest
from exportloss.runtime.artifact.manifest import Manifest, OptimizerName
from exportloss.runtime.optimizers.table import OPTIMIZERS

__all__ = ["FREE_STEPS", "QUANTITIES", "Bounds", "StepDifferences", "Verification"]

# Steps of the free run that are bounded. Beyond them, rounding errors have grown too much in any
# two engines, fastest with AdamW, whose first updates are the signs of the gradients.
FREE_STEPS = 5


@dataclasses.dataclass(frozen=True, kw_only=True)
class StepDifferences:
    """Relative differences of one step from the same state in both engines.

    Attributes:
        loss: Difference of the loss.
        box: Difference of the box term.
        objectness: Difference of the objectness term.
        category: Difference of the class term.
        gradient: Largest L2 difference of the gradients of a trainable parameter.
        gradient_whole: L2 difference of all gradients as one vector.
        parameters: L2 difference of all parameters as one vector, after the step.
        statistics: Largest L2 difference of a running mean or variance, after the step.
        memory: Largest L2 difference of a kind of optimizer state, such as momentum, as one
            vector, after the step.
        balance: Largest difference of a level's objectness weight, after the step.
        ema: L2 difference of the moving average as one vector, after the step; 0 without one.
        free_loss: Difference of this step's loss in a second run, in which each engine continues
            from its own state.
    """

    loss: Difference
    box: Difference
    objectness: Difference
    category: Difference
    gradient: Difference
    gradient_whole: Difference
    parameters: Difference
    statistics: Difference
    memory: Difference
    balance: Difference
    ema: Difference
    free_loss: Difference


@dataclasses.dataclass(frozen=True, kw_only=True)
class Bounds:
    """Upper bounds of the fields of `StepDifferences`; NaN exceeds every bound.

    The defaults apply to SGD; `exportloss.runtime.optimizers.table` has those of other optimizers.
    """

    loss: float = 1e-5
    box: float = 1e-5
    objectness: float = 1e-5
    category: float = 1e-5
    gradient: float = 2e-4
    gradient_whole: float = 1e-4
    parameters: float = 1e-6
    statistics: float = 1e-4
    memory: float = 2e-4
    balance: float = 1e-5
    ema: float = 1e-6
    free_loss: float = 1e-5

    @classmethod
    def of(cls, optimizer: OptimizerName | None) -> Bounds:
        """Return the bounds for an optimizer; None means the defaults."""
        return cls() if optimizer is None else cls(**OPTIMIZERS[optimizer].bounds)


QUANTITIES = tuple(field.name for field in dataclasses.fields(StepDifferences))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Verification:
    """Result of `verify`.

    Attributes:
        manifest: Manifest of the artifact.
        bounds: Upper bounds of the differences.
        steps: Measured differences, step by step.
        passed_over: Number of skipped batches: rounding errors alone move eager torch's gradients
            for them over a bound.
    """

    manifest: Manifest
    bounds: Bounds
    steps: tuple[StepDifferences, ...]
    passed_over: int = 0

    @property
    def worst(self) -> StepDifferences:
        """Largest of each difference over all steps; for the free run, over the first five."""
        worst = {name: largest(getattr(step, name) for step in self.steps) for name in QUANTITIES}
        worst["free_loss"] = largest(step.free_loss for step in self.steps[:FREE_STEPS])
        return StepDifferences(**worst)

    @property
    def broken(self) -> tuple[str, ...]:
        """Names of the differences that exceed their bounds."""
        worst = self.worst
        return tuple(
            name
            for name in QUANTITIES
            if not getattr(worst, name).value <= getattr(self.bounds, name)  # NaN too
        )

    @property
    def passed(self) -> bool:
        """Whether every difference is within its bound."""
        return not self.broken
