"""Parameters as float16 differences."""

from __future__ import annotations

import numpy as np
import pytest

from exportloss import ArtifactError, TrainingError
from exportloss.runtime.federated.differences import add_difference, take_difference


def test_a_difference_is_within_half_a_step_of_float16():
    rng = np.random.default_rng(0)
    old = rng.normal(size=1000).astype(np.float32)
    new = old + rng.normal(0, 1e-3, 1000).astype(np.float32)
    sent, residual = take_difference(new, old)
    assert sent.dtype == np.float16
    assert sent.nbytes * 2 == new.nbytes
    exact = (new - old).astype(np.float64)
    found = (add_difference(old, sent) - old).astype(np.float64)
    np.testing.assert_allclose(found, exact, rtol=2**-11, atol=2**-22)
    np.testing.assert_array_equal(residual, (new - old) - sent.astype(np.float32))


def test_error_feedback_lets_changes_below_the_step_of_float16_through():
    """A change of 1e-8 is 0 in float16, but a thousand of them are not."""
    old, total, residual = np.zeros(3, np.float32), np.zeros(3, np.float32), None
    change = np.float32(1e-8)
    alone, _ = take_difference(old + change, old)
    assert not alone.any()
    for _ in range(1000):
        sent, residual = take_difference(old + change, old, residual)
        total = add_difference(total, sent)
    np.testing.assert_allclose(total, 1e-5, rtol=0.01)


def test_what_float16_cannot_hold_is_refused():
    with pytest.raises(TrainingError, match="70000"):
        take_difference(np.array([70000], np.float32), np.zeros(1, np.float32))


@pytest.mark.parametrize(
    "difference",
    [np.zeros(2, np.float16), np.zeros(3, np.float32), np.array([0, np.nan, 0], np.float16)],
    ids=["shape", "type", "NaN"],
)
def test_bad_differences_are_refused(difference):
    with pytest.raises(ArtifactError, match=r"float|finite"):
        add_difference(np.zeros(3, np.float32), difference)
