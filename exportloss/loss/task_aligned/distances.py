"""The distance term: how far the bins of a cell are from its target's four sides."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["distribution_focal_loss", "l1_of_distances"]

_BELOW_LAST_BIN = 1.01  # keeps the upper of the two bins within them


def distribution_focal_loss(logits: Tensor, wanted: Tensor) -> Tensor:
    """Compute the distribution focal loss, arXiv 2006.04388, equation 6, averaged over the sides.

    It is the cross-entropy with the two bins next to the wanted distance, each weighted by how near
    it is.

    Args:
        logits: (S, 4, R) logits of the bins, R >= 2.
        wanted: (S, 4) distances in cells, clamped to what two bins can express.

    Returns:
        (S,) losses, >= 0.
    """
    bins = logits.shape[2]
    places = torch.arange(bins, dtype=logits.dtype, device=logits.device)
    offset = places - wanted.clamp(0.0, bins - _BELOW_LAST_BIN)[..., None]  # (S, 4, R)
    near = torch.relu(1 - torch.maximum(offset, -offset))  # no Abs, see `graph_ops.minus_abs`
    shifted = logits - logits.detach().amax(dim=2, keepdim=True)
    log_sum = torch.log(torch.exp(shifted).sum(dim=2))
    return (log_sum - (near * shifted).sum(dim=2)).mean(dim=1)


def l1_of_distances(distances: Tensor, wanted: Tensor, fraction: Tensor) -> Tensor:
    """Compute the mean absolute error of four distances, as fractions of the image.

    Args:
        distances: (S, 4) predicted distances in cells.
        wanted: (S, 4) distances of the target's sides in cells.
        fraction: (S, 4) fraction of the image's width or height that a cell has.

    Returns:
        (S,) losses, >= 0.
    """
    error = distances - wanted
    return (torch.maximum(error, -error) * fraction).mean(dim=1)
