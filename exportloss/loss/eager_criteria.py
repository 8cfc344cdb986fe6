"""Criteria for classes and objectness in a YOLOv5 loss, besides plain BCE, as torch modules."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from exportloss.config import LossConfig

__all__ = ["BCEBlurWithLogitsLoss", "FocalLoss", "QFocalLoss", "make_criterion"]


class BCEBlurWithLogitsLoss(nn.Module):
    """Mean binary cross-entropy that mutes confident predictions without a label.

    Each element is scaled by `1 - exp((p - y - 1) / (alpha + 1e-4))` with p = sigmoid(pred): the
    factor is near 0 for p = 1 and y = 0, which is often a missing label.

    Args:
        alpha: Width of the muted range, > 0.
        pos_weight: Weight of positives, broadcastable to the predictions.
    """

    def __init__(self, alpha: float = 0.05, *, pos_weight: Tensor | None = None) -> None:
        super().__init__()
        self.loss_fcn = nn.BCEWithLogitsLoss(reduction="none", pos_weight=pos_weight)
        self.alpha = alpha

    def forward(self, pred: Tensor, true: Tensor) -> Tensor:
        """Return the mean loss of logits `pred` for targets `true` in [0, 1], of the same shape."""
        excess = pred.sigmoid() - true
        weight = 1 - torch.exp((excess - 1) / (self.alpha + 1e-4))
        loss: Tensor = self.loss_fcn(pred, true) * weight
        return loss.mean()


class _ModulatedLoss(nn.Module):
    """A criterion over logits whose elements are weighted by class and by the prediction's error.

    The wrapped module's `reduction` becomes "none"; its former value is applied at the end.
    """

    def __init__(
        self, loss_fcn: nn.BCEWithLogitsLoss, gamma: float = 1.5, alpha: float = 0.25
    ) -> None:
        super().__init__()
        self.loss_fcn = loss_fcn
        self.gamma = gamma
        self.alpha = alpha
        self.reduction = loss_fcn.reduction
        loss_fcn.reduction = "none"

    def _error(self, prob: Tensor, true: Tensor) -> Tensor:
        raise NotImplementedError

    def forward(self, pred: Tensor, true: Tensor) -> Tensor:
        """Return the loss of logits `pred` for targets `true` in [0, 1], of the same shape.

        The result is a scalar, or with reduction "none" of the shape of `pred`.
        """
        balance = true * self.alpha + (1 - true) * (1 - self.alpha)
        modulation = self._error(pred.sigmoid(), true) ** self.gamma
        loss: Tensor = self.loss_fcn(pred, true) * balance * modulation
        if self.reduction == "mean":
            return loss.mean()
        return loss.sum() if self.reduction == "sum" else loss


class FocalLoss(_ModulatedLoss):
    """Focal loss (arXiv 1708.02002, 3.2): a `BCEWithLogitsLoss` times `(1 - pt) ** gamma`.

    Args:
        loss_fcn: Criterion to wrap; its reduction ("mean", "sum", "none") becomes this module's.
        gamma: Focusing exponent, >= 0.
        alpha: Weight of positives, in [0, 1]; negatives have weight 1 - alpha.
    """

    def _error(self, prob: Tensor, true: Tensor) -> Tensor:
        return 1 - (true * prob + (1 - true) * (1 - prob))


class QFocalLoss(_ModulatedLoss):
    """Quality focal loss (arXiv 2006.04388, 3.2), for soft targets: BCE times `|y - p| ** gamma`.

    Args:
        loss_fcn: Criterion to wrap; its reduction ("mean", "sum", "none") becomes this module's.
        gamma: Focusing exponent, >= 0.
        alpha: Weight of positives, in [0, 1]; negatives have weight 1 - alpha.
    """

    def _error(self, prob: Tensor, true: Tensor) -> Tensor:
        return (true - prob).abs()


def make_criterion(config: LossConfig, pos_weight: Tensor) -> nn.Module:
    """Return the criterion that `config` names, with reduction "mean".

    Args:
        config: Options; `criterion`, `fl_gamma`, `focal_alpha` and `blur_alpha` are used.
        pos_weight: (1,) weight of positives, > 0.
    """
    if config.effective_criterion == "blur":
        return BCEBlurWithLogitsLoss(config.blur_alpha, pos_weight=pos_weight)
    bce = nn.BCEWithLogitsLoss(pos_weight=pos_weight)
    if config.effective_criterion == "bce":
        return bce
    wrap = QFocalLoss if config.effective_criterion == "qfocal" else FocalLoss
    return wrap(bce, config.fl_gamma, config.focal_alpha)
