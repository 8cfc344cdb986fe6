"""BatchNorm that returns its running statistics instead of updating them in place."""

# ruff: noqa: PLR0917 - a signature is torch's
from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from torch.overrides import TorchFunctionMode

__all__ = ["BatchStatistics"]


class BatchStatistics(TorchFunctionMode):
    """Mode in which batch normalisation is pure and the new running statistics are collected.

    torch's own operator updates the running statistics in place, which a trace does not see.

    Args:
        running: Running means and variances by name. A batch normalisation in training mode that
            is called with one of these tensor objects updates its entry in `updated`.

    Attributes:
        updated: Statistics after the normalisations so far, by the same names.
    """

    def __init__(self, running: Mapping[str, Tensor]) -> None:
        super().__init__()
        self.updated = dict(running)
        self._names = {id(tensor): name for name, tensor in running.items()}

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Replace batch normalisation in training mode; call everything else unchanged."""
        if func is functional.batch_norm:
            return self._batch_norm(*args, **(kwargs or {}))
        return func(*args, **(kwargs or {}))

    def _batch_norm(
        self,
        x: Tensor,
        running_mean: Tensor | None,
        running_var: Tensor | None,
        weight: Tensor | None = None,
        bias: Tensor | None = None,
        training: bool = False,
        momentum: float = 0.1,
        eps: float = 1e-5,
    ) -> Tensor:
        if not training:
            return functional.batch_norm(
                x, running_mean, running_var, weight, bias, False, momentum, eps
            )
        axes = [axis for axis in range(x.dim()) if axis != 1]
        var, mean = torch.var_mean(
            x.detach(), axes, correction=1
        )  # torch's running variance is unbiased
        for running, batch in ((running_mean, mean), (running_var, var)):
            if (name := self._names.get(id(running))) is not None:
                self.updated[name] = self.updated[name] * (1 - momentum) + batch * momentum
        out: Tensor = torch.native_batch_norm(x, weight, bias, None, None, True, momentum, eps)[0]
        return out
