"""The update of each optimizer in the table as a function of flat vectors, to be traced."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from exportloss.runtime.optimizers.table import (
    ADAM_BETA2,
    ADAM_EPS,
    RMSPROP_ALPHA,
    RMSPROP_EPS,
    OptimizerName,
)

__all__ = ["UPDATES", "Update", "clip", "l2_norm", "spread"]

_CLIP_EPS = 1e-6  # of torch.nn.utils.clip_grad_norm_
_ROW = 1024
_SMALLEST_LOG = -80.0  # exp of it is still a normal number


@dataclasses.dataclass(frozen=True)
class Update:
    """What an update is made of; vectors are (P,), settings scalars, 0-dimensional or (P,).

    Attributes:
        parameters: (P,) before the update.
        gradient: (P,).
        rate: (P,) learning rate of each parameter.
        decay: (P,) weight decay of each parameter.
        momentum: scalar.
        updates: scalar, number of this update, from 1.
    """

    parameters: Tensor
    gradient: Tensor
    rate: Tensor
    decay: Tensor
    momentum: Tensor
    updates: Tensor


Updated = tuple[Tensor, list[Tensor]]


def sgd(update: Update, state: Sequence[Tensor]) -> Updated:
    """SGD with Nesterov momentum, the decay in the gradient, as `torch.optim.SGD`."""
    gradient = update.gradient + update.decay * update.parameters
    buffer = state[0] * update.momentum + gradient
    direction = gradient + update.momentum * buffer
    return update.parameters - update.rate * direction, [buffer]


def adam(update: Update, state: Sequence[Tensor]) -> Updated:
    """Adam (Kingma and Ba, arXiv 1412.6980) as `torch.optim.Adam`, the decay in the gradient."""
    gradient = update.gradient + update.decay * update.parameters
    step, moments = _adam_step(update, gradient, state)
    return update.parameters - step, moments


def adamw(update: Update, state: Sequence[Tensor]) -> Updated:
    """AdamW (Loshchilov and Hutter, arXiv 1711.05101) as `torch.optim.AdamW`, beta1 = momentum."""
    step, moments = _adam_step(update, update.gradient, state)
    return update.parameters * (1 - update.rate * update.decay) - step, moments


def _adam_step(update: Update, gradient: Tensor, state: Sequence[Tensor]) -> Updated:
    mean, square = state
    mean = mean + (1 - update.momentum) * (gradient - mean)
    square = square * ADAM_BETA2 + (1 - ADAM_BETA2) * (gradient * gradient)
    correction1 = _one_minus_exp(update.updates * torch.log(update.momentum))
    correction2 = _one_minus_exp(update.updates * math.log(ADAM_BETA2))
    root = torch.sqrt(square) / torch.sqrt(correction2) + ADAM_EPS
    return (update.rate / correction1) * (mean / root), [mean, square]


def rmsprop(update: Update, state: Sequence[Tensor]) -> Updated:
    """RMSProp (Hinton, lecture 6e of 2012) with momentum, as `torch.optim.RMSprop`."""
    square, buffer = state
    gradient = update.gradient + update.decay * update.parameters
    square = square * RMSPROP_ALPHA + (1 - RMSPROP_ALPHA) * (gradient * gradient)
    buffer = buffer * update.momentum + gradient / (torch.sqrt(square) + RMSPROP_EPS)
    return update.parameters - update.rate * buffer, [square, buffer]


# (update, state tensors in the order of the table) -> new parameters, new state tensors
UPDATES: Mapping[OptimizerName, Callable[[Update, Sequence[Tensor]], Updated]] = {
    "sgd": sgd,
    "adam": adam,
    "adamw": adamw,
    "rmsprop": rmsprop,
}


def l2_norm(vector: Tensor) -> Tensor:
    """Scalar L2 norm; infinite above 1.8e19, where its square overflows."""
    return torch.sqrt(_sum(vector * vector))


def clip(gradient: Tensor, norm: Tensor, max_norm: Tensor) -> Tensor:
    """Scale a gradient of an L2 norm down to another, as `clip_grad_norm_`; inf leaves it."""
    return gradient * torch.clamp(max_norm / (norm + _CLIP_EPS), max=1.0)


def _sum(values: Tensor) -> Tensor:
    """Sum a vector by rows: runtimes add one after the other, and a million loses digits."""
    whole = len(values) // _ROW * _ROW
    rows = values[:whole].view(-1, _ROW).sum(dim=1)
    return rows.sum() + values[whole:].sum()


def spread(values: Sequence[Tensor], sizes: Sequence[int]) -> Tensor:
    """Repeat each of some scalars so many times: (sum of sizes,)."""
    parts = [value.expand(size) for value, size in zip(values, sizes, strict=True) if size]
    return torch.cat(parts)


def _one_minus_exp(x: Tensor) -> Tensor:
    """1 - exp(x) for x < 0, of full precision near 0, where 1 - beta ** t has lost most of it."""
    return -torch.expm1(torch.clamp(x, min=_SMALLEST_LOG))
