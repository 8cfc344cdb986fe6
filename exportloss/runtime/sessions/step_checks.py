"""Checks of the settings of a training step."""

from __future__ import annotations

import math

from exportloss.errors import ConfigError
from exportloss.runtime.optimizers.table import MAX_RATE, Hyperparameters

__all__ = ["check_hyperparameters"]


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
