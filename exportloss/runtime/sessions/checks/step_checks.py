"""Checks of what a training step is given: images, settings, gradients."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from exportloss.errors import ConfigError, DataError, excerpt
from exportloss.runtime.artifact.manifest import Manifest
from exportloss.runtime.optimizers.table import LOSS_SCALE, MAX_RATE, Hyperparameters
from exportloss.runtime.sessions.step_results import Images

__all__ = ["Rates", "check_gradients", "checked_hyperparameters", "scaled_images", "uint8_images"]

Array = npt.NDArray[np.float32]
Rates = float | tuple[float, float, float]


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


def checked_hyperparameters(
    *,
    lr: Rates,
    momentum: float,
    weight_decay: float,
    max_norm: float,
    ema_decay: float,
    loss_scale: float = LOSS_SCALE,
) -> Hyperparameters:
    """Return the settings of a step, each in its range; `ema_decay` is taken as it is.

    Raises:
        ConfigError: a setting is out of range, or not finite.
    """
    try:
        weights, norms, biases = np.broadcast_to(np.asarray(lr, np.float64), 3).tolist()
    except (TypeError, ValueError) as error:
        raise ConfigError(
            f"lr is {excerpt(repr(lr))}; expected a number, or three: of weights, norms and biases",
            argument="lr",
        ) from error
    values = {
        "lr (weights)": weights,
        "lr (norms)": norms,
        "lr (biases)": biases,
        "momentum": momentum,
        "weight_decay": weight_decay,
    }
    for name, value in values.items():
        if not 0 <= value <= MAX_RATE:  # false for NaN
            raise ConfigError(f"{name} is {value}; expected a number in [0, {MAX_RATE:g}]")
    if momentum >= 1:
        raise ConfigError(f"momentum is {momentum}; expected below 1")
    if not (math.isfinite(loss_scale) and loss_scale > 0):
        raise ConfigError(f"loss_scale is {loss_scale}; expected a finite number above 0")
    if not max_norm > 0:
        raise ConfigError(f"max_norm is {max_norm}; expected above 0")
    return Hyperparameters(
        lr=(weights, norms, biases),
        momentum=momentum,
        weight_decay=weight_decay,
        max_norm=max_norm,
        ema_decay=ema_decay,
        loss_scale=loss_scale,
    )


def scaled_images(images: Images, manifest: Manifest) -> Images:
    """Check images and return them as float32 in [0, 1].

    Raises:
        DataError: their shape is not the artifact's, or their type neither uint8 nor float32.
    """
    _check_shape(images, manifest)
    if images.dtype == np.uint8:
        scaled: Images = images.astype(np.float32) / np.float32(255)
        return scaled
    if images.dtype == np.float32:
        return np.ascontiguousarray(images)
    raise DataError(f"images are {images.dtype}; expected uint8 (0 to 255) or float32 (0 to 1)")


def uint8_images(images: Images, manifest: Manifest) -> Images:
    """Check images for a graph that divides them by 255 itself.

    Raises:
        DataError: their shape is not the artifact's, or their type is not uint8.
    """
    _check_shape(images, manifest)
    if images.dtype != np.uint8:
        raise DataError(f"images are {images.dtype}; the portable step takes uint8 (0 to 255)")
    return np.ascontiguousarray(images)


def _check_shape(images: Images, manifest: Manifest) -> None:
    expected = (manifest.batch_size, 3, *manifest.image_size)
    if not isinstance(images, np.ndarray) or images.shape != expected:
        raise DataError(
            f"images have shape {getattr(images, 'shape', None)}; the graph was exported for "
            f"{expected}: letterbox and batch them to that shape, or export again"
        )
