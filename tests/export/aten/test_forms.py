"""Each form of an operator against torch, and the forms of each engine together."""

from __future__ import annotations

import dataclasses

import numpy as np
import onnx_ir as ir
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional

from exportloss.export.aten.forms import FORMS, Forms
from exportloss.export.aten.to_onnx import to_onnx
from tests.support.graphs.portable_loss import open_session
from tests.support.graphs.translations import check_translation, randn

CONVOLUTIONS = {
    "columns": Forms(columns=True),
    "stacked shifts": Forms(stacked_channels=1),
    "1x1 product": Forms(pointwise_product=True),
}
SETTINGS = st.tuples(
    st.integers(1, 3), st.integers(1, 2), st.integers(0, 2), st.integers(1, 2), st.integers(1, 2)
)


@pytest.mark.parametrize("provider", ["any", "cpu"])
@pytest.mark.parametrize("forms", CONVOLUTIONS.values(), ids=CONVOLUTIONS.keys())
@settings(max_examples=12, deadline=None)
@given(size=st.tuples(st.integers(3, 8), st.integers(3, 8)), numbers=SETTINGS)
def test_convolution(*, provider, forms, size, numbers):
    kernel, stride, padding, dilation, groups = numbers
    assume(min(size) + 2 * padding > dilation * (kernel - 1))
    x, weight = randn(2, 2 * groups, *size), randn(3 * groups, 2, kernel, kernel)

    def convolve(x: Tensor, weight: Tensor) -> Tensor:
        return functional.conv2d(x, weight, None, stride, padding, dilation, groups)

    check_translation(convolve, x, weight, provider=provider, forms=forms)


def operators(forms: Forms, function, *inputs: Tensor) -> list[str]:
    def compute(named: dict[str, Tensor]) -> dict[str, Tensor]:
        given = [tensor.detach().requires_grad_() for tensor in named.values()]
        gradients = torch.autograd.grad(function(*given).sum(), given)
        return {f"gradient_{i}": gradient for i, gradient in enumerate(gradients)}

    named = {f"input_{i}": tensor for i, tensor in enumerate(inputs)}
    return [node.op_type for node in to_onnx(compute, named, name="test", forms=forms).graph]


def test_each_form_of_a_convolution_is_written():
    def convolve(x: Tensor, weight: Tensor) -> Tensor:
        return functional.conv2d(x, weight, padding=weight.shape[-1] // 2)

    wide, narrow = (randn(1, 2, 8, 8), randn(2, 2, 3, 3)), (randn(1, 2, 8, 8), randn(2, 2, 1, 1))
    assert operators(Forms(), convolve, *wide).count("MatMul") == 9
    assert operators(Forms(columns=True), convolve, *wide).count("MatMul") == 2
    assert operators(Forms(stacked_channels=2), convolve, *wide).count("MatMul") == 1
    assert operators(Forms(stacked_channels=3), convolve, *wide).count("MatMul") == 9
    assert operators(Forms(), convolve, *narrow).count("MatMul") == 2


def test_max_pooling_scatters_by_axis_where_it_has_indices():
    def pool(x: Tensor) -> Tensor:
        return functional.max_pool2d(x, 5, 1, 2)

    x = randn(2, 3, 9, 9)
    told = operators(Forms(pool_indices=True), pool, x)
    assert (told.count("MaxPool"), told.count("ScatterElements")) == (2, 2)
    assert len(told) < len(operators(Forms(), pool, x)) / 4
    assert "ScatterElements" not in operators(Forms(), pool, x)


def test_max_pooling_of_what_is_not_a_number():
    # A step that diverges is skipped, so it has to come to its end, with a loss that is NaN.
    def compute(named: dict[str, Tensor]) -> dict[str, Tensor]:
        x = named["x"].detach().requires_grad_()
        out = functional.max_pool2d(x, 3, 1, 1)
        return {"out": out.detach(), "gradient": torch.autograd.grad(out.sum(), x)[0]}

    x = torch.full((2, 3, 4, 4), torch.nan)
    model = to_onnx(compute, {"x": x}, name="pool", forms=Forms(pool_indices=True))
    out, gradient = open_session(model).run(None, {"x": x.numpy()})
    assert np.isnan(out).any()  # not at every edge, in some versions
    assert gradient.shape == x.shape


class Normalized(nn.Module):
    """A convolution, a BatchNorm and an activation, between which factors move."""

    def __init__(self, *, affine: bool) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(4, affine=affine)

    def forward(self, x: Tensor, weight: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
        out = functional.conv2d(x, weight, padding=1)
        factors = (scale, shift) if self.norm.affine else (None, None)
        out = torch.native_batch_norm(out, *factors, None, None, True, 0.1, 1e-3)[0]
        return functional.silu(out) + 0 * scale.sum() + 0 * shift.sum()


@pytest.mark.parametrize("affine", [True, False])
@pytest.mark.parametrize(
    "forms",
    [
        Forms(folded_scale=True),
        Forms(folded_scale=True, normalization=True),
        Forms(sums="maps", tanh=True),
        Forms(sums="whole", late_derivatives=True, norms=True),
        *FORMS.values(),
    ],
    ids=["folded", "operator", "sums", "fused", *FORMS],
)
def test_normalization(forms: Forms, affine: bool):
    inputs = (randn(2, 3, 6, 5), randn(4, 3, 3, 3), randn(4) + 2, randn(4))
    check_translation(Normalized(affine=affine), *inputs, forms=forms, rtol=3e-5)


@settings(max_examples=25, deadline=None)
@given(
    kernel=st.integers(1, 5),
    stride=st.integers(1, 3),
    padding=st.integers(0, 2),
    dilation=st.integers(1, 2),
    ceil_mode=st.booleans(),
    size=st.tuples(st.integers(3, 9), st.integers(3, 9)),
)
def test_max_pool_gives_the_first_of_equal_maxima_the_gradient(
    *, kernel, stride, padding, dilation, ceil_mode, size
):
    assume(padding <= kernel // 2)
    assume(min(size) + 2 * padding > dilation * (kernel - 1))
    x = torch.round(randn(2, 3, *size))  # many equal values

    def pool(x: Tensor) -> Tensor:
        return functional.max_pool2d(x, kernel, stride, padding, dilation, ceil_mode=ceil_mode)

    check_translation(pool, x, forms=Forms(pool_indices=True))


def test_factors_of_joined_vectors_give_the_same_bits():
    def joined(*vectors: Tensor) -> Tensor:
        return torch.cat([v * f if f else v for v, f in zip(vectors, FACTORS, strict=True)])

    inputs = {f"input_{i}": randn(3 + i) for i in range(len(FACTORS))}
    results, counts = [], []
    for forms in (Forms(), Forms(joined_factors=True)):
        graph = to_onnx(
            lambda named: {"out": joined(*named.values())}, inputs, name="test", forms=forms
        )
        counts.append([node.op_type for node in graph.graph].count("Mul"))
        feed = {name: value.numpy() for name, value in inputs.items()}
        results.append(open_session(graph).run(None, feed)[0])
    np.testing.assert_array_equal(*results)
    assert counts == [5, 1]


FACTORS = (0.1, 0.0, 1 / 3, 7.0, 0.3, 1e-3)


def selection_graph(*, branch: bool) -> ir.Model:
    size = 20_000
    inputs = {
        "old": torch.zeros(size),
        "step": torch.zeros(size),
        "average": torch.zeros(size),
        "rate": torch.zeros(()),
        "is_finite": torch.tensor(True),
        "update": torch.tensor(True),
    }

    def select(named: dict[str, Tensor]) -> dict[str, Tensor]:
        update = named["update"] & named["is_finite"]
        new = torch.where(update, named["old"] - named["rate"] * named["step"], named["old"])
        kept = torch.where(named["is_finite"], named["step"], named["average"])
        average = named["average"] * 0.5 + new * 0.5
        return {
            "new": new,
            "left": torch.where(update, 0.0, kept),
            "moved": torch.where(update, average, named["average"]),
            "rest": named["step"] * 2,
        }

    return to_onnx(select, inputs, name="test", forms=Forms(branch=branch))


@pytest.mark.parametrize("update", [True, False])
@pytest.mark.parametrize("is_finite", [True, False])
def test_a_branch_gives_the_bits_of_selections(update: bool, is_finite: bool):
    rng = np.random.default_rng(0)
    feed = {n: rng.normal(size=20_000).astype(np.float32) for n in ("old", "step", "average")}
    if not is_finite:
        feed["step"][::3] = np.nan
    feed["rate"] = np.asarray(0.1, np.float32)
    feed |= {"update": np.asarray(update), "is_finite": np.asarray(is_finite)}
    graphs = [selection_graph(branch=branch) for branch in (False, True)]
    counts = [[node.op_type for node in graph.graph] for graph in graphs]
    assert (counts[0].count("Where"), counts[0].count("If")) == (4, 0)
    # The average depends on what the first branch gives; a selection moves into its other side.
    assert (counts[1].count("Where"), counts[1].count("If")) == (0, 2)
    expected, found = (open_session(graph).run(None, feed) for graph in graphs)
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_array_equal(one.view(np.uint32), other.view(np.uint32))


def test_graphs_for_any_engine_and_for_gpus_have_no_branch_and_no_other_normalization():
    for provider in ("any", "gpu"):
        assert not (FORMS[provider].branch or FORMS[provider].normalization)
    assert dataclasses.asdict(FORMS["gpu"]) == dataclasses.asdict(Forms())
