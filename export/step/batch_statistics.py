"""BatchNorm that returns its running statistics instead of updating them in place."""

# ruff: noqa: PLR0917 - a signature is torch's
from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from exportloss.export.step.flat_state import flatten, unflatten
from exportloss.runtime.artifact.flat_layout import FlatLayout

__all__ = ["BatchStatistics"]


class BatchStatistics(TorchFunctionMode):
    """Mode in which batch normalisation is pure and the new running statistics are collected.

    torch's own operator updates the running statistics in place, which a trace does not see.

    Args:
        running: Running means and variances by name. A batch normalisation in training mode that
            is called with one of these tensor objects adds to `batches`.

    Attributes:
        batches: Name, momentum and batch statistic of each update so far, in order.
    """

    def __init__(self, running: Mapping[str, Tensor]) -> None:
        super().__init__()
        self.batches: list[tuple[str, float, Tensor]] = []
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
                self.batches.append((name, momentum, batch))
        out: Tensor = torch.native_batch_norm(x, weight, bias, None, None, True, momentum, eps)[0]
        return out

    def updated(self, layout: FlatLayout, statistics: Tensor) -> Tensor:
        """Return the running statistics after all updates, as the flat vector of their layout.

        Args:
            layout: Names and shapes of the running statistics.
            statistics: Their values before the updates, (S,).
        """
        momenta = {momentum for _, momentum, _ in self.batches}
        batch = {name: tensor for name, _, tensor in self.batches}
        if len(self.batches) == len(layout.names) == len(batch) and len(momenta) == 1:
            (momentum,) = momenta  # all at once, rather than a few nodes a layer
            return statistics * (1 - momentum) + flatten(layout, batch) * momentum
        values = unflatten(layout, statistics)
        for name, momentum, tensor in self.batches:
            values[name] = values[name] * (1 - momentum) + tensor * momentum
        return flatten(layout, values)
