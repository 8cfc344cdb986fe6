"""The static anchor-free loss against the eager reference, over random cases with many ties.

`pytest tests/loss/task_aligned/test_random.py --task-aligned-cases 500` compares more of them.
"""

from __future__ import annotations

import numpy as np
import pytest

from tests.support.task_aligned_cases import TaskAlignedCase, draw_case, run_eager, run_static

RTOL = 1e-5


@pytest.fixture
def random_case(request) -> TaskAlignedCase:
    return draw_case(request.param)


def test_static_equals_eager(random_case):
    eager, static = run_eager(random_case), run_static(random_case)
    assert np.isfinite(eager.loss)
    assert static.loss == pytest.approx(eager.loss, rel=RTOL, abs=0)
    np.testing.assert_allclose(static.terms, eager.terms, rtol=RTOL, atol=1e-6 * eager.loss)
    for got, want in zip(static.gradients, eager.gradients, strict=True):
        assert np.linalg.norm(got - want) <= RTOL * np.linalg.norm(want)
    mine, theirs = static.assigned, eager.assigned
    assert mine is not None and theirs is not None
    np.testing.assert_allclose(mine.weight, theirs.weight, atol=RTOL)
    told_apart = np.maximum(mine.weight, theirs.weight) > 1e-12  # smaller metrics may underflow
    np.testing.assert_array_equal(mine.row[told_apart], theirs.row[told_apart])


def test_the_cases_are_of_every_kind():
    cases = [draw_case(seed) for seed in range(60)]
    assert {case.graph.config.profile for case in cases} == {"8.4", "8.3", "yolov9"}
    assert {case.graph.config.reg_max for case in cases} == {16, 8, 1}
    assert {len(case.targets) > 0 for case in cases} == {True, False}
    assert any(case.graph.config.topk2 < case.graph.config.topk for case in cases)
    constant = [case for case in cases if len(np.unique(case.maps[0])) < 10]
    assert len(constant) > 5  # predictions of equal cells are equal: ties
    learned = sum(int((run_eager(case).assigned.row >= 0).sum()) for case in constant)
    assert learned > 100
