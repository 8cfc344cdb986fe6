"""Translated convolutions and max-pooling against torch, values and gradients."""

from __future__ import annotations

from functools import partial
from unittest import mock

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional

from exportloss.export.aten.convolutions import gradients as convolution_gradients
from exportloss.export.aten.to_onnx import to_onnx
from tests.support.graphs.portable_loss import open_session
from tests.support.graphs.translations import check_translation, randn

SIZES = st.tuples(st.integers(1, 9), st.integers(1, 9))
PAIRS = st.tuples(st.integers(1, 3), st.integers(1, 3))


@pytest.mark.parametrize("form", ["any", "gpu", "gpu-large"])
@settings(max_examples=60, deadline=None)
@given(
    size=SIZES,
    kernel=PAIRS,
    stride=st.one_of(PAIRS, st.integers(1, 3).map(lambda n: (n, n))),
    padding=st.tuples(st.integers(0, 2), st.integers(0, 2)),
    dilation=PAIRS,
    groups=st.sampled_from([(1, 1, 1), (1, 3, 2), (1, 5, 4), (2, 2, 1), (3, 1, 1), (4, 1, 2)]),
    bias=st.booleans(),
)
def test_convolution(*, form, size, kernel, stride, padding, dilation, groups, bias):
    reach = [d * (k - 1) + 1 for k, d in zip(kernel, dilation, strict=True)]
    assume(all(n + 2 * p >= r for n, p, r in zip(size, padding, reach, strict=True)))
    group_count, inputs, outputs = groups
    x = randn(2, group_count * inputs, *size)
    weight = randn(group_count * outputs, inputs, *kernel)

    def convolve(x: Tensor, weight: Tensor, *rest: Tensor) -> Tensor:
        return functional.conv2d(
            x, weight, *(rest or [None]), stride, padding, dilation, group_count
        )

    many = 1 if form == "gpu-large" else convolution_gradients._MANY_CELLS
    with mock.patch.object(convolution_gradients, "_MANY_CELLS", many):
        biases = [randn(group_count * outputs)] if bias else []
        check_translation(convolve, x, weight, *biases, provider="any" if form == "any" else "gpu")


@pytest.mark.parametrize(
    ("x", "weight", "function"),
    [
        ((1, 32, 8, 8), (32, 32, 3, 3), partial(functional.conv2d, padding=1)),
        ((1, 160, 10, 10), (24, 160, 1, 1), functional.conv2d),
        ((1, 64, 12, 12), (8, 32, 3, 3), partial(functional.conv2d, padding=1, groups=2)),
        ((8, 160), (100, 160), functional.linear),
    ],
)
def test_one_and_two_threads_give_the_same_bits(x, weight, function):
    tensors = [randn(*x), randn(*weight), randn(weight[0])]
    check_translation(function, *tensors)

    def compute(t: dict[str, Tensor]) -> dict[str, Tensor]:
        given = [tensor.detach().requires_grad_() for tensor in t.values()]
        out = function(*given)
        gradients = torch.autograd.grad(out.square().sum(), given)
        return {"out": out, "dx": gradients[0], "dw": gradients[1], "db": gradients[2]}

    named = dict(zip(("x", "weight", "bias"), tensors, strict=True))
    graph = to_onnx(compute, named, name="test")
    feed = {name: tensor.numpy() for name, tensor in named.items()}
    one, two = (open_session(graph, threads=threads).run(None, feed) for threads in (1, 2))
    for first, second in zip(one, two, strict=True):
        np.testing.assert_array_equal(first, second)


def test_convolution_is_one_node_unless_repeatable():
    x, weight = randn(1, 32, 8, 8), randn(32, 32, 3, 3)
    graphs = [
        to_onnx(
            lambda t: {"y": functional.conv2d(t["x"], t["w"], padding=1)},
            {"x": x, "w": weight},
            name="test",
            repeatable=repeatable,
        )
        for repeatable in (True, False)
    ]
    assert [any(n.op_type == "MatMul" for n in g.graph) for g in graphs] == [True, False]


@pytest.mark.filterwarnings("ignore:Using padding='same'")
@pytest.mark.parametrize("padding", ["same", "valid"])
def test_convolution_with_named_padding(padding: str):
    check_translation(
        lambda x, w: functional.conv2d(x, w, padding=padding), randn(1, 5, 6, 6), randn(2, 5, 4, 4)
    )


@settings(max_examples=30, deadline=None)
@given(
    size=SIZES,
    kernel=PAIRS,
    stride=PAIRS,
    dilation=PAIRS,
    padding=st.booleans(),
    ceil_mode=st.booleans(),
    ties=st.booleans(),
)
def test_max_pool(*, size, kernel, stride, dilation, padding, ceil_mode, ties):
    # torch itself writes out of bounds if a window contains only padding
    pads = tuple(k // 2 if padding and d == 1 else 0 for k, d in zip(kernel, dilation, strict=True))
    reach = [d * (k - 1) + 1 for k, d in zip(kernel, dilation, strict=True)]
    assume(all(n + 2 * p >= r for n, p, r in zip(size, pads, reach, strict=True)))
    x = randn(2, 3, *size)
    x = x.round() if ties else x  # the first of equal maxima gets the gradient
    check_translation(
        lambda x: functional.max_pool2d(x, kernel, stride, pads, dilation, ceil_mode=ceil_mode), x
    )


def test_max_pool_wider_than_the_map():
    check_translation(lambda x: functional.max_pool2d(x, 13, 1, 6), randn(1, 3, 2, 1))
