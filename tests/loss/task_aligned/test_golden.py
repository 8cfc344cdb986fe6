"""Every implementation of the anchor-free loss against the values that the original gave.

`pytest tests/loss/task_aligned --golden-anchor-free DIR` runs the same checks over another folder.
"""

from __future__ import annotations

import functools
from collections.abc import Callable

import numpy as np
import pytest
import torch

from tests.support.graphs.task_aligned import run_graph
from tests.support.messages import mentions
from tests.support.task_aligned_cases import (
    TaskAlignedCase,
    TaskAlignedGolden,
    TaskAlignedGraph,
    TaskAlignedResult,
    find_cases,
    run_eager,
    run_loss,
    run_static,
)

RTOL = 1e-5  # of the loss, and of the L2 norm of a level's gradient

Runner = Callable[[TaskAlignedCase], TaskAlignedResult]


def run_compiled(case: TaskAlignedCase, *, backend: str) -> TaskAlignedResult:
    return run_loss(_compiled(case.graph, backend), case, case.padded())


@functools.lru_cache(maxsize=1)  # a reset forgets what was compiled before
def _compiled(graph: TaskAlignedGraph, backend: str) -> Callable[..., object]:
    torch.compiler.reset()
    return torch.compile(graph.make_loss(), fullgraph=True, backend=backend)


IMPLEMENTATIONS: dict[str, Runner] = {
    "eager": run_eager,
    "static": run_static,
    "compiled": run_compiled,
    "loss.onnx": functools.partial(run_graph, provider="any"),
    "loss.onnx-for-cpu": functools.partial(run_graph, provider="cpu"),
}


@pytest.mark.parametrize("name", IMPLEMENTATIONS)
def test_values_are_those_of_the_original(anchor_free_case, name, request):
    run = IMPLEMENTATIONS[name]
    if run is run_compiled:
        run = functools.partial(run, backend=request.config.getoption("compile_backend"))
    check(run(anchor_free_case), anchor_free_case)


def check(result: TaskAlignedResult, case: TaskAlignedGolden) -> None:
    wanted = case.wanted
    assert result.loss == pytest.approx(wanted.loss, rel=RTOL, abs=0)
    # A term may be a ten-thousandth of the loss, of boxes that hardly overlap their target.
    np.testing.assert_allclose(result.terms, wanted.terms, rtol=RTOL, atol=1e-7 * wanted.loss)
    assert len(result.gradients) == len(wanted.gradients) > 0
    for got, want in zip(result.gradients, wanted.gradients, strict=True):
        assert got.shape == want.shape
        assert np.linalg.norm(got - want) <= RTOL * np.linalg.norm(want)
    if result.assigned is not None:
        assert wanted.assigned is not None
        np.testing.assert_array_equal(result.assigned.row, wanted.assigned.row)
        np.testing.assert_allclose(result.assigned.weight, wanted.assigned.weight, atol=RTOL)


@pytest.mark.parametrize("provider", ["any", "cpu"])
def test_one_and_two_threads_give_the_same_bits(anchor_free_case, provider):
    one, two = (run_graph(anchor_free_case, provider=provider, threads=n) for n in (1, 2))
    assert one.loss == two.loss
    np.testing.assert_array_equal(one.terms, two.terms)
    for mine, theirs in zip(one.gradients, two.gradients, strict=True):
        np.testing.assert_array_equal(mine, theirs)


def test_folder_without_cases_is_refused(tmp_path):
    for folder in (tmp_path / "missing", tmp_path):
        with pytest.raises(ValueError, match=mentions(folder)):
            find_cases(folder)
