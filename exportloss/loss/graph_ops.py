"""Operations written so that every runtime computes and differentiates them alike."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

__all__ = ["log1p", "minus_abs", "sigmoid", "sigmoid_of_exp"]


def log1p(x: Tensor) -> Tensor:
    """log(1 + x) for x >= 0, accurate for small x, in operators that every runtime differentiates.

    ONNX has no Log1p, and a plain log(1 + x) loses x below the rounding of 1. That rounding
    error, `x - (y - 1)`, is exact in floating point; one Newton term puts it back. Its derivative
    is zero, so the gradient stays 1 / (1 + x).
    """
    y = 1 + x
    return torch.log(y) + (x - (y - 1)) / y


def minus_abs(x: Tensor) -> Tensor:
    """-|x| without Abs, which OpenVINO may compute in place where another operator reads x."""
    return torch.minimum(x, -x)


def sigmoid(x: Tensor) -> Tensor:
    """1 / (1 + exp(-x)), right to float32 for every x, and so is its gradient.

    The Sigmoid of ONNX Runtime's CPU provider is not: its relative error is 2e-4 at -8 and 0.5 at
    -16, where a trained detector's background lies.
    """
    if torch.compiler.is_exporting():  # for a gradient builder that knows elementary operators
        return sigmoid_of_exp(x, torch.exp(x - 2 * torch.relu(x)))
    apply: Callable[[Tensor], Tensor] = _Sigmoid.apply
    return apply(x)


def sigmoid_of_exp(x: Tensor, e: Tensor) -> Tensor:
    """The sigmoid of x, where e = exp(-|x|) is known."""
    return torch.where(x > 0, 1.0, e) / (1 + e)


class _Sigmoid(torch.autograd.Function):
    """With its derivative, s(x) s(-x), in which nothing cancels."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        e = torch.exp(minus_abs(x))
        ctx.save_for_backward(e)
        return sigmoid_of_exp(x, e)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        e: Tensor
        (e,), (gradient,) = ctx.saved_tensors, gradients
        y = 1 + e
        return gradient * (e / (y * y))
