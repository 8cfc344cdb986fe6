"""Comparison of translated graphs with torch."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, nn

from exportloss.export.aten.forms import Forms
from exportloss.export.aten.to_onnx import to_onnx
from exportloss.runtime.artifact.manifest import StepProvider
from tests.support.graphs.portable_loss import open_session

__all__ = ["check_translation", "randn"]


def check_translation(
    function: Callable[..., Tensor],
    *inputs: Tensor,
    modules: nn.Module | None = None,
    provider: StepProvider = "any",
    forms: Forms | None = None,
    rtol: float = 1e-5,
) -> None:
    """Assert that value and gradients of a function of float tensors equal those of its graph."""
    weights: list[Tensor] = []

    def compute(named: dict[str, Tensor]) -> dict[str, Tensor]:
        given = [tensor.detach().requires_grad_() for tensor in named.values()]
        out = function(*given)
        if not weights:
            weights.append(torch.randn(tuple(out.shape), generator=torch.Generator()))
        gradients = torch.autograd.grad((out * weights[0]).sum(), given)
        return {"out": out, **{f"gradient_{i}": g for i, g in enumerate(gradients)}}

    named = {f"input_{i}": tensor for i, tensor in enumerate(inputs)}
    expected = compute(named)
    session = open_session(
        to_onnx(
            compute,
            named,
            name="test",
            modules={"": modules} if modules else None,
            provider=provider,
            forms=forms,
        )
    )
    got = session.run(None, {name: tensor.numpy() for name, tensor in named.items()})
    for value, (name, want) in zip(got, expected.items(), strict=True):
        reference = want.detach().numpy()
        assert value.shape == reference.shape, name
        # Terms are around 1, so their rounding errors remain even if a sum cancels to near 0.
        scale = max(float(np.abs(reference).max(initial=0)), 0.05)
        np.testing.assert_allclose(value, reference, rtol=rtol, atol=rtol * scale, err_msg=name)


def randn(*shape: int) -> Tensor:
    """Return normal numbers that depend only on the shape."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape)))
