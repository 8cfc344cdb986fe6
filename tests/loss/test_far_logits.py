"""Right to float32 where a trained detector's logits lie, far from 0, in torch and in graphs."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from exportloss.export.aten.to_onnx import to_onnx
from exportloss.loss.criteria import bce_with_logits
from exportloss.loss.graph_ops import sigmoid
from tests.support.graphs.portable_loss import open_session

# At -87 float32 begins to lose digits of its smallest numbers.
LOGITS = torch.cat([torch.linspace(-80, 80, 3201), torch.tensor([-1e-6, 0.0, 1e-6])])


@dataclasses.dataclass(frozen=True)
class Case:
    """A function of logits, and its value and slope in float64, by the sigmoids of x and -x."""

    function: Callable[[Tensor], Tensor]
    value: Callable[[Any, Any], Any]
    slope: Callable[[Any, Any], Any]
    slope_atol: float = 0.0

    def exact(self) -> tuple[NDArray[Any], NDArray[Any]]:
        x = LOGITS.double().numpy()
        p, q = 1 / (1 + np.exp(-x)), 1 / (1 + np.exp(x))
        return self.value(p, q), self.slope(p, q)


def minus_log(p: Any, q: Any) -> Any:
    """-log p, where q = 1 - p."""
    return np.where(q < 0.5, -np.log1p(-np.minimum(q, 0.5)), -np.log(p))


CASES = {
    "sigmoid": Case(sigmoid, value=lambda p, q: p, slope=lambda p, q: p * q),
    **{
        f"background, positives weigh {weight}": Case(
            lambda x, w=weight: bce_with_logits(x, torch.zeros_like(x), pos_weight=w),
            value=lambda p, q: minus_log(q, p),
            slope=lambda p, q: p,
        )
        for weight in (1.0, 2.5)
    },
    **{
        f"objects, which weigh {weight}": Case(
            lambda x, w=weight: bce_with_logits(x, torch.ones_like(x), pos_weight=w),
            value=lambda p, q, w=weight: w * minus_log(p, q),
            slope=lambda p, q, w=weight: -w * q,
            slope_atol=2e-7 * weight,  # p - 1, as torch computes it
        )
        for weight in (1.0, 2.5)
    },
}


def value_and_slope(function: Callable[[Tensor], Tensor], x: Tensor) -> dict[str, Tensor]:
    x = x.detach().requires_grad_()
    value = function(x)
    return {"value": value.detach(), "slope": torch.autograd.grad(value.sum(), x)[0]}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_values_and_slopes(case):
    graph = to_onnx(
        lambda named: value_and_slope(case.function, named["x"]), {"x": LOGITS}, name="test"
    )
    assert not {node.op_type for node in graph.graph} & {"Abs", "Sigmoid"}
    in_onnx = open_session(graph).run(None, {"x": LOGITS.numpy()})
    in_torch = value_and_slope(case.function, LOGITS).values()
    value, slope = case.exact()
    for got in (in_onnx, [tensor.numpy() for tensor in in_torch]):
        np.testing.assert_allclose(got[0], value, rtol=1e-6, atol=0)
        np.testing.assert_allclose(got[1], slope, rtol=1e-6, atol=case.slope_atol)


@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_what_is_no_number_stays_so(case):
    x = torch.tensor([torch.nan])
    graph = to_onnx(lambda named: {"value": case.function(named["x"])}, {"x": x}, name="test")
    assert np.isnan(open_session(graph).run(None, {"x": x.numpy()})[0]).all()
    assert case.function(x).isnan().all()
