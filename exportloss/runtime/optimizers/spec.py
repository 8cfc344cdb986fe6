"""What an entry of the table of optimizers says: see `exportloss.runtime.optimizers.table`."""

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
        parameter: value before the update, and after it.
        gradient: clipped gradient, which may be overwritten.
        state: state tensors by name.
        rate: learning rate.
        decay: weight decay, 0 for none.
        momentum: momentum, or first beta.
        updates: number of this update, from 1.
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
        name: name in manifests, states and graphs.
        torch_name: key in the state of torch's optimizer.
        initial: value of every element before the first update.
        is_square: whether it is a mean of squares, so never negative.
    """

    name: str
    torch_name: str
    initial: float = 0.0
    is_square: bool = False


@dataclasses.dataclass(frozen=True, kw_only=True)
class OptimizerSpec:
    """Entry of the table.

    Attributes:
        state: tensors that are kept for each parameter, in the order of the traced update.
        update: update of one parameter on the host.
        torch_class: name of the class in `torch.optim`.
        torch_options: momentum -> keyword arguments of that class, beside rate and decay.
        ort_type: name in `onnxruntime.training.artifacts.OptimType`; None where ONNX Runtime has
            no such optimizer, and training artifacts get no `optimizer_model.onnx`.
        bounds: bounds of `verify` that differ from SGD's, by the names of `Bounds`.
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
