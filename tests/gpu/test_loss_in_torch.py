"""The static loss on a GPU: the original's values, no wait for the host, captured and compiled."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from exportloss import LossConfig, YoloLoss, pad_targets

ANCHORS = (((10, 13), (16, 30), (33, 23)), ((30, 61), (62, 45), (59, 80)))
STRIDES, CLASSES, SLOTS, IMAGE = (8, 16), 3, 64, 64
OPTIONS: list[dict[str, Any]] = [
    {"autobalance": True},
    {"fl_gamma": 1.5, "label_smoothing": 0.1},
    {"sort_obj_iou": True},
]
RUNS = 10

Step = Callable[[Sequence[Tensor], Tensor], tuple[Tensor, ...]]


def make_loss(device: str, **options: Any) -> YoloLoss:
    return YoloLoss(ANCHORS, STRIDES, CLASSES, LossConfig(**options)).to(device)


def make_maps(device: str) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    shapes = [(2, 3, IMAGE // stride, IMAGE // stride, 5 + CLASSES) for stride in STRIDES]
    maps = [torch.randn(shape, generator=generator).to(device) for shape in shapes]
    return [level.requires_grad_() for level in maps]


def make_targets(device: str, count: int = 40) -> Tensor:
    rng = np.random.default_rng(count)
    ids = [rng.integers(0, 2, count), rng.integers(0, CLASSES, count)]
    rows = np.column_stack([*ids, rng.uniform(0, 1, (count, 4))])
    padded = pad_targets(rows, SLOTS, batch_size=2, num_classes=CLASSES)
    return torch.from_numpy(padded).to(device)


def step_of(loss: Callable[..., Any], balance: Tensor) -> Step:
    """Loss, items, balance and the gradients of the maps."""

    def step(maps: Sequence[Tensor], targets: Tensor) -> tuple[Tensor, ...]:
        value, items, new_balance = loss(maps, targets, balance)
        return value, items, new_balance, *torch.autograd.grad(value, maps)

    return step


def test_golden_values(device, golden_case):
    loss = golden_case.graph.make_loss().to(device)
    balance = torch.from_numpy(golden_case.initial_balance).to(device)
    for number, wanted in enumerate(golden_case.steps):
        maps = [torch.from_numpy(p).to(device).requires_grad_() for p in wanted.predictions]
        targets = torch.from_numpy(golden_case.padded(wanted)).to(device)
        value, items, balance = loss(maps, targets, balance)
        assert value.item() == pytest.approx(float(golden_case.loss[number]), rel=1e-5)
        np.testing.assert_allclose(
            items.cpu().numpy(), golden_case.items[number], rtol=1e-5, atol=1e-8
        )
        gradients = torch.autograd.grad(value, maps)
        for found, expected in zip(gradients, wanted.gradients, strict=True):
            error = np.linalg.norm(found.cpu().numpy() - expected)
            assert error <= 2e-4 * np.linalg.norm(expected)


@pytest.mark.parametrize("options", OPTIONS)
def test_the_host_is_never_waited_for(cuda, synchronisation_is_an_error, options):
    loss = make_loss(cuda, **options)
    step = step_of(loss, loss.initial_balance)
    maps, targets = make_maps(cuda), make_targets(cuda)
    step(maps, targets)  # libraries may wait where they are used for the first time
    synchronisation_is_an_error(step, maps, targets)


@pytest.mark.parametrize("options", OPTIONS)
def test_captured_as_a_graph(cuda, options):
    loss = make_loss(cuda, **options)
    step = step_of(loss, loss.initial_balance)
    maps, targets = make_maps(cuda), make_targets(cuda)
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            step(maps, targets)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, stream=side):
        captured = step(maps, targets)
    torch.cuda.current_stream().wait_stream(side)
    others = make_maps(cuda)  # whose gradients belong to the stream of the eager steps
    for count in (40, 0, SLOTS):
        targets.copy_(make_targets(cuda, count))
        graph.replay()
        for one, other in zip(captured, step(others, targets), strict=True):
            torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-8)


def test_compiled_with_cuda_graphs(cuda):
    loss = make_loss(cuda, autobalance=True)
    balance = loss.initial_balance
    compiled = torch.compile(loss, mode="reduce-overhead", fullgraph=True)
    maps = make_maps(cuda)
    for count in (40, 0, SLOTS):
        torch.compiler.cudagraph_mark_step_begin()
        found = step_of(compiled, balance)(maps, make_targets(cuda, count))
        expected = step_of(loss, balance)(maps, make_targets(cuda, count))
        for one, other in zip(found, expected, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("options", OPTIONS)
def test_same_bits_every_time(device, options):
    """Several targets may add to the gradient of one cell: torch is asked to keep their order."""
    loss = make_loss(device, **options)
    step = step_of(loss, loss.initial_balance)
    maps, targets = make_maps(device), make_targets(device, SLOTS)
    torch.use_deterministic_algorithms(True)
    try:
        first, *others = (step(maps, targets) for _ in range(RUNS))
    finally:
        torch.use_deterministic_algorithms(False)
    for other in others:
        for one, two in zip(first, other, strict=True):
            assert torch.equal(one, two)
