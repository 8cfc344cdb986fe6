"""Checks of what a training step is given beside its batch."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from exportloss.errors import ConfigError, excerpt
from exportloss.runtime.optimizers.table import MAX_RATE, Hyperparameters

__all__ = ["check_gradients", "check_hyperparameters"]

Array = npt.NDArray[np.float32]


def check_gradients(
    gradients: Mapping[str, Array], expected: Mapping[str, Array]
) -> dict[str, Array]:
    """Check that there is a gradient of the right shape per trained parameter.

    Args:
        gradients: Gradients by parameter.
        expected: Gradients of the session, whose names and shapes they must have.

    Returns:
        The gradients as float32, in the order of `expected`.

    Raises:
        ConfigError: a gradient is missing, is of no trained parameter, or has another shape.
    """
    if strange := sorted(gradients.keys() ^ expected.keys()):
        problem = "lack" if strange[0] in expected else "have"
        raise ConfigError(
            f"the gradients {problem} {excerpt(repr(strange[0]))}; expected one for each of the "
            f"{len(expected)} trained parameters",
            argument="gradients",
        )
    found = {name: np.asarray(gradients[name], np.float32) for name in expected}
    for name, gradient in found.items():
        if gradient.shape != (shape := expected[name].shape):
            raise ConfigError(
                f"the gradient of {name!r} has shape {gradient.shape}; expected {shape}",
                argument="gradients",
            )
    return found


def check_hyperparameters(hyper: Hyperparameters) -> None:
    """Check that every setting is in its range.

    Raises:
        ConfigError: a setting is out of range, or not finite.
    """
    values = {
        "lr (weights)": hyper.lr[0],
        "lr (norms)": hyper.lr[1],
        "lr (biases)": hyper.lr[2],
        "momentum": hyper.momentum,
        "weight_decay": hyper.weight_decay,
    }
    for name, value in values.items():
        if not 0 <= value <= MAX_RATE:  # false for NaN
            raise ConfigError(f"{name} is {value}; expected a number in [0, {MAX_RATE:g}]")
    if hyper.momentum >= 1:
        raise ConfigError(f"momentum is {hyper.momentum}; expected below 1")
    if not (math.isfinite(hyper.loss_scale) and hyper.loss_scale > 0):
        raise ConfigError(f"loss_scale is {hyper.loss_scale}; expected a finite number above 0")
    if not hyper.max_norm > 0:
        raise ConfigError(f"max_norm is {hyper.max_norm}; expected above 0")
