"""Operations written so that all runtimes compute and differentiate them alike."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

__all__ = ["log1p", "minus_abs", "sigmoid", "sigmoid_of_exp", "softplus", "softplus_sum", "total"]


def log1p(x: Tensor) -> Tensor:
    """Compute log(1 + x) for x >= 0, accurate for small x, in differentiable ONNX operators.

    ONNX has no Log1p, and log(1 + x) loses an x below the rounding error of 1 + x. That error,
    `x - (y - 1)`, is exact in floating point, and one Newton term corrects for it. The derivative
    of the term is zero, so the gradient stays 1 / (1 + x).
    """
    y = 1 + x
    return torch.log(y) + (x - (y - 1)) / y


def minus_abs(x: Tensor) -> Tensor:
    """Compute -|x| without Abs, which OpenVINO may apply in place though others still read x."""
    return torch.minimum(x, -x)


def sigmoid(x: Tensor) -> Tensor:
    """Compute 1 / (1 + exp(-x)), value and gradient accurate to float32 precision for every x.

    The Sigmoid of ONNX Runtime's CPU provider is less accurate: its relative error is 2e-4 at -8
    and 0.5 at -16, in the range of a trained detector's background.
    """
    if torch.compiler.is_exporting():  # gradient builders know elementary operators only
        return sigmoid_of_exp(x, torch.exp(x - 2 * torch.relu(x)))
    apply: Callable[[Tensor], Tensor] = _Sigmoid.apply
    return apply(x)


def sigmoid_of_exp(x: Tensor, e: Tensor) -> Tensor:
    """Compute the sigmoid of x from e = exp(-|x|)."""
    # exp(min(x, 0)), which is e or 1; Where is many times slower in ONNX Runtime.
    return torch.exp(x - torch.relu(x)) / (1 + e)


class _Sigmoid(torch.autograd.Function):
    """The sigmoid with the derivative s(x) s(-x), which has no cancellation."""

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


def total(x: Tensor) -> Tensor:
    """Compute the sum of a vector, (1,): joined to others without another operator."""
    return x.sum(dim=0, keepdim=True)


def softplus(x: Tensor) -> Tensor:
    """Compute log(1 + exp(x)), accurate also where it is small."""
    positive = torch.relu(x)
    return positive + log1p(torch.exp(x - 2 * positive))


def softplus_sum(x: Tensor) -> Tensor:
    """Compute the sum of log(1 + exp(x)) of a vector, (1,), with the derivative sigmoid(x)."""
    if torch.compiler.is_exporting():  # gradient builders know elementary operators only
        return total(softplus(x))
    apply: Callable[[Tensor], Tensor] = _SoftplusSum.apply
    return apply(x)


class _SoftplusSum(torch.autograd.Function):
    """`softplus_sum` in as few passes as possible."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        positive = torch.relu(x)
        negative = x - positive
        e = torch.exp(negative - positive)
        y = 1 + e
        ctx.save_for_backward(negative, y)
        # log(1 + e) in the form of `log1p`; the second term matters only where y is close to 1.
        return total(torch.log(y)) + total(e - (y - 1)) + total(positive)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        negative: Tensor
        y: Tensor
        (negative, y), (gradient,) = ctx.saved_tensors, gradients
        return torch.exp(negative) / y * gradient
