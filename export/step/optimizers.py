"""The update rule of each optimizer as a traceable function of flat vectors."""

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

__all__ = ["UPDATES", "Rule", "Update", "clip", "l2_norm", "spread"]

_CLIP_EPS = 1e-6  # as in torch.nn.utils.clip_grad_norm_
_ROW = 1024
_SMALLEST_LOG = -80.0  # its exp is still a normal float32


@dataclasses.dataclass(frozen=True)
class Update:
    """Inputs of an optimizer's update, for P trainable parameters.

    Attributes:
        parameters: (P,) values before the update.
        gradient: (P,) gradient of the loss.
        rate: (P,) learning rate of each parameter.
        decay: (P,) weight decay of each parameter.
        momentum: Scalar, momentum or the first beta of Adam and AdamW.
        updates: Scalar, number of this update, from 1.
    """

    parameters: Tensor
    gradient: Tensor
    rate: Tensor
    decay: Tensor
    momentum: Tensor
    updates: Tensor


@dataclasses.dataclass(frozen=True)
class Rule:
    """An optimizer's update, in two parts: a large model does not hold all new vectors at a time.

    Attributes:
        state: From an update and the state tensors, in the order of the table, the new ones.
        parameters: From an update and the new state tensors, the new parameters.
    """

    state: Callable[[Update, Sequence[Tensor]], list[Tensor]]
    parameters: Callable[[Update, Sequence[Tensor]], Tensor]


def _decayed(update: Update) -> Tensor:
    return update.gradient + update.decay * update.parameters


# SGD with Nesterov momentum, as `torch.optim.SGD`; the decay adds to the gradient.


def _sgd_state(update: Update, state: Sequence[Tensor]) -> list[Tensor]:
    return [state[0] * update.momentum + _decayed(update)]


def _sgd_parameters(update: Update, state: Sequence[Tensor]) -> Tensor:
    direction = _decayed(update) + update.momentum * state[0]
    return update.parameters - update.rate * direction


# Adam (arXiv 1412.6980), as `torch.optim.Adam`; the decay adds to the gradient. AdamW (arXiv
# 1711.05101), as `torch.optim.AdamW`. beta1 is the momentum.


def _adam_state(update: Update, state: Sequence[Tensor]) -> list[Tensor]:
    return _moments(update, _decayed(update), state)


def _adamw_state(update: Update, state: Sequence[Tensor]) -> list[Tensor]:
    return _moments(update, update.gradient, state)


def _moments(update: Update, gradient: Tensor, state: Sequence[Tensor]) -> list[Tensor]:
    mean, square = state
    mean = mean + (1 - update.momentum) * (gradient - mean)
    return [mean, square * ADAM_BETA2 + (1 - ADAM_BETA2) * (gradient * gradient)]


def _adam_parameters(update: Update, state: Sequence[Tensor]) -> Tensor:
    return update.parameters - _adam_step(update, state)


def _adamw_parameters(update: Update, state: Sequence[Tensor]) -> Tensor:
    return update.parameters * (1 - update.rate * update.decay) - _adam_step(update, state)


def _adam_step(update: Update, state: Sequence[Tensor]) -> Tensor:
    mean, square = state
    correction1 = _one_minus_exp(update.updates * torch.log(update.momentum))
    correction2 = _one_minus_exp(update.updates * math.log(ADAM_BETA2))
    root = torch.sqrt(square) / torch.sqrt(correction2) + ADAM_EPS
    return (update.rate / correction1) * (mean / root)


# RMSProp (Hinton, lecture 6e, 2012) with momentum, as `torch.optim.RMSprop`.


def _rmsprop_state(update: Update, state: Sequence[Tensor]) -> list[Tensor]:
    square, buffer = state
    gradient = _decayed(update)
    square = square * RMSPROP_ALPHA + (1 - RMSPROP_ALPHA) * (gradient * gradient)
    buffer = buffer * update.momentum + gradient / (torch.sqrt(square) + RMSPROP_EPS)
    return [square, buffer]


def _rmsprop_parameters(update: Update, state: Sequence[Tensor]) -> Tensor:
    return update.parameters - update.rate * state[1]


UPDATES: Mapping[OptimizerName, Rule] = {
    "sgd": Rule(_sgd_state, _sgd_parameters),
    "adam": Rule(_adam_state, _adam_parameters),
    "adamw": Rule(_adamw_state, _adamw_parameters),
    "rmsprop": Rule(_rmsprop_state, _rmsprop_parameters),
}


def l2_norm(parts: Sequence[Tensor]) -> Tensor:
    """Compute the L2 norm of joined vectors; infinite above 1.8e19, where its square overflows."""
    return torch.sqrt(_sum([part * part for part in parts]))


def clip(gradient: Tensor, norm: Tensor, max_norm: Tensor) -> Tensor:
    """Scale a gradient of norm `norm` down to `max_norm`, if above it, as `clip_grad_norm_`."""
    return gradient * torch.clamp(max_norm / (norm + _CLIP_EPS), max=1.0)


def _sum(parts: Sequence[Tensor]) -> Tensor:
    """Sum vectors by rows: runtimes add sequentially, which loses digits over a million terms.

    All but the last consist of whole rows, so that the cut changes no bit.
    """
    whole = len(parts[-1]) // _ROW * _ROW
    matrices = [part.view(-1, _ROW) for part in (*parts[:-1], parts[-1][:whole])]
    rows = [matrix.sum(dim=1) for matrix in matrices]
    return (torch.cat(rows) if len(rows) > 1 else rows[0]).sum() + parts[-1][whole:].sum()


def spread(values: Sequence[Tensor], sizes: Sequence[int]) -> Tensor:
    """Repeat each scalar `size` times and concatenate the results: (sum of sizes,)."""
    parts = [value.expand(size) for value, size in zip(values, sizes, strict=True) if size]
    return torch.cat(parts)


def _one_minus_exp(x: Tensor) -> Tensor:
    """Compute 1 - exp(x) for x < 0 accurately near 0, where 1 - beta ** t cancels."""
    return -torch.expm1(torch.clamp(x, min=_SMALLEST_LOG))
