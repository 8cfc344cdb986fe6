"""The loss as a graph of standard operators, with gradients, against the original's values."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest

from tests.golden_cases import GoldenCase, StepResult
from tests.portable_loss import portable_loss, run_portable


@pytest.fixture(scope="module")
def model(golden_case: GoldenCase) -> ir.Model:
    return portable_loss(golden_case)


@pytest.fixture(scope="module")
def results(golden_case: GoldenCase, model: ir.Model) -> list[StepResult]:
    results = list(run_portable(golden_case, model=model))
    assert len(results) == len(golden_case.steps) > 0
    return results


def test_loss_items_and_balance(golden_case: GoldenCase, results: list[StepResult]):
    np.testing.assert_allclose([r.loss for r in results], golden_case.loss, rtol=1e-5, atol=0)
    np.testing.assert_allclose([r.items for r in results], golden_case.items, rtol=1e-5, atol=0)
    np.testing.assert_allclose([r.balance for r in results], golden_case.balance, rtol=1e-5, atol=0)


def test_gradients(golden_case: GoldenCase, results: list[StepResult]):
    for k, (result, step) in enumerate(zip(results, golden_case.steps, strict=True)):
        for i, (got, want) in enumerate(zip(result.gradients, step.gradients, strict=True)):
            error = np.linalg.norm(got.astype(np.float64) - want)
            bound = 1e-5 * np.linalg.norm(want.astype(np.float64))
            assert error <= bound, f"step {k}, level {i}: L2 error {error:.3g} over {bound:.3g}"


def test_two_threads_give_the_same_bits(
    golden_case: GoldenCase, model: ir.Model, results: list[StepResult]
):
    on_two = run_portable(golden_case, threads=2, model=model)
    for one, two in zip(results, on_two, strict=True):
        assert one.loss == two.loss
        for mine, theirs in zip(one.gradients, two.gradients, strict=True):
            np.testing.assert_array_equal(mine, theirs)
