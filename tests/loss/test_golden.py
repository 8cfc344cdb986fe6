"""Every implementation of the loss against the values that the original gave.

`pytest tests/loss/test_golden.py --golden DIR` runs the same checks over another folder of cases.
"""

from __future__ import annotations

import dataclasses
import functools
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import nn

from exportloss.eager import ComputeLoss
from exportloss.export import export_training_artifacts
from exportloss.loss.matching import match
from exportloss.runtime.sessions.ort_training import OrtTrainSession
from tests.support.golden_cases import GoldenCase, LossGraph, Runner, StepResult, find_cases
from tests.support.graphs.portable_loss import run_loss_onnx
from tests.support.messages import mentions


@dataclasses.dataclass(frozen=True, kw_only=True)
class Implementation:
    """A way to compute the loss, and how near it must come."""

    run: Runner
    loss_rtol: float  # of loss, items and balance
    gradient_rtol: float | None  # L2 over a level; None where it gives none
    looser: Mapping[str, float] = dataclasses.field(default_factory=dict)  # loss_rtol by case

    def loss_rtol_of(self, case: GoldenCase) -> float:
        return self.looser.get(case.name, self.loss_rtol)


def run_eager(case: GoldenCase) -> Iterator[StepResult]:
    compute = ComputeLoss.from_config(case.anchors_px, case.strides, case.num_classes, case.config)
    for step in case.steps:
        predictions = [torch.tensor(level, requires_grad=True) for level in step.predictions]
        targets = torch.tensor(step.targets)
        loss, items = compute(predictions, targets)
        gradients = torch.autograd.grad(loss.sum(), predictions)
        tcls, *_ = compute.build_targets(predictions, targets)
        yield StepResult(
            loss=loss.item(),
            items=items.numpy(),
            gradients=tuple(gradient.numpy() for gradient in gradients),
            balance=np.asarray(compute.balance[: case.num_levels]),
            matches=np.asarray([len(level) for level in tcls]),
        )


def run_static(case: GoldenCase, *, pairwise: bool = False) -> Iterator[StepResult]:
    loss = case.graph.make_loss()
    yield from _run_static(case, loss.as_pairwise() if pairwise else loss)


def run_compiled(case: GoldenCase, backend: str) -> Iterator[StepResult]:
    yield from _run_static(case, _compiled_loss(case.graph, backend))


@functools.lru_cache(maxsize=1)  # a reset forgets what was compiled before
def _compiled_loss(graph: LossGraph, backend: str) -> Callable[..., Any]:
    torch.compiler.reset()
    return torch.compile(graph.make_loss(), fullgraph=True, backend=backend)


def _run_static(case: GoldenCase, loss_of: Callable[..., Any]) -> Iterator[StepResult]:
    balance = torch.tensor(case.initial_balance)
    for step in case.steps:
        predictions = [torch.tensor(level, requires_grad=True) for level in step.predictions]
        targets = torch.tensor(case.padded(step))
        loss, items, balance = loss_of(predictions, targets, balance)
        yield StepResult(
            loss=loss.item(),
            items=items.numpy(),
            gradients=tuple(g.numpy() for g in torch.autograd.grad(loss, predictions)),
            balance=balance.numpy(),
            matches=static_matches(case.graph, targets),
        )


def static_matches(graph: LossGraph, targets: torch.Tensor) -> NDArray[np.int64]:
    """Rows that each level trains: the slots' multiplicities."""
    slots = match(
        targets,
        graph.make_loss().anchors,
        batch_size=graph.shapes[0][0],
        grids=[(shape[2], shape[3]) for shape in graph.shapes],
        num_classes=graph.num_classes,
        anchor_t=graph.config.anchor_t,
    )
    return slots.weight.sum(dim=(1, 2, 3)).numpy().astype(np.int64)


class PredictionsAsParameters(nn.Module):
    """A detector whose output is its parameters: their gradients are those of predictions."""

    def __init__(self, shapes: tuple[tuple[int, ...], ...]) -> None:
        super().__init__()
        self.levels = nn.ParameterList([torch.zeros(shape) for shape in shapes])

    def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return tuple(self.levels)


def run_ort_training(case: GoldenCase, *, threads: int = 1) -> Iterator[StepResult]:
    session = _open_training(case.graph)[threads]
    images = np.zeros((case.graph.shapes[0][0], 3, *case.graph.image_size), np.uint8)
    balance = case.initial_balance
    for step in case.steps:
        model = {f"levels.{i}": level for i, level in enumerate(step.predictions)}
        state = dataclasses.replace(session.state(), model=model, loss={"balance": balance})
        session.load_state(state)
        result = session.step(images, step.targets, lr=0.0, update=False)
        gradients, balance = session.gradients(), session.state().balance
        yield StepResult(
            loss=result.loss,
            items=np.asarray(list(result.items.values())),
            gradients=tuple(gradients[name].copy() for name in model),
            balance=balance,
        )


@functools.cache
def _open_training(graph: LossGraph) -> dict[int, OrtTrainSession]:
    """A session for each number of threads; they last longer than the folder."""
    model = PredictionsAsParameters(graph.shapes)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "artifact"
        manifest = export_training_artifacts(model, graph.make_loss(), folder, **graph.sizes)
        return {n: OrtTrainSession(folder, manifest, threads=n) for n in (1, 2)}


IMPLEMENTATIONS = {
    "eager": Implementation(
        run=run_eager,
        loss_rtol=2e-6,
        gradient_rtol=1e-5,
        looser={"trained_background": 1e-3},  # torch's own cross-entropy takes log(1 + e^x)
    ),
    "static": Implementation(run=run_static, loss_rtol=2e-6, gradient_rtol=1e-5),
    "static-pairwise": Implementation(
        run=functools.partial(run_static, pairwise=True), loss_rtol=2e-6, gradient_rtol=1e-5
    ),
    "compiled": Implementation(run=run_compiled, loss_rtol=2e-6, gradient_rtol=1e-5),
    "loss.onnx": Implementation(
        run=functools.partial(run_loss_onnx, gradients=True), loss_rtol=1e-5, gradient_rtol=1e-5
    ),
    "loss.onnx-for-cpu": Implementation(
        run=functools.partial(run_loss_onnx, gradients=True, provider="cpu"),
        loss_rtol=1e-5,
        gradient_rtol=1e-5,
    ),
    "loss.onnx-for-gpu": Implementation(
        run=functools.partial(run_loss_onnx, gradients=True, provider="gpu"),
        loss_rtol=1e-5,
        gradient_rtol=1e-5,
    ),
    "loss.onnx-alone": Implementation(
        run=functools.partial(run_loss_onnx, gradients=False), loss_rtol=1e-5, gradient_rtol=None
    ),
    "ort-training": Implementation(run=run_ort_training, loss_rtol=1e-5, gradient_rtol=1e-5),
}


@pytest.fixture(scope="module", params=IMPLEMENTATIONS.values(), ids=IMPLEMENTATIONS.keys())
def implementation(request: pytest.FixtureRequest) -> Implementation:
    if request.param.run is run_compiled:
        backend = request.config.getoption("compile_backend")
        return dataclasses.replace(
            request.param, run=functools.partial(run_compiled, backend=backend)
        )
    return request.param


_RESULTS: dict[tuple[str, str], list[StepResult]] = {}


@pytest.fixture
def results(
    implementation: Implementation, golden_case: GoldenCase, request: pytest.FixtureRequest
) -> list[StepResult]:
    """All steps in sequence, run once for all the tests of a case, in whatever order they come."""
    key = request.node.callspec.id, str(request.config.getoption("--golden"))
    if key not in _RESULTS:
        _RESULTS[key] = list(implementation.run(golden_case))
    assert len(_RESULTS[key]) == len(golden_case.steps) > 0
    return _RESULTS[key]


def test_loss_and_items(implementation, golden_case, results):
    rtol = implementation.loss_rtol_of(golden_case)
    np.testing.assert_allclose([r.loss for r in results], golden_case.loss, rtol=rtol, atol=0)
    np.testing.assert_allclose([r.items for r in results], golden_case.items, rtol=rtol, atol=0)


def test_gradients(implementation, golden_case, results):
    if implementation.gradient_rtol is None:
        assert not any(result.gradients for result in results)
        pytest.skip("this implementation gives no gradients")
    for k, (result, step) in enumerate(zip(results, golden_case.steps, strict=True)):
        for i, (got, want) in enumerate(zip(result.gradients, step.gradients, strict=True)):
            assert got.shape == want.shape, f"step {k}, level {i}"
            error = np.linalg.norm(got.astype(np.float64) - want)
            bound = implementation.gradient_rtol * np.linalg.norm(want.astype(np.float64))
            assert error <= bound, f"step {k}, level {i}: L2 error {error:.3g} over {bound:.3g}"


def test_matches(golden_case, results):
    if all(result.matches is None for result in results):
        pytest.skip("the implementation does not tell its matches")
    np.testing.assert_array_equal(
        [result.matches for result in results], [step.matches for step in golden_case.steps]
    )


def test_balance(implementation, golden_case, results):
    np.testing.assert_allclose(
        [result.balance for result in results],
        golden_case.balance,
        rtol=implementation.loss_rtol_of(golden_case),
        atol=0,
    )


@pytest.mark.parametrize(
    "name", ["loss.onnx", "loss.onnx-for-cpu", "loss.onnx-for-gpu", "ort-training"]
)
def test_one_and_two_threads_give_the_same_bits(golden_case, name):
    run = IMPLEMENTATIONS[name].run
    one, two = (run(golden_case, threads=threads) for threads in (1, 2))
    for result, other in zip(one, two, strict=True):
        assert_same_bits(result, other)


def assert_same_bits(one: StepResult, other: StepResult) -> None:
    assert one.loss == other.loss
    np.testing.assert_array_equal(one.items, other.items)
    assert len(one.gradients) == len(other.gradients) > 0
    for mine, theirs in zip(one.gradients, other.gradients, strict=True):
        np.testing.assert_array_equal(mine, theirs)


def test_folder_without_cases_is_refused(tmp_path: Path):
    with pytest.raises(ValueError, match=mentions(tmp_path / "missing", "no folder")):
        find_cases(tmp_path / "missing")
    with pytest.raises(ValueError, match=mentions(tmp_path, "empty")):
        find_cases(tmp_path)
    np.savez(tmp_path / "criteria.npz", pred=np.zeros(3))
    with pytest.raises(ValueError, match=mentions(tmp_path, "criteria.npz")):
        find_cases(tmp_path)


def test_unreadable_case_is_named(tmp_path: Path):
    (tmp_path / "cut.npz").write_bytes(b"PK\x03\x04 and no more")
    with pytest.raises(ValueError, match=mentions("cut.npz")):
        find_cases(tmp_path)
