"""The weighted average of several devices' weights."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from exportloss.errors import ArtifactError, ConfigError, ExportLossError, excerpt
from exportloss.runtime.artifact.weights import Weights

__all__ = ["average"]

_NUMBERS = (int, float, np.integer, np.floating)
# Beyond these, sums of products with float32 values leave the range, or the precision, of float64.
_LEAST, _MOST = 1e-15, 1e15


def average(
    models: Sequence[Weights], weights: Sequence[float], *, pooled_variances: bool = True
) -> Weights:
    """Average weights of several devices (FedAvg, arXiv 1602.05629).

    Sums are taken in float64, in the order of `models`: the same models in the same order give the
    same bits on every machine. Sort them before, by the device's name.

    The variance of a channel over all devices is the mean of their variances plus the
    variance of their means. Averaging variances alone loses what differs between devices.

    Args:
        models: Weights of the devices, at least one, all of one layout.
        weights: Weight of each, in [1e-15, 1e15], such as its number of images.
        pooled_variances: Whether to add the variance of the running means to the mean of the
            running variances.

    Raises:
        ArtifactError: a model has another layout than the first, or a value is not finite; the
            message has its position.
        ConfigError: there is no model, or a weight is missing, no number or out of range.
    """
    if not models or len(models) != len(weights):
        raise ConfigError(
            f"{len(models)} models and {len(weights)} weights; expected as many of each, and at "
            "least one"
        )
    for place, (model, weight) in enumerate(zip(models, weights, strict=True)):
        if not isinstance(weight, _NUMBERS) or not _LEAST <= weight <= _MOST:
            raise ConfigError(
                f"weight {place} is {excerpt(str(weight))}; expected a number in [{_LEAST:g}, "
                f"{_MOST:g}]"
            )
        _check(model, models[0], place)
    layout = models[0].layout
    parameters = _mean([model.parameters for model in models], weights)
    statistics = _mean([model.statistics for model in models], weights)
    if pooled_variances:
        _add_variance_of_means(statistics, models, weights)
    with np.errstate(over="ignore"):  # refused as not finite
        return Weights(
            layout=layout,
            parameters=parameters.astype(np.float32),
            statistics=statistics.astype(np.float32),
        )


def _check(model: Weights, first: Weights, place: int) -> None:
    if not isinstance(model, Weights):
        raise ArtifactError(
            f"model {place} is {type(model).__name__}; expected what `weights` of a session gives"
        )
    if model.layout.digest != first.layout.digest:
        raise ArtifactError(
            f"model {place} is of another layout, {model.layout.digest[:12]}, expected "
            f"{first.layout.digest[:12]}, that of model 0; average weights of one export only"
        )
    try:
        model.check()
    except ExportLossError as error:
        raise ArtifactError(f"model {place}: {error}") from error


def _mean(
    vectors: Sequence[npt.NDArray[np.float32]], weights: Sequence[float]
) -> npt.NDArray[np.float64]:
    total = np.zeros(vectors[0].shape, np.float64)
    for vector, weight in zip(vectors, weights, strict=True):
        total += np.float64(weight) * vector
    return total / math.fsum(weights)


def _add_variance_of_means(
    statistics: npt.NDArray[np.float64], models: Sequence[Weights], weights: Sequence[float]
) -> None:
    flat = models[0].layout.statistics
    places = dict(zip(flat.names, zip(flat.offsets, flat.sizes, strict=True), strict=True))
    for norm in models[0].layout.norms:
        (mean_at, size), (var_at, _) = places[norm.mean], places[norm.var]
        mean = statistics[mean_at : mean_at + size]
        spread = np.zeros(size, np.float64)
        for model, weight in zip(models, weights, strict=True):
            spread += np.float64(weight) * (model.statistics[mean_at : mean_at + size] - mean) ** 2
        statistics[var_at : var_at + size] += spread / math.fsum(weights)
