"""Names of the tensors that a training step changes."""

from __future__ import annotations

import dataclasses

__all__ = ["BatchNormStatistics", "ParameterGroupNames"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class ParameterGroupNames:
    """YOLOv5's three optimizer groups, trainable parameters only; weights alone decay."""

    weights: tuple[str, ...] = ()
    norms: tuple[str, ...] = ()
    biases: tuple[str, ...] = ()

    @property
    def all(self) -> tuple[str, ...]:
        """Every trainable parameter: weights, norms, biases."""
        return self.weights + self.norms + self.biases


@dataclasses.dataclass(frozen=True, kw_only=True)
class BatchNormStatistics:
    """Running statistics of one trained BatchNorm layer.

    Attributes:
        mean: Name of the running mean.
        var: Name of the running variance.
        count: Values per channel and batch, B * H * W.
        momentum: Fraction of the new batch, as in torch (0.03 in YOLOv5).
    """

    mean: str
    var: str
    count: int
    momentum: float
