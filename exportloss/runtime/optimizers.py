"""YOLOv5's SGD and torch's Adam and AdamW over numpy arrays, in place.

Three parameter groups as in YOLOv5: weights (decayed), norms, biases. The arithmetic is torch's,
operation for operation, so that both follow it to rounding.
"""

from __future__ import annotations

import abc
import dataclasses
import math
from collections.abc import Callable, Mapping
from typing import ClassVar

import numpy as np
import numpy.typing as npt

from exportloss.runtime.manifest import OptimizerName, ParameterGroupNames

__all__ = [
    "LOSS_SCALE",
    "MAX_RATE",
    "Adam",
    "AdamW",
    "Hyperparameters",
    "Optimizer",
    "Sgd",
    "make_optimizer",
]

Array = npt.NDArray[np.float32]

# Of float16 steps. The objectness of one cell among many thousands has a gradient of about 1e-7,
# which this lifts above float16's smallest normal number, 6e-5; and a gradient of 60 still fits.
LOSS_SCALE = 1024.0

# Learning rates and weight decay above it lead nowhere but to infinite weights.
MAX_RATE = 1000.0


@dataclasses.dataclass(frozen=True, kw_only=True)
class Hyperparameters:
    """What may change from step to step.

    Attributes:
        lr: learning rates of the groups weights, norms, biases.
        momentum: Nesterov momentum of SGD, first beta of Adam and AdamW.
        weight_decay: of the weights; SGD and Adam add it to the gradient, AdamW shrinks them.
        max_norm: the gradient is scaled down to this L2 norm; infinity leaves it as it is.
        ema_decay: share of the moving average of the weights that stays, where one is kept.
        loss_scale: what a float16 step multiplies the loss by and divides the gradients by.
    """

    lr: tuple[float, float, float]
    momentum: float = 0.937
    weight_decay: float = 5e-4
    max_norm: float = math.inf
    ema_decay: float = 0.0
    loss_scale: float = LOSS_SCALE


class Optimizer(abc.ABC):
    """Memory and update rule for a set of parameters.

    Args:
        groups: trainable parameters.
        parameters: name -> array; their shapes are taken.
    """

    memories: ClassVar[tuple[str, ...]]

    def __init__(self, groups: ParameterGroupNames, parameters: Mapping[str, Array]) -> None:
        self._groups = groups
        self.updates = 0
        self.memory: dict[str, dict[str, Array]] = {
            memory: {name: np.zeros_like(parameters[name]) for name in groups.all}
            for memory in self.memories
        }

    def step(
        self,
        parameters: Mapping[str, Array],
        gradients: Mapping[str, Array],
        hyper: Hyperparameters,
    ) -> None:
        """Update the parameters in place; the gradients are used up."""
        clip_gradients(gradients, hyper.max_norm)
        self.updates += 1
        groups = (self._groups.weights, self._groups.norms, self._groups.biases)
        for names, lr, decay in zip(groups, hyper.lr, (hyper.weight_decay, 0.0, 0.0), strict=True):
            for name in names:
                self._update(
                    name,
                    parameters[name],
                    gradients[name],
                    lr=lr,
                    decay=decay,
                    momentum=hyper.momentum,
                )

    @abc.abstractmethod
    def _update(
        self,
        name: str,
        parameter: Array,
        gradient: Array,
        *,
        lr: float,
        decay: float,
        momentum: float,
    ) -> None: ...


class Sgd(Optimizer):
    """SGD with Nesterov momentum and decay in the gradient, as `torch.optim.SGD`."""

    memories = ("momentum",)

    def _update(
        self,
        name: str,
        parameter: Array,
        gradient: Array,
        *,
        lr: float,
        decay: float,
        momentum: float,
    ) -> None:
        buffer = self.memory["momentum"][name]
        if decay:
            gradient += np.float32(decay) * parameter
        buffer *= np.float32(momentum)
        buffer += gradient
        gradient += np.float32(momentum) * buffer  # Nesterov
        gradient *= np.float32(lr)
        parameter -= gradient


class AdamW(Optimizer):
    """AdamW (Loshchilov and Hutter, arXiv 1711.05101), as `torch.optim.AdamW`."""

    memories = ("exp_avg", "exp_avg_sq")
    beta2 = 0.999
    eps = 1e-8

    def _update(
        self,
        name: str,
        parameter: Array,
        gradient: Array,
        *,
        lr: float,
        decay: float,
        momentum: float,
    ) -> None:
        mean, square = self.memory["exp_avg"][name], self.memory["exp_avg_sq"][name]
        if decay:
            self._decay(parameter, gradient, lr * decay, decay)
        mean += np.float32(1 - momentum) * (gradient - mean)
        square *= np.float32(self.beta2)
        gradient *= gradient
        gradient *= np.float32(1 - self.beta2)
        square += gradient
        root = np.sqrt(square)
        root /= np.float32(math.sqrt(1 - self.beta2**self.updates))
        root += np.float32(self.eps)
        np.divide(mean, root, out=root)
        root *= np.float32(lr / (1 - momentum**self.updates))
        parameter -= root

    def _decay(self, parameter: Array, gradient: Array, shrinkage: float, decay: float) -> None:
        parameter *= np.float32(1 - shrinkage)


class Adam(AdamW):
    """Adam (Kingma and Ba, arXiv 1412.6980), as `torch.optim.Adam`: decay in the gradient."""

    def _decay(self, parameter: Array, gradient: Array, shrinkage: float, decay: float) -> None:
        gradient += np.float32(decay) * parameter


def make_optimizer(
    name: OptimizerName, groups: ParameterGroupNames, parameters: Mapping[str, Array]
) -> Optimizer:
    """Build the optimizer that a manifest names."""
    kinds: dict[OptimizerName, Callable[..., Optimizer]]
    kinds = {"sgd": Sgd, "adam": Adam, "adamw": AdamW}
    return kinds[name](groups, parameters)


def clip_gradients(gradients: Mapping[str, Array], max_norm: float) -> None:
    """Scale gradients in place to an L2 norm of at most `max_norm`, as `clip_grad_norm_` does."""
    if math.isinf(max_norm):
        return
    # Sums in float64: numpy's float32 dot of a long vector would lose what torch keeps.
    squares = sum(float(np.square(g, dtype=np.float64).sum()) for g in gradients.values())
    factor = max_norm / (math.sqrt(squares) + 1e-6)
    if factor < 1:
        for gradient in gradients.values():
            np.multiply(gradient, np.float32(factor), out=gradient)
