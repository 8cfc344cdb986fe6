"""Sparse updates: only chosen parameters of a detector are trained."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from fnmatch import fnmatchcase
from typing import cast

from torch import nn

from exportloss.errors import ConfigError, excerpt
from exportloss.models.freeze import FrozenBatchNorm2d, freeze
from exportloss.models.groups import parameter_groups
from exportloss.models.protocol import DetectorModel

__all__ = ["train_only"]

_LAST = re.compile(r"last-(\d{1,6})")


def train_only(model: nn.Module, update: str | Sequence[str]) -> None:
    """Choose the parameters of a model to train, in place; the others get `requires_grad=False`.

    Parameters that are frozen already stay frozen. A BatchNorm whose scale is not trained
    normalises by its running statistics, and keeps them (`FrozenBatchNorm2d`), even if its shift is
    trained: the scale belongs to the statistics that it divides by. One whose scale is trained
    normalises by the batch and updates its statistics, as in torch's training mode. With "bias",
    as in "On-Device Training Under 256KB Memory" (arXiv 2206.15472), a BatchNorm is thus part of
    the convolution before it.

    Args:
        model: Model; choose before building an optimizer over its parameters.
        update: "bias" for all biases, those of normalisation layers included; "norm" for these and
            the scales of normalisation layers; "last-K" for the last K of `model.layers()`; "all"
            for all parameters; or patterns of parameter names, with `*`, `?` and `[...]`.

    Raises:
        ConfigError: the choice is none of these, a pattern matches no parameter, there are no such
            layers, or nothing is left to train. The model is then unchanged.
    """
    if update == "all":
        return
    if isinstance(update, str) and (last := _LAST.fullmatch(update)):
        _train_last(model, int(last[1]))
        return
    chosen = _named(model, update) if isinstance(update, str) else _matching(model, update)
    left = [n for n, p in model.named_parameters() if p.requires_grad and n in chosen]
    if not left:
        raise ConfigError(
            f"update {_quoted(update)} leaves no parameter of {type(model).__name__} to train: "
            "what it chooses is frozen; choose others, or freeze less"
        )
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name in left)
    for owner, name, norm in list(_norms(model)):
        if not norm.weight.requires_grad:
            setattr(owner, name, FrozenBatchNorm2d(norm, train_bias=norm.bias.requires_grad))


def _train_last(model: nn.Module, count: int) -> None:
    if not callable(getattr(type(model), "layers", None)):
        raise ConfigError(
            f"update last-{count} needs a model with a method `layers`, got a "
            f"{type(model).__name__}; give patterns of parameter names instead"
        )
    layers = cast("DetectorModel", model).layers()
    if not layers:
        raise ConfigError(
            f"update last-{count} needs layers to count, but `layers` of this "
            f"{type(model).__name__} returns none; give patterns of parameter names instead"
        )
    if not 1 <= count <= len(layers):
        raise ConfigError(
            f"update got last-{count}; expected last-1 to last-{len(layers)}, as the model has "
            f"{len(layers)} layers"
        )
    freeze(cast("DetectorModel", model), len(layers) - count)


def _named(model: nn.Module, update: str) -> set[str]:
    groups = parameter_groups(model)
    chosen = {"bias": groups.biases, "norm": (*groups.norms, *groups.biases)}
    if update not in chosen:
        raise ConfigError(
            f"update got {_quoted(update)}; expected all, bias, norm, last-K such as last-3, or a "
            "sequence of patterns of parameter names"
        )
    return set(chosen[update])


def _matching(model: nn.Module, patterns: Sequence[str]) -> set[str]:
    names = [name for name, _ in model.named_parameters()]
    found = {one: {n for n in names if fnmatchcase(n, one)} for one in patterns}
    for pattern, matched in found.items():
        if not matched:
            raise ConfigError(
                f"update has the pattern {_quoted(pattern)}, which matches none of the "
                f"{len(names)} parameters, such as {names[0]!r}; correct it, or leave it out"
            )
    return set().union(*found.values())


def _norms(model: nn.Module) -> Iterator[tuple[nn.Module, str, nn.BatchNorm2d]]:
    for owner in model.modules():
        for name, child in owner.named_children():
            if isinstance(child, nn.BatchNorm2d) and child.affine:
                yield owner, name, child


def _quoted(update: object) -> str:
    return excerpt(repr(update))
