"""Equal forms of operators, and which of them each engine computes fastest.

What suits one engine does not suit another, see docs/benchmarks.md, where each form is measured.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

from exportloss.runtime.artifact.manifest import StepProvider

__all__ = ["FORMS", "Forms"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Forms:
    """Which form of an operator a translation writes, where several compute the same.

    The defaults need no operator that an engine lacks and suit a GPU.

    Attributes:
        columns: Compute the weight gradient of a convolution of stride 1 from one product with the
            elements that each window covers, rather than one product per kernel element.
        few_cells: Largest map, in cells, for which a trained convolution is the product of its
            weight with these columns, which its weight gradient then shares; 0 for none.
        stacked_channels: Smallest number of channels for which the weight gradient of a 3 x 3
            convolution is one product of three shifts by column with three by row; 0 for none.
        pointwise_gradient: Compute the input gradient of a 1 x 1 convolution as a convolution.
        pointwise_product: Compute a trained 1 x 1 convolution as a product.
        flipped_rows: Fewest rows of a map for which the input gradient of a convolution of stride 1
            is a convolution with flipped weights, rather than a transposed one; 0 for none.
        folded_scale: Apply the scale of a BatchNorm to the weights of the convolution before it and
            to their gradient, rather than to the gradient of the map.
        normalization: Normalize with the inference form of BatchNormalization.
        sums_by_map: Sum over images and cells first within each map, rather than within each row.
        pool_by_place: Find the place of each maximum of a pooling window, and sum the gradients
            with a constant matrix, rather than place by place.
        joined_factors: Multiply vectors by constants after they are joined to one.
        tanh: Compute a sigmoid as 0.5 tanh(0.5 x) + 0.5.
        branch: Compute the update in a branch, rather than select the old state after it.
    """

    columns: bool = False
    few_cells: int = 0
    stacked_channels: int = 0
    pointwise_gradient: bool = False
    pointwise_product: bool = False
    flipped_rows: int = 0
    folded_scale: bool = False
    normalization: bool = False
    sums_by_map: bool = False
    pool_by_place: bool = False
    joined_factors: bool = False
    tanh: bool = False
    branch: bool = False


FORMS: Mapping[StepProvider, Forms] = {
    "any": Forms(folded_scale=True, sums_by_map=True, joined_factors=True),
    "cpu": Forms(
        columns=True,
        pointwise_gradient=True,
        folded_scale=True,
        normalization=True,
        sums_by_map=True,
        joined_factors=True,
        branch=True,
    ),
    "openvino": Forms(
        stacked_channels=64,
        pointwise_product=True,
        tanh=True,
    ),
    "gpu": Forms(),
}
