"""The update of the flat vectors, which for a large model holds the parts of few at a time."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from exportloss.export.step.chunks import Part, after
from exportloss.export.step.optimizers import UPDATES, Update, clip, spread
from exportloss.runtime.artifact.manifest import OptimizerName
from exportloss.runtime.optimizers.table import OPTIMIZERS

__all__ = ["updated"]


def updated(
    optimizer: OptimizerName,
    inputs: Mapping[str, Tensor],
    totals: Sequence[Tensor],
    parts: Sequence[Part],
    *,
    norm: Tensor,
    is_finite: Tensor,
) -> dict[str, Tensor]:
    """Return parameters, gradients, optimizer state and number of updates after a step.

    Args:
        optimizer: Name of the update rule.
        inputs: Settings and state by name.
        totals: Sum of the gradients, in the parts.
        parts: Parts of the vectors.
        norm: L2 norm of the sum.
        is_finite: Whether everything is, or the state stays as it is.
    """
    rule, kept = UPDATES[optimizer], [f"optimizer_{n}" for n in OPTIMIZERS[optimizer].state_names]
    update, updates = inputs["update"] & is_finite, inputs["updates"] + 1
    new: dict[str, Tensor] = {}
    untaken: list[Tensor] = []  # new state, of the last part

    def of_part(index: int, go: Tensor) -> Update:
        # Runtimes start what they can: nothing of an update may be computed, and wait in memory,
        # before the gradients and the previous part are there. An update of numbers that are not
        # finite is not taken anyway.
        rates, momentum, decay, max_norm = (
            torch.where(go, inputs[name], 0.0)
            for name in ("learning_rates", "momentum", "weight_decay", "max_norm")
        )
        part, sizes = parts[index]
        return Update(
            parameters=inputs["parameters"][part],
            gradient=clip(totals[index], norm, max_norm),
            rate=spread(rates.unbind(), sizes),
            decay=spread([decay, *torch.zeros(2).unbind()], sizes),
            momentum=momentum,
            updates=updates,
        )

    def state(index: int, go: Tensor) -> list[Tensor]:
        old = [inputs[name][parts[index][0]] for name in kept]
        untaken[:] = rule.state(of_part(index, go), old)
        return [torch.where(update, *pair) for pair in zip(untaken, old, strict=True)]

    def parameters(index: int, go: Tensor) -> list[Tensor]:
        # A step that changes the vectors in place has overwritten the old ones of the state.
        part = parts[index][0]
        now = dataclasses.replace(of_part(index, go), parameters=_again(inputs["parameters"], part))
        moments = untaken if len(parts) == 1 else [new[name][part] for name in kept]
        return [torch.where(update, rule.parameters(now, moments), now.parameters)]

    def gradients(index: int, go: Tensor) -> list[Tensor]:
        old = _again(inputs["gradients"], parts[index][0])
        return [torch.where(update, 0.0, torch.where(go, totals[index], old))]

    # One vector after the other, as the parts of each are there until it is complete.
    vectors: list[tuple[Sequence[str], Callable[[int, Tensor], list[Tensor]]]] = [
        (kept, state),
        (["parameters"], parameters),
        (["gradients"], gradients),
    ]
    go = is_finite
    for names, compute in vectors:
        found = []
        for index in range(len(parts)):
            found.append(compute(index, go))
            go = go if len(parts) == 1 else after(go, found[-1])
        for name, tensors in zip(names, zip(*found, strict=True), strict=True):
            new[name] = tensors[0] if len(parts) == 1 else torch.cat(tensors)
    return {**new, "updates": torch.where(update, updates, inputs["updates"])}


def _again(vector: Tensor, part: slice) -> Tensor:
    """Return a part of a vector in nodes of its own, so that it is not kept from its first use."""
    return vector.view(1, -1)[:, part].view(-1)
