"""Relative differences: what counts as how much."""

from __future__ import annotations

import math

import numpy as np
import pytest

from exportloss.export.verify.differences import (
    Difference,
    relative,
    whole_l2,
    worst_l2,
)


def test_relative() -> None:
    assert relative(1.1, 1.0).value == pytest.approx(0.1)
    assert relative(0.0, 0.0).value == 0
    assert relative(1e-30, 0.0).value == math.inf
    assert math.isnan(relative(math.nan, 1.0).value)


def test_the_worst_tensor_is_named() -> None:
    expected = {"a": np.full(4, 2, np.float32), "b": np.full(1, 1, np.float32)}
    got = {"a": np.full(4, 2, np.float32), "b": np.full(1, 1.5, np.float32)}
    assert worst_l2(got, expected) == Difference(0.5, "b")
    assert whole_l2(got, expected).value == pytest.approx(0.5 / math.sqrt(17))


def test_a_tensor_of_zeros_is_judged_beside_the_others() -> None:
    expected = {"a": np.ones(1, np.float32), "zero": np.zeros(3, np.float32)}

    def worst(zero: list[float]) -> float:
        got = expected | {"zero": np.array(zero, np.float32)}
        return worst_l2(got, expected).value

    assert worst([0, 0, 0]) == 0
    assert worst([1e-9, 0, 0]) == pytest.approx(1e-6)
    assert worst([0, 1, 0]) == pytest.approx(1e3)


def test_a_small_tensor_is_not_taken_for_one_of_zeros() -> None:
    expected = {"a": np.ones(1, np.float32), "small": np.full(1, 1e-8, np.float32)}
    got = expected | {"small": np.full(1, 3e-8, np.float32)}
    assert worst_l2(got, expected).value == pytest.approx(2e-2)
    # Zero but for the rounding of float64.
    expected["small"] = np.full(1, 1e-16, np.float32)
    assert worst_l2(got, expected).value == pytest.approx(3e-5)


def test_all_zero_and_one_not() -> None:
    zero, one = {"a": np.zeros(1, np.float32)}, {"a": np.ones(1, np.float32)}
    assert worst_l2(zero, zero).value == whole_l2(zero, zero).value == 0
    assert worst_l2(one, zero).value == whole_l2(one, zero).value == math.inf
