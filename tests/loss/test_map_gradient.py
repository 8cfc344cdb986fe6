"""The gradient of a map that was read sparsely: what it is, and both ways to write it in ONNX."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from exportloss.export.aten.to_onnx import to_onnx
from exportloss.loss.levels import HeadOutput, PermutedMap
from exportloss.loss.map_gradient import map_gradient
from exportloss.loss.shared_cells import SharedCells
from exportloss.runtime.artifact.manifest import LossProvider
from tests.support.graphs.portable_loss import open_session

SHAPES = st.tuples(*(st.integers(1, most) for most in (3, 3, 5, 7)))  # B, na, H, W


def draw(shape: tuple[int, ...], outputs: int, count: int, seed: int) -> dict[str, Tensor]:
    """Few boxes, so that some are read more than once."""
    generator = torch.Generator().manual_seed(seed)
    boxes = int(np.prod(shape))
    return {
        "objectness": torch.randn(boxes, generator=generator),
        "box": torch.randint(0, max(1, boxes // 2), (count,), generator=generator),
        "rows": torch.randn(count, outputs, generator=generator),
    }


def laid_out(shape: tuple[int, ...], outputs: int, *, permuted: bool) -> tuple[int, ...]:
    batch, na, height, width = shape
    return (*shape, outputs) if permuted else (batch, na * outputs, height, width)


def reference(inputs: dict[str, Tensor], shape: tuple[int, ...], *, permuted: bool) -> Tensor:
    """By the definition, a box after the other, in float64."""
    boxes = torch.zeros(int(np.prod(shape)), inputs["rows"].shape[1], dtype=torch.float64)
    boxes[:, 4] = inputs["objectness"].double()
    for box, row in zip(inputs["box"].tolist(), inputs["rows"].double(), strict=True):
        boxes[box] += row
    boxes = boxes.reshape(*shape, -1)
    return boxes if permuted else boxes.movedim(-1, 2).flatten(1, 2)


def graph_of(
    inputs: dict[str, Tensor], shape: tuple[int, ...], *, provider: LossProvider
) -> ir.Model:
    def compute(given: dict[str, Tensor]) -> dict[str, Tensor]:
        return {"gradient": map_gradient(*given.values(), shape)}

    return to_onnx(compute, inputs, name="gradient", provider=provider)


@pytest.mark.parametrize("provider", ["any", "cpu"])
@pytest.mark.parametrize("permuted", [False, True])
@settings(max_examples=40, deadline=None)
@given(
    shape=SHAPES,
    outputs=st.integers(6, 12),
    count=st.integers(1, 40),
    seed=st.integers(0, 2**31),
    threads=st.sampled_from([1, 2]),
)
def test_every_way_gives_the_sum(*, shape, outputs, count, seed, threads, permuted, provider):
    inputs = draw(shape, outputs, count, seed)
    wanted = reference(inputs, shape, permuted=permuted)
    layout = laid_out(shape, outputs, permuted=permuted)
    assert wanted.shape == layout
    in_torch = map_gradient(*inputs.values(), layout)
    session = open_session(graph_of(inputs, layout, provider=provider), threads=threads)
    (in_onnx,) = session.run(None, {name: value.numpy() for name, value in inputs.items()})
    for got in (in_torch.numpy(), in_onnx):
        np.testing.assert_allclose(got, wanted.numpy(), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("permuted", [False, True])
def test_one_pass_where_only_a_cpu_is_to_run_it(permuted):
    shape = (2, 3, 8, 8)
    inputs = draw(shape, 9, 20, seed=0)
    layout = laid_out(shape, 9, permuted=permuted)
    operators = {
        provider: [node.op_type for node in graph_of(inputs, layout, provider=provider).graph]
        for provider in ("any", "cpu")
    }
    assert "MaxUnpool" not in operators["any"]
    assert operators["cpu"][-2:] == ["MaxUnpool", "Identity"]  # nothing that copies follows


def test_more_rows_than_the_map_has_room_for_are_scattered():
    shape = (1, 1, 2, 2)
    inputs = draw(shape, 6, 50, seed=0)
    operators = [node.op_type for node in graph_of(inputs, (*shape, 6), provider="cpu").graph]
    assert "MaxUnpool" not in operators


@pytest.mark.parametrize("permuted", [False, True])
def test_it_is_the_gradient_of_reading(permuted):
    shape, outputs = (2, 3, 4, 5), 7
    source = torch.randn(laid_out(shape, outputs, permuted=permuted), dtype=torch.float64)
    level = PermutedMap if permuted else HeadOutput
    more = () if permuted else (3,)
    image, cell = torch.tensor([0, 1, 1, 0]), torch.tensor([[3, 19, 19, 3], [0, 5, 5, 6]])

    shared = SharedCells(torch.tensor([3, 2, 2, 3, 4, 6, 6, 7]))  # last slot of each one's cell

    def read(source: Tensor) -> tuple[Tensor, Tensor]:
        rows, objectness = level(source, *more).read(image, cell, shared)
        return shared.read(rows[None])[0], objectness

    assert torch.autograd.gradcheck(read, source.requires_grad_())
    boxes = source if permuted else source.unflatten(1, (3, outputs)).movedim(2, -1)
    rows, objectness = read(source)
    assert torch.equal(objectness, boxes[..., 4].flatten())
    for slot, place in np.ndindex(2, 4):
        at = boxes[image[place]].flatten(1, 2)[:, cell[slot, place]]  # (na, no)
        assert torch.equal(rows[:, slot, place], at)
