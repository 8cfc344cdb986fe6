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
    gradients: Mapping[str, Array], expected: Mapping[str, tuple[int, ...]]
) -> dict[str, Array]:
    """Check that there is a gradient of the right shape per trained parameter.

    Args:
        gradients: Gradients by parameter.
        expected: Shapes of the session's parameters.

    Returns:
        The gradients as float32, in the order of `expected`.

    Raises:
        ConfigError: a gradient is missing, is of no trained parameter, has another shape, or is no
            array of real numbers.
    """
    if not isinstance(gradients, Mapping):
        raise ConfigError(
            f"gradients is {type(gradients).__name__}; expected an array by parameter, as from "
            "`gradients()`",
            argument="gradients",
        )
    if strange := sorted(gradients.keys() ^ expected.keys()):
        problem = "lack" if strange[0] in expected else "have"
        raise ConfigError(
            f"the gradients {problem} {excerpt(repr(strange[0]))}; expected one for each of the "
            f"{len(expected)} trained parameters",
            argument="gradients",
        )
    for name, shape in expected.items():
        gradient = gradients[name]
        if not isinstance(gradient, np.ndarray) or not np.issubdtype(gradient.dtype, np.floating):
            kind = getattr(gradient, "dtype", type(gradient).__name__)
            raise ConfigError(
                f"the gradient of {name!r} is {kind}; expected an array of float32",
                argument="gradients",
            )
        if gradient.shape != shape:
            raise ConfigError(
                f"the gradient of {name!r} has shape {gradient.shape}; expected {shape}",
                argument="gradients",
            )
    with np.errstate(over="ignore"):  # infinities, whose update is skipped
        return {name: np.asarray(gradients[name], np.float32) for name in expected}


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
