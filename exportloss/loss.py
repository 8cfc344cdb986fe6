"""The YOLOv5 training loss with fixed shapes: it traces, exports and compiles."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from exportloss.balance import MAX_LEVELS, initial_balance
from exportloss.boxes import ciou_of_logits
from exportloss.config import LossConfig
from exportloss.criteria import ElementwiseCriterion, make_criterion
from exportloss.errors import ConfigError
from exportloss.matching import Slots, match

__all__ = ["YoloLoss"]

_REFERENCE_STRIDE = 16  # autobalance keeps this level's weight at 1
_SMALLEST_OBJECTNESS = 1e-12  # keeps autobalance finite when a level's loss underflows


@dataclasses.dataclass(frozen=True)
class _Terms:
    """Scalar terms of one level, before gains."""

    box: Tensor
    objectness: Tensor
    category: Tensor


class YoloLoss(nn.Module):
    """YOLOv5's loss (v6.2, v7.0) over padded targets.

    The same values and gradients as the original's, with a fixed number of target rows, masks
    instead of filters and no control flow that depends on data. A cell claimed by several rows
    has the winner that the original has on one thread, on every device and thread count. Loss
    and gradients are finite for every finite input.

    Args:
        anchors: (nl, na, 2) width and height in input pixels, nl in 2 to 5, fine to coarse.
        strides: (nl,) input pixels per cell.
        num_classes: classes of the model, >= 1; one class has no class term.
        config: options and gains.

    Raises:
        ConfigError: anchors, strides and config do not fit together.
    """

    anchors: Tensor  # (nl, na, 2), in cells
    strides: Tensor  # (nl,)
    initial_balance: Tensor  # (nl,)

    def __init__(
        self,
        anchors: Tensor | Sequence[Sequence[Sequence[float]]],
        strides: Tensor | Sequence[float],
        num_classes: int,
        config: LossConfig | None = None,
    ) -> None:
        super().__init__()
        self.config = config or LossConfig()
        self.num_classes = num_classes
        anchors_px = torch.as_tensor(anchors, dtype=torch.float32).detach()
        pixels = torch.as_tensor(strides, dtype=torch.float32).detach()
        levels = _check_levels(anchors_px, pixels, num_classes)
        if self.config.autobalance and _REFERENCE_STRIDE not in pixels.tolist():
            raise ConfigError(
                f"autobalance needs a level of stride {_REFERENCE_STRIDE}, "
                f"got strides {pixels.tolist()}; turn autobalance off"
            )
        self._reference_level = (
            pixels.tolist().index(_REFERENCE_STRIDE) if self.config.autobalance else 0
        )
        balance = torch.tensor(initial_balance(levels))
        self.register_buffer("anchors", anchors_px / pixels[:, None, None], persistent=False)
        self.register_buffer("strides", pixels, persistent=False)
        self.register_buffer("initial_balance", balance, persistent=False)
        self._score_class = make_criterion(self.config, pos_weight=self.config.cls_pw)
        self._score_objectness = make_criterion(self.config, pos_weight=self.config.obj_pw)

    def forward(
        self, predictions: Sequence[Tensor], targets: Tensor, balance: Tensor | None = None
    ) -> tuple[Tensor, Tensor] | tuple[Tensor, Tensor, Tensor]:
        """Compute the loss of a batch.

        Args:
            predictions: one (B, na, H, W, 5 + nc) a level, raw: logits of x, y, w, h, objectness
                and classes.
            targets: (max_targets, 6) from `pad_targets`.
            balance: (nl,) objectness weights: `initial_balance` in the first step, afterwards
                what the step before returned. Required with `autobalance`.

        Returns:
            loss: scalar, (box + objectness + class) * B.
            items: (3,) box, objectness, class, with gains, before * B, detached.
            balance: (nl,), only where one was given: the weights for the next step.
        """
        self._check(predictions, balance)
        weights = self.initial_balance if balance is None else balance
        batch_size = predictions[0].shape[0]
        terms = [self._level(i, level, targets) for i, level in enumerate(predictions)]
        box = torch.stack([level.box for level in terms]).sum() * self.config.box
        objectness = torch.stack([level.objectness for level in terms])  # (nl,)
        weighted = (objectness * weights).sum() * self.config.obj
        category = torch.stack([level.category for level in terms]).sum() * self.config.cls
        loss = (box + weighted + category) * batch_size
        items = torch.stack((box, weighted, category)).detach()
        if balance is None:
            return loss, items
        return loss, items, self._next_balance(balance, objectness.detach())

    def _level(self, index: int, predictions: Tensor, targets: Tensor) -> _Terms:
        batch_size, _, height, width, channels = predictions.shape
        anchors = self.anchors[index]
        slots = match(
            targets,
            anchors,
            batch_size=batch_size,
            grid=(height, width),
            num_classes=self.num_classes,
            anchor_t=self.config.anchor_t,
        )
        # The loss is computed in float32 at least, whatever the network computes in.
        dtype = torch.promote_types(predictions.dtype, torch.float32)
        rows = predictions.reshape(-1, channels).index_select(0, slots.row.flatten()).to(dtype)
        matched = slots.weight > 0  # (S, na, M)
        # A slot that matches nothing becomes a harmless row before anything is divided:
        # NaN times a weight of 0 is NaN, in the backward pass too.
        rows = torch.where(matched[..., None], rows.reshape(*slots.row.shape, channels), 0.0)
        box_target = torch.where(matched[..., None], slots.box, 1.0)  # (S, na, M, 4)

        ciou = ciou_of_logits(rows[..., :4], anchors[:, None], box_target)  # (S, na, M)
        count = slots.weight.sum().clamp(min=1)  # padding enters no denominator
        category = predictions.new_zeros((), dtype=dtype)
        if self.num_classes > 1:
            wanted = _class_targets(targets[:, 1], self.num_classes, self.config.label_smoothing)
            scores = self._score_class(rows[..., 5:], wanted.to(dtype))  # (S, na, M, nc)
            weighted = (slots.weight[..., None] * scores).sum()
            category = weighted / (count * self.num_classes)
        return _Terms(
            box=(slots.weight * (1 - ciou)).sum() / count,
            objectness=_objectness(
                predictions[..., 4].reshape(-1).to(dtype),
                slots,
                ciou.detach(),
                self._score_objectness,
                self.config,
            ),
            category=category,
        )

    def _next_balance(self, balance: Tensor, objectness: Tensor) -> Tensor:
        if not self.config.autobalance:
            return balance.clone()
        inverse = 0.0001 / objectness.clamp(min=_SMALLEST_OBJECTNESS)
        updated = balance * 0.9999 + inverse
        reference = self._reference_level
        return updated / updated[reference : reference + 1]

    def _check(self, predictions: Sequence[Tensor], balance: Tensor | None) -> None:
        """Check what is known without looking at data; a traced graph has none of this."""
        levels, na = self.anchors.shape[:2]
        expected = f"(B, {na}, H, W, {5 + self.num_classes})"
        if len(predictions) != levels:
            raise ConfigError(f"got {len(predictions)} prediction maps, expected {levels}")
        for i, level in enumerate(predictions):
            if level.ndim != 5 or level.shape[1] != na or level.shape[4] != 5 + self.num_classes:
                raise ConfigError(
                    f"prediction map {i} has shape {tuple(level.shape)}, expected {expected}"
                )
        if self.config.autobalance and balance is None:
            raise ConfigError(
                "autobalance is on, so the objectness weights are state: pass balance "
                "(`initial_balance` first, then what the last call returned)"
            )


def _objectness(
    logits: Tensor,
    slots: Slots,
    ciou: Tensor,
    criterion: ElementwiseCriterion,
    config: LossConfig,
) -> Tensor:
    """Mean criterion of all cells against the IoU of the row that wins the cell, else 0.

    Args:
        logits: (B * na * H * W,) objectness logits.
        slots: matches of the level.
        ciou: (S, na, M) detached.
        criterion: element-wise.
        config: `gr` and `sort_obj_iou` are read.
    """
    matched = slots.weight > 0
    row = slots.row.flatten()
    score = (1 - config.gr) + config.gr * torch.relu(ciou)
    if not config.sort_obj_iou:
        # The last of YOLOv5's rows wins. A maximum does not depend on the order of writing,
        # unlike a plain write to duplicate indices.
        order = torch.where(matched, slots.order, 0).flatten()
        last = torch.zeros_like(logits, dtype=torch.int64).scatter_reduce(0, row, order, "amax")
        matched = matched & (last.index_select(0, row) == order).reshape(matched.shape)
    # All that remain in a cell are equal, or the largest IoU is wanted.
    scores = torch.where(matched, score, 0.0).flatten()
    wanted = torch.zeros_like(logits).scatter_reduce(0, row, scores, "amax")
    return criterion(logits, wanted).mean()


def _class_targets(category: Tensor, num_classes: int, smoothing: float) -> Tensor:
    """Smoothed one-hot rows: 1 - eps / 2 at the class, eps / 2 elsewhere.  # (M, nc)"""
    is_class = torch.arange(num_classes, device=category.device) == category.long()[:, None]
    return torch.where(is_class, 1 - smoothing / 2, smoothing / 2)


def _check_levels(anchors_px: Tensor, strides: Tensor, num_classes: int) -> int:
    if anchors_px.ndim != 3 or anchors_px.shape[2] != 2:
        raise ConfigError(f"anchors have shape {tuple(anchors_px.shape)}, expected (nl, na, 2)")
    levels = anchors_px.shape[0]
    if not 2 <= levels <= MAX_LEVELS:
        raise ConfigError(f"got anchors for {levels} levels, expected 2 to {MAX_LEVELS}")
    if strides.shape != (levels,):
        raise ConfigError(f"strides have shape {tuple(strides.shape)}, expected ({levels},)")
    if not (anchors_px > 0).all() or not (strides > 0).all():
        raise ConfigError("anchors and strides must be above 0, in input pixels")
    if num_classes < 1:
        raise ConfigError(f"num_classes is {num_classes}, expected at least 1")
    return levels
