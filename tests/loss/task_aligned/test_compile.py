"""The static anchor-free loss under torch's compilers and tracers: one graph, whatever the data."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
import torch

from exportloss import TaskAlignedConfig, TaskAlignedLoss, pad_targets
from exportloss.loss.task_aligned.largest import largest_places
from exportloss.random_batches import draw_targets

STRIDES, CLASSES, SIZE, CAPACITY = (8, 16), 3, 64, 32


def make_maps(seed: int = 0) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    shapes = [(2, 64 + CLASSES, SIZE // s, SIZE // s) for s in STRIDES]
    return [torch.randn(shape, generator=generator).requires_grad_() for shape in shapes]


def make_targets(count: int) -> torch.Tensor:
    rows = draw_targets(np.random.default_rng(count), count, batch_size=2, num_classes=CLASSES)
    return torch.from_numpy(pad_targets(rows, CAPACITY, batch_size=2, num_classes=CLASSES))


def compute(loss, maps, targets) -> tuple[torch.Tensor, ...]:
    result = loss(maps, targets)
    return result.loss, result.terms, *torch.autograd.grad(result.loss, maps)


def assert_equal(got, want) -> None:
    for a, b in zip(got, want, strict=True):
        assert (a - b).norm() <= 1e-5 * b.norm()


@pytest.mark.parametrize(
    "backend",
    ["aot_eager", pytest.param("inductor", marks=pytest.mark.xdist_group("inductor"))],
)
def test_one_graph_for_any_number_of_targets(backend, request):
    if backend == "inductor":
        if request.config.getoption("compile_backend") != "inductor":
            pytest.skip("half a minute; pass --compile-backend inductor")
        if not (shutil.which("g++") or shutil.which("clang++")):
            pytest.skip("inductor needs a C++ compiler, and none is installed")
    torch.compiler.reset()
    loss, maps = TaskAlignedLoss(STRIDES, CLASSES), make_maps()
    compiled = torch.compile(loss, fullgraph=True, backend=backend)  # raises at a graph break
    for run, count in enumerate((1, 7, 32, 0)):
        # After the first call a recompilation is an error.
        with torch.compiler.set_stance("fail_on_recompile" if run else "default"):
            got = compute(compiled, maps, make_targets(count))
        assert_equal(got, compute(loss, maps, make_targets(count)))


@pytest.mark.parametrize(
    "options",
    [{}, {"topk": 7, "topk2": 1}, {"profile": "yolov9"}, {"profile": "8.3", "reg_max": 16}],
    ids=str,
)
def test_in_operators_that_gradient_builders_know(options, monkeypatch):
    loss, maps = TaskAlignedLoss(STRIDES, CLASSES, TaskAlignedConfig(**options)), make_maps()
    want = compute(loss, maps, make_targets(7))
    monkeypatch.setattr(torch.compiler, "is_exporting", lambda: True)
    assert_equal(compute(loss, maps, make_targets(7)), want)


def test_square_boxes_in_operators_that_gradient_builders_know(monkeypatch):
    """Of equal maps, as an untrained head gives, all predicted boxes are squares."""
    loss = TaskAlignedLoss(STRIDES, CLASSES)
    maps = [torch.zeros_like(level).requires_grad_() for level in make_maps()]
    want = compute(loss, maps, make_targets(7))
    monkeypatch.setattr(torch.compiler, "is_exporting", lambda: True)
    assert_equal(compute(loss, maps, make_targets(7)), want)


@pytest.mark.parametrize("reg_max", [16, 1])
def test_strict_export(reg_max):
    loss = TaskAlignedLoss(STRIDES, CLASSES, TaskAlignedConfig(reg_max=reg_max))
    maps = [level[:, : 4 * reg_max + CLASSES].detach() for level in make_maps()]
    program = torch.export.export(loss, (maps, make_targets(3)), strict=True)
    names = [str(node.target) for node in program.graph.nodes]
    words = ("nonzero", "aten.item", "_local_scalar", "cond", "exportloss")
    assert not [name for name in names if any(word in name for word in words)]
    got, want = (run(maps, make_targets(7)) for run in (program.module(), loss))
    torch.testing.assert_close(got.terms, want.terms, rtol=2e-6, atol=0)


@pytest.mark.parametrize("threads", [1, 2])
def test_two_runs_give_the_same_bits(threads):
    loss, maps = TaskAlignedLoss(STRIDES, CLASSES), make_maps()
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        runs = [compute(loss, maps, make_targets(CAPACITY)) for _ in range(2)]
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(a, b) for a, b in zip(*runs, strict=True))


def test_of_equal_values_the_first_is_taken():
    rng = np.random.default_rng(0)
    values = rng.integers(0, 4, (50, 300)).astype(np.float32) / 3
    values[0] = 0
    values[1] = -0.0
    got = largest_places(torch.from_numpy(values), 10)
    want = np.argsort(-values, axis=1, kind="stable")[:, :10]
    np.testing.assert_array_equal(got.numpy(), want)
