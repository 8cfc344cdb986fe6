"""The static loss under torch's compilers: one graph, whatever the data."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
import torch

from exportloss import LossConfig, YoloLoss, pad_targets

ANCHORS = (((10, 13), (16, 30), (33, 23)), ((30, 61), (62, 45), (59, 80)))
STRIDES = (8, 16)
SLOTS = 64


def make_predictions():
    generator = torch.Generator().manual_seed(0)
    return [
        torch.randn(2, 3, 64 // s, 64 // s, 8, generator=generator).requires_grad_()
        for s in STRIDES
    ]


def make_targets(count: int) -> torch.Tensor:
    rng = np.random.default_rng(count)
    rows = np.column_stack(
        [rng.integers(0, 2, count), rng.integers(0, 3, count), rng.uniform(0, 1, (count, 4))]
    )
    return torch.tensor(pad_targets(rows, SLOTS, batch_size=2, num_classes=3))


def make_loss(**options) -> YoloLoss:
    return YoloLoss(ANCHORS, STRIDES, 3, LossConfig(**options))


@pytest.fixture(params=["aot_eager", "inductor"])
def backend(request):
    if request.param == "inductor" and not (shutil.which("g++") or shutil.which("clang++")):
        pytest.skip("inductor needs a C++ compiler, and none is installed")
    torch.compiler.reset()
    return request.param


def test_one_graph_for_any_number_of_targets(backend):
    loss, predictions = make_loss(autobalance=True), make_predictions()
    compiled = torch.compile(loss, fullgraph=True, backend=backend)  # raises at a graph break
    for run, count in enumerate((1, 7, 64, 0)):
        # After the first call a recompilation is an error.
        with torch.compiler.set_stance("fail_on_recompile" if run else "default"):
            got = compiled(predictions, make_targets(count), loss.initial_balance)
            gradients = torch.autograd.grad(got[0], predictions)
        want = loss(predictions, make_targets(count), loss.initial_balance)
        for a, b in zip(got, want, strict=True):
            torch.testing.assert_close(a, b, rtol=2e-6, atol=0)
        for a, b in zip(gradients, torch.autograd.grad(want[0], predictions), strict=True):
            assert (a - b).norm() <= 1e-5 * b.norm()


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"sort_obj_iou": True, "gr": 0.5, "label_smoothing": 0.1},
        {"criterion": "qfocal", "fl_gamma": 1.5},
        {"criterion": "blur"},
    ],
)
def test_strict_export(options):
    loss, predictions = make_loss(**options), make_predictions()
    program = torch.export.export(loss, (predictions, make_targets(3)), strict=True)
    words = ("nonzero", "aten.item", "_local_scalar", "cond")
    dynamic = [
        node.target
        for node in program.graph.nodes
        if any(word in str(node.target) for word in words)
    ]
    assert dynamic == []
    got, want = (run(predictions, make_targets(7)) for run in (program.module(), loss))
    for a, b in zip(got, want, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-6, atol=0)


@pytest.mark.parametrize("threads", [1, 2])
def test_two_runs_give_the_same_bits(threads):
    """Many rows in few cells, so that the winner and the order of sums both matter."""
    loss, predictions = make_loss(), make_predictions()
    rng = np.random.default_rng(0)
    rows = np.column_stack([np.zeros((64, 2)), rng.uniform(0.4, 0.6, (64, 4))])
    rows[:, 1] = rng.integers(0, 3, 64)
    targets = torch.tensor(pad_targets(rows, SLOTS, batch_size=2, num_classes=3))
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        runs = []
        for _ in range(2):
            value, items = loss(predictions, targets)
            runs.append((value, items, *torch.autograd.grad(value, predictions)))
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(a, b) for a, b in zip(*runs, strict=True))
