"""Entries of the table of optimizers, `exportloss.runtime.optimizers.table`."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["HostUpdate", "OptimizerSpec", "StateTensor"]

Array = npt.NDArray[np.float32]


@dataclasses.dataclass(frozen=True, kw_only=True)
class HostUpdate:
    """Update of one parameter; the arrays have its shape and are written in place.

    Attributes:
        parameter: Value before the update, and after it.
        gradient: Clipped gradient, which may be overwritten.
        state: State tensors by name.
        rate: Learning rate.
        decay: Weight decay, 0 for none.
        momentum: Momentum, or first beta.
        updates: Number of this update, from 1.
    """

    parameter: Array
    gradient: Array
    state: Mapping[str, Array]
    rate: float
    decay: float
    momentum: float
    updates: int


@dataclasses.dataclass(frozen=True, kw_only=True)
class StateTensor:
    """Tensor that an optimizer keeps for each parameter, of the parameter's shape.

    Attributes:
        name: Name in manifests, states and graphs.
        torch_name: Key in the state of torch's optimizer.
        initial: Value of every element before the first update.
        is_square: Whether the tensor is a mean of squares, which is never negative.
    """

    name: str
    torch_name: str
    initial: float = 0.0
    is_square: bool = False


@dataclasses.dataclass(frozen=True, kw_only=True)
class OptimizerSpec:
    """Entry of the table.

    Attributes:
        state: State tensors per parameter, in the order of the traced update.
        update: Update of one parameter on the host.
        torch_class: Name of the class in `torch.optim`.
        torch_options: Function from momentum to the keyword arguments of that class, without
            learning rate and decay.
        ort_type: Name in `onnxruntime.training.artifacts.OptimType`; None if ONNX Runtime lacks
            the optimizer, and training artifacts get no `optimizer_model.onnx`.
        bounds: Bounds of `verify` that differ from SGD's, by the names of `Bounds`.
    """

    state: tuple[StateTensor, ...]
    update: Callable[[HostUpdate], None]
    torch_class: str
    torch_options: Callable[[float], Mapping[str, Any]]
    ort_type: str | None = None
    bounds: Mapping[str, float] = dataclasses.field(default_factory=dict)

    @property
    def state_names(self) -> tuple[str, ...]:
        """Names of the state tensors, in order."""
        return tuple(tensor.name for tensor in self.state)

    @property
    def warms_up_momentum(self) -> bool:
        """Whether momentum rises during warm-up.

        YOLOv5 interpolates the option `momentum` of the parameter groups, which Adam and AdamW do
        not have: their betas stay.
        """
        return "momentum" in self.torch_options(0.0)
