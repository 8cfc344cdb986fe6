"""A tracing mode that runs a network in half precision, with normalisation in float32."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from torch.overrides import TorchFunctionMode
from torch.utils import _pytree

__all__ = ["HalfPrecision"]

# Functions that a GPU computes in half precision with sums in float32.
_IN_HALF = {
    functional.conv1d,
    functional.conv2d,
    functional.conv3d,
    functional.linear,
    torch.matmul,
    torch.bmm,
    torch.mm,
    Tensor.matmul,
    Tensor.__matmul__,
}
# Functions that lose accuracy in half precision: sums over many values, and softmax.
_IN_FLOAT32 = {
    functional.batch_norm,
    functional.layer_norm,
    functional.group_norm,
    functional.instance_norm,
    functional.softmax,
}


class HalfPrecision(TorchFunctionMode):
    """Mode that runs convolutions and matrix products in a half type, normalisation in float32.

    Weights are cast where they are used, so that they and their gradients stay float32. All other
    functions keep the type of their arguments, which between convolutions is the half type. This is
    the mixed precision of Micikevicius et al. (arXiv 1710.03740) and of torch's autocast.

    Args:
        dtype: Half type, `torch.float16` or `torch.bfloat16`.
    """

    def __init__(self, dtype: torch.dtype) -> None:
        super().__init__()
        self._dtype = dtype

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Cast the arguments of the functions above, and the results of normalisations back."""
        kwargs = kwargs or {}
        if func in _IN_HALF:
            args, kwargs = _cast((args, kwargs), self._dtype)
            return func(*args, **kwargs)
        if func in _IN_FLOAT32:
            given = args[0].dtype
            args, kwargs = _cast((args, kwargs), torch.float32)
            return func(*args, **kwargs).to(given)
        return func(*args, **kwargs)


def _cast(arguments: Any, dtype: torch.dtype) -> Any:
    def cast(x: Tensor) -> Tensor:
        # Same type, same object: BatchStatistics recognises its tensors by identity.
        return x.to(dtype) if x.is_floating_point() and x.dtype != dtype else x

    return _pytree.tree_map_only(Tensor, cast, arguments)
