"""Relative differences between the results of two engines."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Mapping

import numpy as np
import numpy.typing as npt

__all__ = ["Difference", "largest", "relative", "whole_l2", "worst_l2"]

Tensors = Mapping[str, npt.NDArray[np.float32]]

# Tensors with a norm below this fraction of the norm of all are compared to that fraction: next to
# the others, float32 does not resolve them. A parameter without a gradient in either engine thus
# differs by 0, not by 0 / 0.
_NEGLIGIBLE = 1e-6

# Below this fraction a float64 reference is 0 but for rounding: a sum that cancels exactly, such as
# the gradient of a bias before BatchNorm, of which float32 leaves some 1e-8 of the norm of all.
# Such tensors are compared to the second fraction.
_ZERO, _FLOOR_OF_ZERO = 1e-12, 1e-3


@dataclasses.dataclass(frozen=True)
class Difference:
    """A relative difference, >= 0, infinite or NaN, and the name of the tensor that has it."""

    value: float
    name: str = ""


def relative(got: float, expected: float, *, name: str = "") -> Difference:
    """Return |got - expected| / |expected|; infinity if only `expected` is 0."""
    return _ratio(abs(got - expected), abs(expected), name)


def worst_l2(got: Tensors, expected: Tensors) -> Difference:
    """Return the largest relative L2 difference of all tensors of `expected`.

    Norms below a millionth of the norm of all tensors are replaced by that millionth, and those
    that are zero but for the reference's own rounding by a thousandth.

    Args:
        got: Tensors by name, at least those of `expected`.
        expected: Reference tensors by name.
    """
    norms = {name: _norm(tensor) for name, tensor in expected.items()}
    whole = math.hypot(*norms.values())

    def scale(norm: float) -> float:
        floor = _FLOOR_OF_ZERO if norm < _ZERO * whole else _NEGLIGIBLE
        return max(norm, floor * whole)

    return largest(
        _ratio(_norm(got[name] - tensor), scale(norms[name]), name)
        for name, tensor in expected.items()
    )


def whole_l2(got: Tensors, expected: Tensors, *, name: str = "") -> Difference:
    """Return the relative L2 difference of all tensors of `expected` as one vector."""
    return _ratio(
        math.hypot(*(_norm(got[name] - tensor) for name, tensor in expected.items())),
        math.hypot(*map(_norm, expected.values())),
        name,
    )


def largest(differences: Iterable[Difference]) -> Difference:
    """Return the largest difference, NaN above all others; 0 if there is none."""
    return max(
        differences,
        key=lambda d: math.inf if math.isnan(d.value) else d.value,
        default=Difference(0.0),
    )


def _ratio(difference: float, scale: float, name: str = "") -> Difference:
    if difference == 0:
        return Difference(0.0, name)
    return Difference(difference / scale if scale else math.inf, name)


def _norm(tensor: npt.NDArray[np.float32]) -> float:
    return float(np.linalg.norm(tensor.astype(np.float64)))
