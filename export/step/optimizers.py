"""The update rule of each optimizer as a traceable function of flat vectors."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from exportloss.export.step.chunks import chunks
from exportloss.runtime.optimizers.table import (
    ADAM_BETA2,
    ADAM_EPS,
    RMSPROP_ALPHA,
    RMSPROP_EPS,
    OptimizerName,
)

__all__ = ["UPDATES", "Update", "clip", "l2_norm", "spread"]

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


Updated = tuple[Tensor, list[Tensor]]


def sgd(update: Update, state: Sequence[Tensor]) -> Updated:
    """Apply SGD with Nesterov momentum, as `torch.optim.SGD`; the decay adds to the gradient."""
    gradient = update.gradient + update.decay * update.parameters
    buffer = state[0] * update.momentum + gradient
    direction = gradient + update.momentum * buffer
    return update.parameters - update.rate * direction, [buffer]


def adam(update: Update, state: Sequence[Tensor]) -> Updated:
    """Apply Adam (arXiv 1412.6980), as `torch.optim.Adam`; the decay adds to the gradient."""
    gradient = update.gradient + update.decay * update.parameters
    step, moments = _adam_step(update, gradient, state)
    return update.parameters - step, moments


def adamw(update: Update, state: Sequence[Tensor]) -> Updated:
    """Apply AdamW (arXiv 1711.05101), as `torch.optim.AdamW`, with beta1 = momentum."""
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
    """Apply RMSProp (Hinton, lecture 6e, 2012) with momentum, as `torch.optim.RMSprop`."""
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
    """Compute the L2 norm, a scalar; infinite above 1.8e19, where its square overflows."""
    parts = [vector[part] for part, _ in chunks([len(vector)])]
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
