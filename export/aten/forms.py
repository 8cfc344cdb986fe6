"""Equal forms of operators, and which of them each engine computes fastest.

What suits one engine does not suit another, see docs/benchmarks.md, where each form is measured.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Literal

from exportloss.runtime.artifact.manifest import StepProvider

__all__ = ["FORMS", "Forms"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Forms:
    """Which form of an operator a translation writes, where several compute the same.

    The defaults need no operator that an engine lacks and suit a GPU.

    Attributes:
        columns: Compute the weight gradient of a convolution of stride 1 from one product with the
            elements that each window covers, rather than one product per kernel element.
        stacked_channels: Smallest number of channels for which the weight gradient of a 3 x 3
            convolution is one product of three shifts by column with three by row; 0 for none.
        pointwise_product: Compute a trained 1 x 1 convolution as a product.
        folded_scale: Apply the scale of a BatchNorm to the weights of the convolution before it and
            to their gradient, rather than to the gradient of the map.
        normalization: Normalize with the inference form of BatchNormalization.
        sums: How to sum over images and cells: first within each row, first within each map, or
            at once. An engine that adds one number after the other loses digits the latter way.
        pool_indices: Let max-pooling tell the place of each maximum, and scatter its gradient
            there, rather than compare place by place.
        joined_factors: Multiply vectors by constants after they are joined to one.
        tanh: Compute a sigmoid as 0.5 tanh(0.5 x) + 0.5.
        late_derivatives: Bring the gradient into the derivative of an activation early, so that an
            engine that fuses operators keeps nothing of the derivative from the forward pass.
        norms: Compute a variance from the L2 norm of the deviations, not from their squares.
        branch: Compute the update in a branch, rather than select the old state after it.
    """

    columns: bool = False
    stacked_channels: int = 0
    pointwise_product: bool = False
    folded_scale: bool = False
    normalization: bool = False
    sums: Literal["rows", "maps", "whole"] = "rows"
    pool_indices: bool = False
    joined_factors: bool = False
    tanh: bool = False
    late_derivatives: bool = False
    norms: bool = False
    branch: bool = False


FORMS: Mapping[StepProvider, Forms] = {
    "any": Forms(folded_scale=True, sums="maps", joined_factors=True),
    "cpu": Forms(
        columns=True,
        folded_scale=True,
        normalization=True,
        sums="whole",
        pool_indices=True,
        joined_factors=True,
        branch=True,
    ),
    "openvino": Forms(
        stacked_channels=64,
        pointwise_product=True,
        tanh=True,
        late_derivatives=True,
        norms=True,
    ),
    "gpu": Forms(),
}
