"""The table of optimizers, each with its update over numpy arrays.

An entry of `OPTIMIZERS` holds what exporter, runtime, verification and command line need. The
update as a function that torch traces is in `export/step/optimizers.py`.

There are three parameter groups as in YOLOv5: weights (decayed), norms, biases. The arithmetic is
torch's, operation by operation, so that the results agree to rounding.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Mapping
from typing import Literal

import numpy as np
import numpy.typing as npt

from exportloss.runtime.optimizers.spec import HostUpdate, OptimizerSpec, StateTensor
from exportloss.runtime.optimizers.trained_tensors import ParameterGroupNames

__all__ = [
    "ADAM_BETA2",
    "ADAM_EPS",
    "LOSS_SCALE",
    "MAX_RATE",
    "OPTIMIZERS",
    "RMSPROP_ALPHA",
    "RMSPROP_EPS",
    "Hyperparameters",
    "Optimizer",
    "OptimizerName",
    "make_optimizer",
    "sum_of_squares",
]

Array = npt.NDArray[np.float32]

OptimizerName = Literal["sgd", "adam", "adamw", "rmsprop"]

# For float16 steps. The objectness of one cell among many thousands has a gradient of about 1e-7,
# which this lifts above float16's smallest normal number, 6e-5; a gradient of 60 still fits.
LOSS_SCALE = 1024.0

# Larger learning rates and weight decays only lead to infinite weights.
MAX_RATE = 1000.0

# Torch's defaults.
ADAM_BETA2 = 0.999
ADAM_EPS = 1e-8
RMSPROP_ALPHA = 0.99
RMSPROP_EPS = 1e-8

_ROW = 1024  # elements summed in float32


@dataclasses.dataclass(frozen=True, kw_only=True)
class Hyperparameters:
    """Settings that may change from step to step.

    Attributes:
        lr: Learning rates of weights, norms and biases.
        momentum: Momentum, or the first beta of Adam and AdamW.
        weight_decay: Decay of the weights, added to the gradient; AdamW shrinks the weights.
        max_norm: L2 norm that the gradients are scaled down to; infinity for no limit.
        ema_decay: Fraction of the moving average of the weights that an update keeps.
        loss_scale: Factor by which a float16 step multiplies the loss and divides the gradients.
    """

    lr: tuple[float, float, float]
    momentum: float = 0.937
    weight_decay: float = 5e-4
    max_norm: float = math.inf
    ema_decay: float = 0.0
    loss_scale: float = LOSS_SCALE


class Optimizer:
    """Optimizer on the host: its state, and updates of a set of parameters.

    Args:
        spec: Entry of the table.
        groups: Names of the trainable parameters.
        parameters: Parameters by name, for the shapes of the state tensors.

    Attributes:
        state: State tensors by name and parameter.
        updates: Number of updates done.
    """

    def __init__(
        self, spec: OptimizerSpec, groups: ParameterGroupNames, parameters: Mapping[str, Array]
    ) -> None:
        self._spec = spec
        self._groups = groups
        self.updates = 0
        self.state: dict[str, dict[str, Array]] = {
            tensor.name: {
                name: np.full_like(parameters[name], tensor.initial) for name in groups.all
            }
            for tensor in spec.state
        }

    def step(
        self,
        parameters: Mapping[str, Array],
        gradients: Mapping[str, Array],
        hyper: Hyperparameters,
        *,
        squares: float,
    ) -> None:
        """Update the parameters in place; the gradients are overwritten.

        Args:
            parameters: Parameters by name.
            gradients: Their gradients.
            hyper: Settings of the update.
            squares: What `sum_of_squares` returns for the gradients.
        """
        _clip(gradients, hyper.max_norm, squares)
        self.updates += 1
        groups = (self._groups.weights, self._groups.norms, self._groups.biases)
        for names, rate, decay in zip(
            groups, hyper.lr, (hyper.weight_decay, 0.0, 0.0), strict=True
        ):
            for name in names:
                self._spec.update(
                    HostUpdate(
                        parameter=parameters[name],
                        gradient=gradients[name],
                        state={key: entries[name] for key, entries in self.state.items()},
                        rate=rate,
                        decay=decay,
                        momentum=hyper.momentum,
                        updates=self.updates,
                    )
                )


def make_optimizer(
    name: OptimizerName, groups: ParameterGroupNames, parameters: Mapping[str, Array]
) -> Optimizer:
    """Return a new optimizer by its name."""
    return Optimizer(OPTIMIZERS[name], groups, parameters)


def sum_of_squares(gradients: Iterable[Array]) -> float:
    """Return the square of the L2 norm over all gradients; infinite or NaN if one of them is."""
    total = 0.0
    with np.errstate(over="ignore"):
        for gradient in gradients:
            vector = gradient.reshape(-1)
            whole = len(vector) // _ROW * _ROW
            rows = vector[:whole].reshape(-1, _ROW)
            # By rows and then in float64: a float32 sum over a long vector loses digits.
            total += float(np.einsum("ij,ij->i", rows, rows).sum(dtype=np.float64))
            total += float(np.dot(vector[whole:], vector[whole:]))
    return total


def _clip(gradients: Mapping[str, Array], max_norm: float, squares: float) -> None:
    """Scale gradients in place to an L2 norm of at most `max_norm`, as `clip_grad_norm_` does."""
    if math.isinf(max_norm):
        return
    factor = max_norm / (math.sqrt(squares) + 1e-6)
    if factor < 1:
        for gradient in gradients.values():
            np.multiply(gradient, np.float32(factor), out=gradient)


def _decay_in_gradient(update: HostUpdate) -> None:
    if update.decay:
        np.add(update.gradient, np.float32(update.decay) * update.parameter, out=update.gradient)


def _sgd(update: HostUpdate) -> None:
    """SGD with Nesterov momentum and decay in the gradient, as `torch.optim.SGD`."""
    gradient, buffer = update.gradient, update.state["momentum"]
    _decay_in_gradient(update)
    buffer *= np.float32(update.momentum)
    buffer += gradient
    gradient += np.float32(update.momentum) * buffer  # Nesterov
    gradient *= np.float32(update.rate)
    np.subtract(update.parameter, gradient, out=update.parameter)


def _adam(update: HostUpdate) -> None:
    """Adam (Kingma and Ba, arXiv 1412.6980), as `torch.optim.Adam`: decay in the gradient."""
    _decay_in_gradient(update)
    _adam_step(update)


def _adamw(update: HostUpdate) -> None:
    """AdamW (Loshchilov and Hutter, arXiv 1711.05101), as `torch.optim.AdamW`."""
    parameter = update.parameter
    if update.decay:
        parameter *= np.float32(1 - update.rate * update.decay)
    _adam_step(update)


def _adam_step(update: HostUpdate) -> None:
    gradient, momentum = update.gradient, update.momentum
    mean, square = update.state["exp_avg"], update.state["exp_avg_sq"]
    mean += np.float32(1 - momentum) * (gradient - mean)
    square *= np.float32(ADAM_BETA2)
    gradient *= gradient
    gradient *= np.float32(1 - ADAM_BETA2)
    square += gradient
    root = np.sqrt(square)
    root /= np.float32(math.sqrt(1 - ADAM_BETA2**update.updates))
    root += np.float32(ADAM_EPS)
    np.divide(mean, root, out=root)
    root *= np.float32(update.rate / (1 - momentum**update.updates))
    np.subtract(update.parameter, root, out=update.parameter)


def _rmsprop(update: HostUpdate) -> None:
    """RMSProp (Hinton, lecture 6e of 2012) with momentum, as `torch.optim.RMSprop`."""
    gradient, square = update.gradient, update.state["square_avg"]
    buffer = update.state["momentum"]
    _decay_in_gradient(update)
    square *= np.float32(RMSPROP_ALPHA)
    square += np.float32(1 - RMSPROP_ALPHA) * gradient * gradient
    root = np.sqrt(square)
    root += np.float32(RMSPROP_EPS)
    gradient /= root
    buffer *= np.float32(update.momentum)
    buffer += gradient
    np.subtract(update.parameter, np.float32(update.rate) * buffer, out=update.parameter)


# Adam divides a gradient by its own size, at first to its sign: an element of the size of rounding
# errors becomes a full update. Its second state tensor is a square, which doubles a relative
# difference.
_ADAM = OptimizerSpec(
    state=(
        StateTensor(name="exp_avg", torch_name="exp_avg"),
        StateTensor(name="exp_avg_sq", torch_name="exp_avg_sq", is_square=True),
    ),
    update=_adam,
    torch_class="Adam",
    torch_options=lambda momentum: {"betas": (momentum, ADAM_BETA2), "eps": ADAM_EPS},
    bounds={"parameters": 1e-4, "memory": 4e-4, "ema": 1e-4, "free_loss": 1e-3},
)

# CONTRIBUTING.md describes how to add one.
OPTIMIZERS: Mapping[OptimizerName, OptimizerSpec] = {
    "sgd": OptimizerSpec(
        state=(StateTensor(name="momentum", torch_name="momentum_buffer"),),
        update=_sgd,
        torch_class="SGD",
        torch_options=lambda momentum: {"momentum": momentum, "nesterov": True},
        ort_type="SGD",
    ),
    "adam": _ADAM,
    "adamw": dataclasses.replace(_ADAM, update=_adamw, torch_class="AdamW", ort_type="AdamW"),
    "rmsprop": OptimizerSpec(
        state=(
            StateTensor(name="square_avg", torch_name="square_avg", is_square=True),
            StateTensor(name="momentum", torch_name="momentum_buffer"),
        ),
        update=_rmsprop,
        torch_class="RMSprop",
        torch_options=lambda momentum: {
            "momentum": momentum,
            "alpha": RMSPROP_ALPHA,
            "eps": RMSPROP_EPS,
        },
        # As Adam's, but the first update is 1 / sqrt(1 - alpha) = 10 times as large, and a state
        # tensor holds that update. Measured for YOLOv5n at 64 px, with both kinds of artifact:
        # 3e-4, 4e-3 and, after three free steps, 7e-3.
        bounds={"parameters": 1e-3, "memory": 1e-2, "ema": 1e-3, "free_loss": 2e-2},
    ),
}
