"""Operations written so that every runtime computes and differentiates them alike."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["log1p"]


def log1p(x: Tensor) -> Tensor:
    """log(1 + x) for x >= 0, accurate for small x, in operators that every runtime differentiates.

    ONNX has no Log1p, and a plain log(1 + x) loses x below the rounding of 1. That rounding
    error, `x - (y - 1)`, is exact in floating point; one Newton term puts it back. Its derivative
    is zero, so the gradient stays 1 / (1 + x).
    """
    y = 1 + x
    return torch.log(y) + (x - (y - 1)) / y
