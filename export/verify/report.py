"""What `verify` reports: differences step by step, and the bounds they are held to."""

from __future__ import annotations

import dataclasses

from exportloss.export.verify.differences import Difference, largest
from exportloss.runtime.artifact.manifest import Manifest, OptimizerName
from exportloss.runtime.optimizers.table import OPTIMIZERS

__all__ = ["FREE_STEPS", "QUANTITIES", "Bounds", "StepDifferences", "Verification"]

# Steps over which the free run is bounded: later, rounding is amplified step by step, in any two
# engines and fastest with AdamW, whose first updates are the signs of the gradients.
FREE_STEPS = 5


@dataclasses.dataclass(frozen=True, kw_only=True)
class StepDifferences:
    """One step from the same state in both engines; every difference is relative.

    Attributes:
        loss: of the loss.
        box: of the box item.
        objectness: of the objectness item.
        category: of the class item.
        gradient: L2, the worst of all trainable parameters.
        gradient_whole: L2 of all gradients as one vector.
        parameters: L2 after the step, of all parameters as one vector.
        statistics: L2 after the step, the worst of all running means and variances.
        memory: L2 after the step, of each of the optimizer's memories as one vector.
        balance: of the objectness weights after the step, the worst level.
        ema: L2 after the step, of the moving average as one vector; 0 where none is kept.
        free_loss: of the loss of this step in a second run, in which each engine goes on from its
            own state.
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
    """Most that each of `StepDifferences` may be; a difference of NaN is over every bound.

    The defaults are SGD's; the table of optimizers says where others differ.
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
        """Return the bounds for an optimizer."""
        return cls() if optimizer is None else cls(**OPTIMIZERS[optimizer].bounds)


QUANTITIES = tuple(field.name for field in dataclasses.fields(StepDifferences))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Verification:
    """What `verify` measured.

    Attributes:
        manifest: of the artifact.
        bounds: what was allowed.
        steps: what was found, step by step.
        passed_over: batches that were drawn anew, because eager torch alone disagrees with itself
            on them under rounding errors.
    """

    manifest: Manifest
    bounds: Bounds
    steps: tuple[StepDifferences, ...]
    passed_over: int = 0

    @property
    def worst(self) -> StepDifferences:
        """The largest of each difference over all steps; of the free run, over the first five."""
        worst = {name: largest(getattr(step, name) for step in self.steps) for name in QUANTITIES}
        worst["free_loss"] = largest(step.free_loss for step in self.steps[:FREE_STEPS])
        return StepDifferences(**worst)

    @property
    def broken(self) -> tuple[str, ...]:
        """Names of the differences that are over their bound."""
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
