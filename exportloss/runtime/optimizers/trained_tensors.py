"""Names of the tensors that a training step changes."""

from __future__ import annotations

import dataclasses

__all__ = ["BatchNormStatistics", "ParameterGroupNames"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class ParameterGroupNames:
    """Names of the trainable parameters in YOLOv5's three optimizer groups.

    Attributes:
        weights: Weights of other layers than norms, the only group with weight decay.
        norms: Weights of norms.
        biases: Biases.
    """

    weights: tuple[str, ...] = ()
    norms: tuple[str, ...] = ()
    biases: tuple[str, ...] = ()

    @property
    def all(self) -> tuple[str, ...]:
        """Names of all trainable parameters: weights, norms, biases."""
        return self.weights + self.norms + self.biases


@dataclasses.dataclass(frozen=True, kw_only=True)
class BatchNormStatistics:
    """Running statistics of one trained BatchNorm layer.

    Attributes:
        mean: Name of the running mean.
        var: Name of the running variance.
        count: Values per channel and batch, B * H * W.
        momentum: Weight of a new batch, as in torch (0.03 in YOLOv5).
    """

    mean: str
    var: str
    count: int
    momentum: float
