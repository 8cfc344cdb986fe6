"""YOLOv5's three optimizer groups; weight decay applies to one of them only."""

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
    """Names of the trainable parameters by optimizer group, each in the model's order.

    Attributes:
        weights: Weights of convolutions, linear layers and all else that is in no other group;
            weight decay applies to this group only.
        norms: Weights (scales) of normalisation layers.
        biases: Biases of all layers, including normalisation layers.
    """

    weights: tuple[str, ...]
    norms: tuple[str, ...]
    biases: tuple[str, ...]


def parameter_groups(model: nn.Module) -> ParameterGroups:
    """Sort the parameters with `requires_grad` of any model into YOLOv5's groups.

    Each is in exactly one group. A parameter that two layers share is listed once, under its name
    in `named_parameters`.

    Args:
        model: Model of any kind, not only a detector.
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
