"""YOLOv5's three optimizer groups: weight decay is for the weights of convolutions only."""

from __future__ import annotations

import dataclasses

from torch import nn

__all__ = ["ParameterGroups", "parameter_groups"]

_NORMS = (
    nn.BatchNorm1d,
    nn.BatchNorm2d,
    nn.BatchNorm3d,
    nn.SyncBatchNorm,
    nn.InstanceNorm1d,
    nn.InstanceNorm2d,
    nn.InstanceNorm3d,
    nn.GroupNorm,
    nn.LayerNorm,
    nn.RMSNorm,
)


@dataclasses.dataclass(frozen=True)
class ParameterGroups:
    """Names of the trainable parameters by how they are optimized, each in the model's order.

    Attributes:
        weights: weights of convolutions, linear layers and whatever is neither of the others;
            weight decay applies to these alone.
        norms: weights (scales) of normalisation layers.
        biases: every `bias`, those of normalisation layers included.
    """

    weights: tuple[str, ...]
    norms: tuple[str, ...]
    biases: tuple[str, ...]


def parameter_groups(model: nn.Module) -> ParameterGroups:
    """Sort the parameters of any model that have `requires_grad` into YOLOv5's groups.

    Every one of them is in exactly one group; a parameter that two layers share is listed once,
    under the name that `named_parameters` gives it.

    Args:
        model: model of any kind, not only a detector.
    """
    weights, norms, biases = [], [], []
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        owner, _, leaf = name.rpartition(".")
        if leaf == "bias":
            biases.append(name)
        elif isinstance(model.get_submodule(owner), _NORMS):
            norms.append(name)
        else:
            weights.append(name)
    return ParameterGroups(tuple(weights), tuple(norms), tuple(biases))
