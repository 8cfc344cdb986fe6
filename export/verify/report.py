"""Results of `verify`: differences step by step, and the bounds on them."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from exportloss.export.verify.differences import Difference, largest
from exportloss.runtime.artifact.manifest import Manifest, OptimizerName
from exportloss.runtime.optimizers.table import OPTIMIZERS

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = ["FREE_STEPS", "Bounds", "StepDifferences", "Verification"]

# Steps of the free run that are bounded. Beyond them, rounding errors have grown too much in any
# two engines, fastest with AdamW, whose first updates are the signs of the gradients.
FREE_STEPS = 5


@dataclasses.dataclass(frozen=True, kw_only=True)
class StepDifferences:
    """Relative differences of one step from the same state in both engines.

    Attributes:
        loss: Difference of the loss.
        terms: Difference of each loss term, by its name.
        gradient: Largest L2 difference of the gradients of a trainable parameter.
        gradient_whole: L2 difference of all gradients as one vector.
        parameters: L2 difference of all parameters as one vector, after the step.
        statistics: Largest L2 difference of a running mean or variance, after the step.
        memory: Largest L2 difference of a kind of optimizer state, such as momentum, as one
            vector, after the step.
        state: Largest difference of a value of the loss's state, such as a level's objectness
            weight, after the step; 0 if the loss has no state.
        ema: L2 difference of the moving average as one vector, after the step; 0 without one.
        free_loss: Difference of this step's loss in a second run, in which each engine continues
            from its own state.
    """

    loss: Difference
    terms: Mapping[str, Difference]
    gradient: Difference
    gradient_whole: Difference
    parameters: Difference
    statistics: Difference
    memory: Difference
    state: Difference
    ema: Difference
    free_loss: Difference

    @property
    def by_name(self) -> dict[str, Difference]:
        """All differences by name, in the order of a table; a term is `<name>_loss`."""
        fields = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        terms = {f"{name}_loss": difference for name, difference in fields.pop("terms").items()}
        return {"loss": fields.pop("loss"), **terms, **fields}

    @classmethod
    def worst_of(cls, steps: Sequence[Self]) -> Self:
        """Return the largest of each difference over steps, at least one."""
        worst: dict[str, Any] = {
            field.name: largest(getattr(step, field.name) for step in steps)
            for field in dataclasses.fields(cls)
            if field.name != "terms"
        }
        terms = {name: largest(step.terms[name] for step in steps) for name in steps[0].terms}
        return cls(terms=terms, **worst)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Bounds:
    """Upper bounds of the fields of `StepDifferences`; NaN exceeds every bound.

    The defaults apply to SGD; `exportloss.runtime.optimizers.table` has those of other optimizers.
    """

    loss: float = 1e-5
    terms: float = 1e-5
    gradient: float = 2e-4
    gradient_whole: float = 1e-4
    parameters: float = 1e-6
    statistics: float = 1e-4
    memory: float = 2e-4
    state: float = 1e-5
    ema: float = 1e-6
    free_loss: float = 1e-5

    @classmethod
    def of(cls, optimizer: OptimizerName | None) -> Bounds:
        """Return the bounds for an optimizer; None means the defaults."""
        return cls() if optimizer is None else cls(**OPTIMIZERS[optimizer].bounds)

    def of_quantity(self, name: str) -> float:
        """Return the bound of a difference, by its name in `StepDifferences.by_name`."""
        bound: float = getattr(self, name, self.terms)
        return bound


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
        worst = StepDifferences.worst_of(self.steps)
        free_loss = largest(step.free_loss for step in self.steps[:FREE_STEPS])
        return dataclasses.replace(worst, free_loss=free_loss)

    @property
    def broken(self) -> tuple[str, ...]:
        """Names of the differences that exceed their bounds."""
        return tuple(
            name
            for name, difference in self.worst.by_name.items()
            if not difference.value <= self.bounds.of_quantity(name)  # NaN too
        )

    @property
    def passed(self) -> bool:
        """Whether every difference is within its bound."""
        return not self.broken
